"""The images that `invert` searches latents of, read as `prepare` reads them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realness.data_pipeline import IMAGE_SUFFIXES, BadImage, Catalog, DataError, open_catalog
from realness.data_pipeline.prepare.convert import Conversion, convert


@dataclass(frozen=True)
class Targets:
    """Images uint8 [N, 3, R, R], with their names."""

    pixels: NDArray[np.uint8]
    names: list[str]


def read_targets(source: Path, settings: Conversion, most: int) -> Targets:
    """The first `most` usable images of a source, or the one image in a file.

    settings: those of the conversion to raw pixels. What cannot be used is named on stderr. Raises
    DataError if the source cannot be opened, or if none of its images can be used.
    """
    side, found, names, refused = settings.resolution, [], [], 0
    images = _one_file(source) if _is_one_image(source) else _of_catalog(source)
    for name, read in images:
        try:
            pixels = read(settings)
        except BadImage as error:
            refused += 1
            print(f"{name} {error}; it is left out", file=sys.stderr)
            continue
        found.append(np.frombuffer(pixels, np.uint8).reshape(side, side, 3).transpose(2, 0, 1))
        names.append(name)
        if len(found) == most:
            break
    if not found:
        raise DataError(
            f"none of the {refused:,} images in {source} can be used, for the reasons above"
        )
    return Targets(np.stack(found), names)


Entry = tuple[str, Callable[[Conversion], bytes]]
"""The name of an image, and a function that reads and converts it."""


def _is_one_image(source: Path) -> bool:
    return source.is_file() and source.suffix.lower() in IMAGE_SUFFIXES


def _one_file(source: Path) -> Iterator[Entry]:
    def read(settings: Conversion) -> bytes:
        try:
            return convert(source.read_bytes(), settings)
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error.strerror}") from error

    yield source.name, read


def _of_catalog(source: Path) -> Iterator[Entry]:
    with closing(open_catalog(source)) as catalog:
        for number in range(len(catalog)):
            name = "".join(c if c.isprintable() else "?" for c in catalog.name(number))
            yield name, partial(_convert_entry, catalog, number)


def _convert_entry(catalog: Catalog, number: int, settings: Conversion) -> bytes:
    return convert(catalog.read(number), settings, catalog.raw)
