"""An error of the machine while a source is listed neither refuses an image nor leaves one out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from realness.data_pipeline import MachineError, machine, open_catalog
from tests.data_pipeline.sources import test_formats
from tests.helpers.data_images import write_folder
from tests.helpers.machine_errors import fail
from tests.helpers.odd_folders import WRITERS, jpeg, png

FILES = {"a.png": png(0), "b": jpeg(1), "c.large": png(2), "d.unknown": b"text"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PAUSES", (0.0,) * 3)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOMEM])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_an_error_while_listing_that_passes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    source = WRITERS[kind](tmp_path / "set", FILES)
    failures = fail(monkeypatch, "pread", number, str(source), times=2)
    catalog = open_catalog(source)
    assert len(failures) == 2
    assert [catalog.name(index) for index in range(len(catalog))] == ["a.png", "b", "c.large"]
    assert dict(catalog.others) == {".unknown": 1}
    assert not catalog.refused


@pytest.mark.parametrize("kind", list(WRITERS))
def test_an_error_while_listing_that_lasts_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = WRITERS[kind](tmp_path / "set", FILES)
    fail(monkeypatch, "pread", errno.EIO, str(source), float("inf"))
    with pytest.raises(MachineError, match=r"set.* cannot be read: Input/output error"):
        open_catalog(source)


@pytest.mark.parametrize("kind", list(WRITERS))
def test_an_error_while_labels_are_read_that_lasts_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The run would otherwise continue with another digest than the one it began with."""
    labels = b'{"labels": [["a.png", 1]]}'
    source = WRITERS[kind](tmp_path / "set", {"a.png": png(0), "dataset.json": labels})
    assert open_catalog(source).label(0) == 1
    failed = str(source / "dataset.json") if kind == "folder" else str(source)
    real = os.pread

    def faulty(descriptor: int, length: int, offset: int) -> bytes:
        data = real(descriptor, length, offset)
        if labels in data and os.readlink(f"/proc/self/fd/{descriptor}") == failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data

    monkeypatch.setattr(os, "pread", faulty)
    with pytest.raises(MachineError, match="Input/output error"):
        open_catalog(source)


def test_an_error_while_labels_of_records_are_read_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = test_formats.TestTFRecord.write(
        tmp_path / "set-r04.tfrecords", test_formats.pixels(2, 16)
    )
    with (tmp_path / "set-rxx.labels").open("wb") as file:
        np.save(file, np.eye(2))

    def faulty(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "load", faulty)
    with pytest.raises(MachineError, match="Input/output error"):
        open_catalog(path)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_short_reads_hide_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A file server may return fewer bytes than asked for."""
    source = WRITERS[kind](tmp_path / "set", FILES)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: real(fd, min(count, 3), at))
    assert len(open_catalog(source)) == 3


def test_a_link_is_not_taken_for_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path, {"a.png": png(0)})
    (root / "b.png").symlink_to(root / "a.png")
    real = os.scandir

    class Entry:
        """An entry whose target cannot be looked at."""

        def __init__(self, entry: os.DirEntry[str]) -> None:
            self._entry = entry

        def __getattr__(self, name: str) -> object:
            return getattr(self._entry, name)

        def stat(self, **_: object) -> os.stat_result:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    class Entries:
        """What scandir returns."""

        def __init__(self, path: str) -> None:
            self._found = real(path)

        def __enter__(self) -> list[Entry]:
            return [Entry(entry) for entry in self._found]

        def __exit__(self, *_: object) -> None:
            self._found.close()

    monkeypatch.setattr(os, "scandir", Entries)
    with pytest.raises(MachineError, match="Stale file handle"):
        open_catalog(root)
