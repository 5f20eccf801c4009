"""A folder of image files, searched recursively."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.formats import SNIFF_BYTES
from realness.data_pipeline.machine import is_of_machine, machine_error, patiently, read_fully
from realness.data_pipeline.sources.common import unsafe_size
from realness.data_pipeline.sources.labels import read_labels
from realness.data_pipeline.sources.listing import HIDDEN_FILES, Listing, is_skipped

_SNIFF_THREADS = 16  # on network file systems, opening a file takes milliseconds
_PIECE = 256
_SPECIAL = "pipes and devices"
_BROKEN_LINK = {
    errno.ENOENT: "whose target does not exist",
    errno.ELOOP: "that leads back to itself",
}


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor of a file, which is closed at the end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
        with _opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            if reason := unsafe_size(size):
                raise BadImage(reason)
            return read_fully(descriptor, size if limit is None else min(size, limit), 0)

    def _check_root(self, error: OSError) -> None:
        """Raises MachineError if not one file but the whole folder is gone, or is now empty."""
        if not os.path.isdir(self._root) or not any(os.scandir(self._root)):
            raise machine_error(error, self._root) from error

    def close(self) -> None:
        """No-op: no file is held open."""


@dataclass
class FolderFiles:
    """The files under a folder: images as (name, bytes), sorted by name, and the rest."""

    images: list[tuple[str, int]] = field(default_factory=list)
    listing: Listing = field(default_factory=Listing)


def open_folder(root: Path, files: FolderFiles) -> Catalog:
    """The images under a folder, which list_files has listed. See open_catalog."""
    names = [name for name, _ in files.images]
    table = NameTable.of(names)
    labels, notes = read_labels(files.listing.label_files, names, partial(_read_file, root))
    return Catalog(
        source=str(root),
        kind="folder",
        names=table,
        lengths=np.array([size for _, size in files.images], np.int64),
        reader=FileReader(root, table),
        labels=labels,
        refused=files.listing.refused,
        others=files.listing.others,
        hidden=files.listing.hidden,
        notes=notes,
    )


def list_files(root: Path, follow_links: bool = False) -> FolderFiles:
    """Lists a folder. Only files whose suffix tells nothing are opened.

    Symbolic links to targets outside of the folder are refused unless follow_links is set.
    """
    found = FolderFiles()
    unknown: list[tuple[str, int]] = []
    for name, size in _Walk(root, found.listing, follow_links).files():
        known = found.listing.classify(name)
        if known == "image":
            found.images.append((name, size))
        elif known == "unknown":
            unknown.append((name, size))
    with ThreadPoolExecutor(_SNIFF_THREADS, thread_name_prefix="realness-list") as pool:
        pieces = [unknown[start : start + _PIECE] for start in range(0, len(unknown), _PIECE)]
        read = pool.map(lambda piece: [_first_bytes(root, name) for name, _ in piece], pieces)
        heads = (head for piece in read for head in piece)
        for (name, size), head in zip(unknown, heads, strict=True):
            if isinstance(head, str):
                found.listing.refused.append((name, head))
            elif found.listing.sniffed(name, head):
                found.images.append((name, size))
    found.images.sort()
    found.listing.refused.sort()
    found.listing.label_files.sort()
    return found


def _read_file(root: Path, name: str) -> bytes:
    return FileReader(root, NameTable.of([name])).read(0)


def _first_bytes(root: Path, name: str) -> bytes | str:
    """The first bytes of a file, or why it cannot be read. Raises MachineError."""
    path = os.path.join(root, name)

    def read() -> bytes:
        with _opened(path) as descriptor:
            return read_fully(descriptor, SNIFF_BYTES, 0)

    try:
        return patiently(read, path)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


@dataclass
class _Walk:
    """A walk over the regular files under a folder that are not hidden.

    Folders that links lead to are walked last, in the order of their names, each unless it has
    been walked under another name.
    """

    root: Path
    listing: Listing
    follow_links: bool

    def __post_init__(self) -> None:
        self._real_root = os.path.realpath(self.root)
        self._walked = {self._real_root}
        self._linked: list[tuple[str, str]] = []

    def files(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every file, names relative to the root."""
        yield from self._below("", self._real_root)
        while self._linked:
            self._linked.sort(reverse=True)
            name, target = self._linked.pop()
            if not self._is_walked(target):
                self._walked.add(target)
                yield from self._below(f"{name}/", target)

    def _below(self, folder: str, real_folder: str) -> Iterator[tuple[str, int]]:
        pending = [(folder, real_folder)]
        while pending:
            folder, real_folder = pending.pop()
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    name = f"{folder}{entry.name}"
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_skipped(entry.name, is_folder):
                        kind = entry.name if is_folder else HIDDEN_FILES
                        self.listing.hidden[kind] += _count_files(entry.path) if is_folder else 1
                    elif is_folder:
                        real = os.path.join(real_folder, entry.name)
                        if real not in self._walked:  # a followed link has led above this folder
                            pending.append((f"{name}/", real))
                    elif entry.is_symlink():
                        if (size := self._size_behind(entry, name)) is not None:
                            yield name, size
                    elif entry.is_file(follow_symlinks=False):
                        yield name, _size(entry)
                    else:  # opening a pipe or a socket would block forever
                        self.listing.others[_SPECIAL] += 1

    def _size_behind(self, entry: os.DirEntry[str], name: str) -> int | None:
        """Size in bytes of the file that a symbolic link leads to.

        None if it leads to no file that may be read; it is then listed or, if it leads to a folder,
        kept for later.
        """
        target = os.path.realpath(entry.path)
        inside = target == self._real_root or target.startswith(self._real_root.rstrip("/") + "/")
        followed, reason = inside or self.follow_links, ""
        mode = size = 0
        try:
            mode, size = (status := entry.stat()).st_mode, status.st_size
        except OSError as error:
            if followed and is_of_machine(error):
                raise
            reason = _BROKEN_LINK.get(
                error.errno or 0, f"that cannot be followed ({error.strerror})"
            )
        if not followed:
            reason = "that leaves the folder (--follow-links takes such links)"
        if reason:
            if stat.S_ISDIR(mode) or self.listing.classify(name) != "other":
                self.listing.refused.append((name, f"it is a symbolic link {reason}"))
        elif stat.S_ISDIR(mode):
            self._linked.append((name, target))
        elif stat.S_ISREG(mode):
            return size
        else:
            self.listing.others[_SPECIAL] += 1
        return None

    def _is_walked(self, target: str) -> bool:
        """Whether a folder has been walked, which hidden folders in a walked one have not."""
        folder, below = target, list[str]()
        while folder not in self._walked:
            folder, name = os.path.split(folder)
            if not name:
                return False
            below.append(name)
        return not any(is_skipped(name, True) for name in below)


def _count_files(folder: str) -> int:
    """The number of files under a folder, without following links."""
    count, pending = 0, [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        count += 1
        except PermissionError:  # lost+found, for example
            continue
    return count


def _size(entry: os.DirEntry[str]) -> int:
    """Size of a file in bytes; 0 for one that was just removed, which reading then reports."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
