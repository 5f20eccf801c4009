"""A folder of image files, searched recursively."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.machine import machine_error, patiently, read_fully
from realness.data_pipeline.sources.common import is_image_name, stylegan_labels, unsafe_size


class FileReader:
    """Entries that are separate files under one root."""

    def __init__(self, root: Path, names: NameTable) -> None:
        self._root = os.fspath(root)
        self._names = names
        self._was_read = np.zeros(len(names), bool)

    def read(self, index: int, limit: int | None = None) -> bytes:
        path = os.path.join(self._root, self._names[index])
        try:
            data = patiently(lambda: self._read(path, limit), path)
        except OSError as error:
            if self._was_read[index] and isinstance(error, PermissionError):
                raise machine_error(error, path) from error
            if isinstance(error, FileNotFoundError):
                self._check_root(error)
                reason = "the file is missing (it was there when the set was opened)"
                raise BadImage(reason) from error
            raise BadImage(f"the file cannot be read: {error.strerror}") from error
        self._was_read[index] = True
        return data

    def _read(self, path: str, limit: int | None) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if reason := unsafe_size(size):
                raise BadImage(reason)
            return read_fully(descriptor, size if limit is None else min(size, limit), 0)
        finally:
            os.close(descriptor)

    def _check_root(self, error: OSError) -> None:
        """Raises MachineError if not one file but the whole folder is gone, or is now empty."""
        if not os.path.isdir(self._root) or not os.listdir(self._root):
            raise machine_error(error, self._root) from error

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
