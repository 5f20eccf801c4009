"""A folder of image files, searched recursively."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.sources.common import is_image_name, stylegan_labels, unsafe_size


class FileReader:
    """Entries that are separate files under one root."""

    def __init__(self, root: Path, names: NameTable) -> None:
        self._root = os.fspath(root)
        self._names = names

    def read(self, index: int, limit: int | None = None) -> bytes:
        try:
            with open(os.path.join(self._root, self._names[index]), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if reason := unsafe_size(size):
                    raise BadImage(reason)
                return file.read(size if limit is None else limit) or b""
        except FileNotFoundError as error:
            raise BadImage("the file is missing (it was there when the set was opened)") from error
        except OSError as error:
            raise BadImage(f"the file cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """No-op: no file is held open."""


def open_folder(root: Path) -> Catalog:
    """The images under a folder, sorted by name. See open_catalog.

    Symbolic links are followed only to targets inside the folder; others are rejected.
    """
    refused: list[tuple[str, str]] = []
    found = sorted(_walk(root, refused))
    names = [name for name, _ in found]
    labels_file = root / "dataset.json"
    text = labels_file.read_bytes() if labels_file.is_file() else None
    table = NameTable.of(names)
    return Catalog(
        source=str(root),
        kind="folder",
        names=table,
        lengths=np.array([size for _, size in found], np.int64),
        reader=FileReader(root, table),
        labels=stylegan_labels(text, names, str(root)),
        refused=refused,
    )


def _walk(root: Path, refused: list[tuple[str, str]]) -> Iterator[tuple[str, int]]:
    """(name, bytes) of every image file, names relative to the root."""
    real_root = os.path.realpath(root)
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_symlink() and not _stays_inside(entry, real_root):
                    if is_image_name(name) or entry.is_dir():
                        refused.append((name, "it is a symbolic link that leaves the folder"))
                    continue
                if _leads_nowhere(entry):
                    refused.append((name, "it is a symbolic link that leads back to itself"))
                elif entry.is_dir():
                    # A link to a folder inside the root only repeats files that are found anyway.
                    if not entry.is_symlink():
                        pending.append(f"{name}/")
                # Skip pipes and sockets: opening one would block forever.
                elif is_image_name(name) and (entry.is_file() or not os.path.exists(entry.path)):
                    yield name, _size(entry)


def _stays_inside(entry: os.DirEntry[str], real_root: str) -> bool:
    target = os.path.realpath(entry.path)
    return target == real_root or target.startswith(real_root.rstrip("/") + "/")


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether a link is part of a loop; a link whose target is gone is not."""
    try:
        entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return False


def _size(entry: os.DirEntry[str]) -> int:
    """Size of a file in bytes; 0 for a link whose target is gone, which reading then reports."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
