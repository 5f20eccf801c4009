"""Checks of shards and of every image's header before training starts."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from realness.data_pipeline.catalog import Catalog, Shard, printable
from realness.data_pipeline.errors import BadImage, DataError
from realness.data_pipeline.headers import HeaderIncomplete, read_header
from realness.data_pipeline.machine import patiently
from realness.data_pipeline.order import parts_of_rank, ranks_of_part

logger = logging.getLogger("realness.data")
DEFAULT_MAX_BAD_IMAGES = 100
# A larger share of images of another size is not an accident but a set of mixed sizes.
_MAX_STRAY_SHARE = 0.01
_FIRST_READ_BYTES = 4096
_PIECE = 256

Size = tuple[int, int]


def check_images(
    catalog: Catalog,
    resolution: int,
    *,
    max_bad_images: int = DEFAULT_MAX_BAD_IMAGES,
    num_threads: int = 8,
    level: int = logging.WARNING,
) -> None:
    """Reads every header (not the pixels) and raises DataError unless the set can be trained on.

    Raises DataError if images have another resolution or mixed sizes, or if more than
    max_bad_images cannot be used. Up to that number are logged by name at `level`; a stream
    replaces them without logging them again. Raw pixels and images that prepare validated are
    not read.
    """
    if catalog.raw is not None:
        _, height, width = catalog.raw.shape
        if (height, width) != (resolution, resolution):
            size = f"{width}" if width == height else f"{width}x{height}"
            raise DataError(_wrong_resolution(catalog, size, resolution))
        return
    if catalog.resolution is not None:
        if catalog.resolution != resolution:
            raise DataError(_wrong_resolution(catalog, f"{catalog.resolution}", resolution))
        return
    sizes: Counter[Size] = Counter()
    bad: list[tuple[int, str]] = []
    strays: list[tuple[int, Size]] = []
    for index, result in _inspect(catalog, num_threads):
        if isinstance(result, str):
            bad.append((index, result))
            continue
        sizes[result] += 1
        if result != (resolution, resolution):
            strays.append((index, result))
    _check_sizes(catalog, resolution, sizes, len(strays), max_bad_images, bad)
    bad += [(index, f"is {w}x{h}, not {resolution}x{resolution}") for index, (w, h) in strays]
    for index, reason in sorted(bad):
        catalog.report_bad(index, reason, level=level)


def check_shards(catalog: Catalog, rank: int = 0, world_size: int = 1) -> None:
    """Raises DataError unless the shards that a rank reads are on this node and complete.

    Shards of parts that only other ranks read may be missing. Only prepared sets have shards.
    """
    num_parts = catalog.num_parts
    problems: dict[int, str] = {}
    for shard in catalog.shards:
        if shard.part not in problems and (problem := _shard_problem(shard)):
            problems[shard.part] = problem
    missing = [part for part in parts_of_rank(rank, world_size, num_parts) if part in problems]
    if not missing:
        return
    problem, host = problems[missing[0]], socket.gethostname()
    if num_parts == 1:
        raise DataError(f"{problem} on {host}; copy it here, or prepare the set again")

    def listed(parts: Sequence[int]) -> str:
        return ", ".join(
            f"part {part} (read by {describe_readers(part, world_size, num_parts)})"
            for part in parts
        )

    remedy = "copy the missing parts here"
    if here := [part for part in range(num_parts) if part not in problems]:
        remedy += f", or start the nodes in the order of their parts: this node has {listed(here)}"
    if world_size % num_parts:
        remedy += f", or start a multiple of {num_parts} ranks, which read one part each"
    raise DataError(
        f"{problem} on {host}; of the {num_parts} parts this rank needs {listed(missing)}; {remedy}"
    )


def _shard_problem(shard: Shard) -> str:
    try:
        num_bytes = patiently(lambda: shard.path.stat().st_size, str(shard.path))
    except OSError as error:
        return f"{shard.path} cannot be read ({error.strerror})"
    if num_bytes < shard.num_bytes:
        return f"{shard.path} is cut short ({num_bytes:,} bytes instead of {shard.num_bytes:,})"
    return ""


def describe_readers(part: int, world_size: int, num_parts: int) -> str:
    """The ranks that read a part, in words."""
    ranks = ranks_of_part(part, world_size, num_parts)
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


def _check_sizes(
    catalog: Catalog,
    resolution: int,
    sizes: Counter[Size],
    num_strays: int,
    max_bad_images: int,
    bad: list[tuple[int, str]],
) -> None:
    remedy = _remedy(catalog, resolution)
    num_good = sizes[resolution, resolution]
    if len(sizes) == 1 and not num_good:
        width, height = next(iter(sizes))
        raise DataError(_wrong_resolution(catalog, f"{width}x{height}", resolution))
    if num_strays > min(max_bad_images, _MAX_STRAY_SHARE * len(catalog)):
        counts = ", ".join(f"{n} of {w}x{h}" for (w, h), n in sizes.most_common(5))
        more = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
        raise DataError(
            f"the images in {catalog.source} have mixed sizes ({counts}{more}), training needs "
            f"resolution={resolution}; {remedy}"
        )
    num_bad = len(bad) + num_strays
    if num_bad > max_bad_images or not num_good:
        index, reason = bad[0]
        raise DataError(
            f"{num_bad} of the {len(catalog)} images in {catalog.source} cannot be trained on "
            f"(max_bad_images={max_bad_images}); the first is {printable(catalog.name(index))}: "
            f"{reason}; {remedy}"
        )


def _wrong_resolution(catalog: Catalog, found: str, wanted: int) -> str:
    return (
        f"the images in {catalog.source} have resolution {found}, training needs "
        f"resolution={wanted}; {_remedy(catalog, wanted)}"
    )


def _remedy(catalog: Catalog, resolution: int) -> str:
    return f"run `{catalog.prepare_command(resolution)}` and train on OUT"


def _inspect(catalog: Catalog, num_threads: int) -> Iterator[tuple[int, Size | str]]:
    """(index, size or problem) for every image."""
    starts = range(0, len(catalog), _PIECE)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="realness-check") as pool:
        yield from (
            found
            for piece in pool.map(lambda start: _inspect_piece(catalog, start), starts)
            for found in piece
        )


def _inspect_piece(catalog: Catalog, start: int) -> list[tuple[int, Size | str]]:
    stop = min(start + _PIECE, len(catalog))
    return [(index, _inspect_one(catalog, index)) for index in range(start, stop)]


def _inspect_one(catalog: Catalog, index: int) -> Size | str:
    limit = _FIRST_READ_BYTES
    try:
        while True:
            data = catalog.read_head(index, limit)
            try:
                header = read_header(data)
                return header.width, header.height
            except HeaderIncomplete as error:
                if len(data) < limit:
                    raise BadImage(f"truncated inside its header ({len(data)} bytes)") from error
                limit = max(2 * limit, error.needed)
    except BadImage as error:
        return str(error)
