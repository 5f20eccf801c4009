"""Classes by the user's choice: from sub-folders, from a CSV, or none.

What was asked for has to be there: labels that are incomplete or contradict each other are errors.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, printable
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.machine import is_of_machine
from realness.data_pipeline.sources.common import MAX_ENTRY_BYTES
from realness.data_pipeline.sources.labels import MAX_CLASSES

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Folders that are parts of a data set, not classes."""
_WITH_FOLDERS = ("folder", "zip", "tar", "packed")


def choose_labels(catalog: Catalog, choice: str) -> None:
    """Replaces the catalog's labels; see SourceOptions for the choices.

    Raises DataError if an image has no class, or if the classes cannot be read.
    """
    if choice == "auto":
        return
    if choice == "none":
        catalog.relabel(None)
    elif choice == "folders":
        _number(catalog, _folders(catalog), choice)
    else:
        _number(catalog, _from_csv(catalog, Path(choice)), choice)


def _folders(catalog: Catalog) -> list[str]:
    """The class of each image: the first folder of its name below the folder of all images."""
    if catalog.kind not in _WITH_FOLDERS:
        raise DataError(
            f"--labels=folders needs images in folders, but {catalog.source} is opened as "
            f"{catalog.kind}; leave --labels at auto, or give a CSV"
        )
    names = [catalog.name(index) for index in range(len(catalog))]
    if catalog.kind == "tar":
        names = [name[_shard_prefix(name) :] for name in names]
    names = below_common_folder(names)
    without = [name for name in names if "/" not in name]
    if without:
        raise DataError(
            f"--labels=folders, but {len(without):,} of the {len(names):,} images in "
            f"{catalog.source} lie in no folder of a class; the first is {without[0]!r}. Move them "
            "into one, or give a CSV of all names and classes"
        )
    classes = [name.partition("/")[0] for name in names]
    found = sorted(set(classes))
    if len(found) > 1 and SPLITS.issuperset(name.lower() for name in found):
        raise DataError(
            f"--labels=folders, but the folders in {catalog.source} are the parts "
            f"{', '.join(found)} of a set, not classes; give one of them, such as "
            f"{catalog.source}/{found[0]}"
        )
    return classes


def _shard_prefix(name: str) -> int:
    """Length of the shard's own name, which begins the names of images in several shards."""
    first = name.partition("/")[0]
    return len(first) + 1 if first.endswith(".tar") else 0


def below_common_folder(names: Sequence[str]) -> list[str]:
    """The names relative to the deepest folder that holds all of them and nothing but folders.

    `set/train/cat/1.png` and `set/train/dog/2.png` become `cat/1.png` and `dog/2.png`. Images of a
    single folder keep it, because it is then their class.
    """
    folders = {name.rpartition("/")[0] for name in names}
    first, last = min(folders).split("/"), max(folders).split("/")
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    if len(folders) == 1:
        same = max(0, len(first) - 1)
    length = sum(len(part) + 1 for part in first[:same])
    return [name[length:] for name in names]


def _from_csv(catalog: Catalog, path: Path) -> list[str]:
    """The class of each image in a CSV of names and classes."""
    rows = _read_rows(path)
    names = [catalog.name(index) for index in range(len(catalog))]
    known = set(names)
    # Names may also be relative to the folder of all images, as in dataset.json.
    if not known.intersection(rows):
        names = below_common_folder(names)
        known = set(names)
    missing = [name for name in names if not rows.get(name)]
    if missing:
        raise DataError(
            f"--labels={path} has no class for {len(missing):,} of the {len(names):,} images in "
            f"{catalog.source}; the first is {missing[0]!r}. Names are relative to the source"
        )
    unused = [name for name in list(rows)[1:] if name not in known]  # the first may be a heading
    if unused:
        catalog.notes.append(
            f"{len(unused):,} rows of {path} name no image of {catalog.source}; the first is "
            f"{printable(unused[0])}"
        )
    return [rows[name] for name in names]


def _read_rows(path: Path) -> Mapping[str, str]:
    """Classes by name, in the order of the file."""
    try:
        if path.stat().st_size > MAX_ENTRY_BYTES:
            raise DataError(f"--labels={path} has {path.stat().st_size:,} bytes: it is no CSV")
        text = path.read_bytes().decode("utf-8-sig")
        table = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except OSError as error:
        if is_of_machine(error):
            raise
        raise DataError(
            f"--labels={path} cannot be read ({error.strerror}); give auto, folders, none, or a "
            "CSV with the columns name and class"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"--labels={path} is not a CSV in UTF-8 ({error})") from error
    rows: dict[str, str] = {}
    for row in table:
        if len(row) != 2:
            raise DataError(
                f"--labels={path} has a row of {len(row)} columns, {row[0]!r}; it needs the "
                "columns name and class, with a comma between them"
            )
        name, label = row[0].strip(), row[1].strip()
        if rows.setdefault(name, label) != label:
            raise DataError(f"--labels={path} gives {name!r} the classes {rows[name]} and {label}")
    return rows


def _number(catalog: Catalog, classes: Sequence[str], choice: str) -> None:
    """Gives the catalog these classes: whole numbers as they are, names in sorted order."""
    if choice != "folders" and all(map(_is_number, set(classes))):
        catalog.relabel(np.array([int(label) for label in classes], np.int32))
        return
    found = sorted(set(classes))
    numbers = {name: number for number, name in enumerate(found)}
    labels = np.array([numbers[name] for name in classes], np.int32)
    catalog.relabel(labels, tuple(map(printable, found)))


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) < 8 and int(label) < MAX_CLASSES


def checked_names(names: Iterable[object], num_classes: int) -> tuple[str, ...]:
    """Class names from a file, or none if they are not the names of at least these classes."""
    found = list(names)
    if len(found) < num_classes or not all(isinstance(name, str) for name in found):
        return ()
    return tuple(printable(str(name)) for name in found)
