"""Writes the shards of a prepared set so that a crash at any time loses at most one round.

A round is one shard per part, and the parts are filled in turn; most sets have one part. The set
grows in OUT.partial. A round is done once its journal is in the folder, which is written after its
shards have reached the disk; an interrupted run resumes after the last round that is done. At the
end the journals become the index and the folder is renamed to OUT.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from realness.data_pipeline.catalog import NameTable, content_digest
from realness.data_pipeline.errors import DataError
from realness.data_pipeline.sources.prepared import (
    INDEX,
    INDEX_DTYPE,
    MANIFEST,
    NAMES,
    REJECTS,
    VERSION,
    part_name,
    shard_name,
)

logger = logging.getLogger("realness.data")

_BLOCK = 512
_SETTINGS = "settings.json"
_LOCK = "lock"
_UNABLE = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR}


@dataclass
class Journal:
    """The result of one round: images [crc32, offset, length, label, name], rejects [name, reason],
    and the number of source entries processed up to its end.
    """

    num_consumed: int = 0
    images: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    rejects: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def locked_workplace(
    out: Path, settings: dict[str, Any], *, use_lock: bool = True
) -> Iterator[Path]:
    """OUT.partial: created or reopened, and locked against a second run if `use_lock`.

    Raises DataError if another run holds the lock, if the file system has no locks, or if it was
    begun with other settings.
    """
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    if not _sync_folder(work):
        logger.warning(
            "the file system of %s cannot sync folders: after a power cut, delete %s and start "
            "again",
            out,
            work,
        )
    with (work / _LOCK).open("w") as lock:
        if use_lock:
            _lock(lock, out)
        begun = work / _SETTINGS
        if begun.exists():
            _compare_settings(json.loads(begun.read_text(encoding="utf-8")), settings, work)
        else:
            write_atomically(begun, json.dumps(settings, indent=1).encode())
        yield work


def _lock(file: IO[str], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another process is preparing {out} right now") from None
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be locked: {error.strerror}; write to another file system, mount "
            "this one with locks, or give --no-lock and make sure that no second process prepares "
            f"{out}"
        ) from error


def _compare_settings(begun: dict[str, Any], now: dict[str, Any], work: Path) -> None:
    begun = {"num_parts": 1, **begun}
    changed = [key for key in now if begun.get(key) != now[key]]
    if changed:
        listing = ", ".join(f"{key} was {begun.get(key)!r}, is {now[key]!r}" for key in changed)
        raise DataError(
            f"{work} was begun with other settings ({listing}); use the former settings to "
            "continue, or delete it to start again"
        )


def load_journals(work: Path) -> list[Journal]:
    """The journals of the rounds that are done, in order."""
    journals: list[Journal] = []
    while True:
        path = _journal_path(work, len(journals))
        if not path.exists():
            return journals
        content = json.loads(path.read_text(encoding="utf-8"))
        journals.append(
            Journal(
                content["num_consumed"],
                [tuple(image) for image in content["images"]],
                [tuple(reject) for reject in content["rejects"]],
            )
        )


class ShardWriter:
    """Distributes encoded images over the parts, and writes a journal whenever a round is full.

    Image i of the set goes to part i % num_parts.
    """

    def __init__(
        self,
        work: Path,
        *,
        suffix: str,
        shard_bytes: int,
        journals: list[Journal],
        num_parts: int = 1,
    ) -> None:
        self._work, self._suffix, self._shard_bytes = work, suffix, shard_bytes
        self.journals = journals
        self._num_images = sum(len(journal.images) for journal in journals)
        self._current = Journal(num_consumed=journals[-1].num_consumed if journals else 0)
        self._folders = [work]
        if num_parts > 1:
            self._folders = [work / part_name(part) for part in range(num_parts)]
            for folder in self._folders:
                folder.mkdir(exist_ok=True)
        self._files = self._open_round()

    @property
    def num_consumed(self) -> int:
        """Number of source entries processed so far."""
        return self._current.num_consumed

    def _open_round(self) -> list[BinaryIO]:
        num_parts = len(self._folders)
        first = len(self.journals) * num_parts
        return [
            (self._work / shard_name(first + part, num_parts)).open("wb")
            for part in range(num_parts)
        ]

    def add(self, data: bytes, name: str, label: int) -> None:
        """Stores the next source entry as an image."""
        part = self._num_images % len(self._files)
        if 0 < self._files[part].tell() > self._shard_bytes - len(data):
            self._finish_round()
            self._files = self._open_round()
        file = self._files[part]
        member = tarfile.TarInfo(f"{self._num_images:09d}.{self._suffix}")
        member.size = len(data)
        member.mode = 0o644
        file.write(member.tobuf(tarfile.USTAR_FORMAT))
        offset = file.tell()
        file.write(data)
        file.write(bytes(-len(data) % _BLOCK))
        record = (zlib.crc32(data), offset, len(data), label, name)
        self._current.images.append(record)
        self._current.num_consumed += 1
        self._num_images += 1

    def reject(self, name: str, reason: str) -> None:
        """Records the next source entry as rejected."""
        self._current.rejects.append((name, reason))
        self._current.num_consumed += 1

    def close(self) -> None:
        """Ends the last round."""
        self._finish_round()

    def abandon(self) -> None:
        """Closes the files and leaves the round unfinished; the next run writes it again."""
        for file in self._files:
            file.close()

    def _finish_round(self) -> None:
        for file, folder in zip(self._files, self._folders, strict=True):
            file.write(bytes(2 * _BLOCK))
            file.flush()
            os.fsync(file.fileno())
            file.close()
            _sync_folder(folder)
        content = {
            "num_consumed": self._current.num_consumed,
            "images": self._current.images,
            "rejects": self._current.rejects,
        }
        path = _journal_path(self._work, len(self.journals))
        write_atomically(path, json.dumps(content).encode())
        self.journals.append(self._current)
        self._current = Journal(num_consumed=self._current.num_consumed)


def publish(
    work: Path, out: Path, journals: list[Journal], manifest: dict[str, Any], refused: list[Any]
) -> None:
    """Writes index, names, rejects and manifest, and renames the folder to OUT."""
    num_parts = manifest.get("num_parts", 1)
    images = [image for journal in journals for image in journal.images]
    names = NameTable.of(image[4] for image in images)
    index = np.zeros(len(images), INDEX_DTYPE)
    for position, column in enumerate(("crc32", "offset", "length", "label")):
        index[column] = [image[position] for image in images]
    rounds = np.repeat(np.arange(len(journals)), [len(journal.images) for journal in journals])
    index["shard"] = rounds * num_parts + np.arange(len(images)) % num_parts
    index["name_end"] = names.ends
    num_classes = int(index["label"].max(initial=-1)) + 1
    rejects = [*refused, *(reject for journal in journals for reject in journal.rejects)]
    labels = index["label"] if num_classes else None
    manifest = {
        "version": VERSION,
        **manifest,
        "num_images": len(images),
        "num_rejected": len(rejects),
        "num_classes": num_classes,
        "num_shards": len(journals) * num_parts,
        "digest": content_digest(names, index["length"], index["crc32"], labels, num_parts),
    }
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    write_atomically(work / INDEX, buffer.getvalue())
    write_atomically(work / NAMES, bytes(names.blob))
    write_atomically(work / REJECTS, _rejects_csv(rejects))
    write_atomically(work / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
    for number in range(len(journals)):
        _journal_path(work, number).unlink()
    (work / _SETTINGS).unlink()
    (work / _LOCK).unlink()
    work.rename(out)
    _sync_folder(out.parent)


def discard(work: Path) -> None:
    """Removes the work folder of a run that stored nothing."""
    shutil.rmtree(work)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file atomically: complete or not at all, even after a power failure."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync_folder(path.parent)


def _journal_path(work: Path, number: int) -> Path:
    """The journal path of a round."""
    return work / f"{shard_name(number)}.json"


def _rejects_csv(rejects: list[tuple[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "reason"])
    writer.writerows(rejects)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _sync_folder(folder: Path) -> bool:
    """Syncs a folder's list of names; returns False where the file system cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    return True
