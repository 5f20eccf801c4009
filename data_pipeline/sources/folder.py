"""A folder of image files, searched recursively."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from realness.data_pipeline.catalog import Catalog, NameTable
from realness.data_pipeline.errors import BadImage
from realness.data_pipeline.sources.common import stylegan_labels, unsafe_size
from realness.data_pipeline.sources.formats import SNIFF_BYTES
from realness.data_pipeline.sources.listing import HIDDEN_FILES, Listing, is_skipped

_SNIFF_THREADS = 16  # on network file systems, opening a file takes milliseconds
_PIECE = 256


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


@dataclass
class FolderFiles:
    """The files under a folder: images as (name, bytes), sorted by name, and the rest."""

    images: list[tuple[str, int]] = field(default_factory=list)
    listing: Listing = field(default_factory=Listing)


def open_folder(root: Path, files: FolderFiles) -> Catalog:
    """The images under a folder, which list_files has listed. See open_catalog."""
    names = [name for name, _ in files.images]
    labels_file = root / "dataset.json"
    text = labels_file.read_bytes() if labels_file.is_file() else None
    table = NameTable.of(names)
    return Catalog(
        source=str(root),
        kind="folder",
        names=table,
        lengths=np.array([size for _, size in files.images], np.int64),
        reader=FileReader(root, table),
        labels=stylegan_labels(text, names, str(root)),
        refused=files.listing.refused,
        others=files.listing.others,
        hidden=files.listing.hidden,
    )


def list_files(root: Path) -> FolderFiles:
    """Lists a folder. Only files whose suffix tells nothing are opened.

    Symbolic links are followed only to targets inside the folder; others are rejected.
    """
    found = FolderFiles()
    unknown: list[tuple[str, int]] = []
    for name, size in _walk(root, found.listing):
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
    return found


def _first_bytes(root: Path, name: str) -> bytes | str:
    """The first bytes of a file, or why it cannot be read."""
    try:
        with open(os.path.join(root, name), "rb", buffering=0) as file:
            return file.read(SNIFF_BYTES) or b""
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _walk(root: Path, listing: Listing) -> Iterator[tuple[str, int]]:
    """(name, bytes) of every regular file that is not hidden, names relative to the root."""
    real_root = os.path.realpath(root)
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_skipped(entry.name, is_folder):
                    kind = entry.name if is_folder else HIDDEN_FILES
                    listing.hidden[kind] += _count_files(entry.path) if is_folder else 1
                elif is_folder:
                    pending.append(f"{name}/")
                elif not entry.is_symlink() or _may_follow(entry, name, real_root, listing):
                    # Opening a pipe or a socket would block forever.
                    if entry.is_file() or not os.path.exists(entry.path):
                        yield name, _size(entry)
                    else:
                        listing.others["pipes and devices"] += 1


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


def _may_follow(entry: os.DirEntry[str], name: str, real_root: str, listing: Listing) -> bool:
    """Whether a symbolic link leads to a file that may be read; otherwise it is listed."""
    target = os.path.realpath(entry.path)
    if target != real_root and not target.startswith(real_root.rstrip("/") + "/"):
        if os.path.isdir(entry.path) or listing.classify(name) != "other":
            listing.refused.append((name, "it is a symbolic link that leaves the folder"))
        return False
    if _leads_nowhere(entry):
        listing.refused.append((name, "it is a symbolic link that leads back to itself"))
        return False
    # A link to a folder inside the root only repeats files that are found anyway.
    return not entry.is_dir()


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
