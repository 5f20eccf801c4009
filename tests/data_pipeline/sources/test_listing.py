"""Every file of a source is an image taken, an image refused with its reason, or counted."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageFile

from realness.data_pipeline import Catalog, DataError, formats, open_catalog
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.launch.prepare import main
from tests.helpers.data_images import picture, write_folder, write_tar, write_zip
from tests.helpers.machine_errors import fail
from tests.helpers.odd_folders import APPLE_DOUBLE, HEIC, ODD_FOLDERS, WRITERS, png


def names(catalog: Catalog) -> list[str]:
    return [catalog.name(index) for index in range(len(catalog))]


def number_of_files(catalog: Catalog) -> int:
    rest = sum(catalog.others.values()) + sum(catalog.hidden.values())
    return len(catalog) + len(catalog.refused) + rest


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_every_file_is_accounted_for(name: str, writer: str, tmp_path: Path) -> None:
    odd = ODD_FOLDERS[name]()
    catalog = open_catalog(WRITERS[writer](tmp_path / "set", odd.files))
    stored_order = [file for file in odd.files if file in odd.images]
    assert names(catalog) == (stored_order if writer == "tar" else sorted(odd.images))
    assert sorted(file for file, _ in catalog.refused) == sorted(odd.refused)
    assert dict(catalog.others) == dict(odd.others)
    assert dict(catalog.hidden) == dict(odd.hidden)
    assert number_of_files(catalog) == len(odd.files)
    for index in range(len(catalog)):
        assert catalog.read(index) == odd.files[catalog.name(index)]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_prepare_takes_the_same_images(
    name: str, writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ODD_FOLDERS[name]()
    source = WRITERS[writer](tmp_path / "set", odd.files)
    assert main([str(source), str(tmp_path / "out"), "--resolution", "32"]) == 0
    with (tmp_path / "out" / "rejects.csv").open(newline="") as file:
        rejected = [row["name"] for row in csv.DictReader(file)]
    stored = names(open_catalog(tmp_path / "out"))
    heics = [file for file in odd.images if odd.files[file] == HEIC]
    assert sorted([*stored, *rejected]) == sorted([*odd.images, *odd.refused])
    assert sorted(rejected) == sorted([*odd.refused, *heics])
    printed = capsys.readouterr().out
    assert printed.count(open_catalog(source).listing()) == 1


def test_the_listing_in_words(tmp_path: Path) -> None:
    files = {"a.png": png(0), "b.png": png(1), "x.psd": b"8BPS"}
    files |= {f"{number}.txt": b"" for number in range(1200)} | {"c.json": b"", "d.csv": b""}
    said = open_catalog(write_folder(tmp_path / "set", files)).listing()
    assert said == (
        f"{tmp_path}/set: 2 images, 1 refused (the first is 'x.psd': is a Photoshop document; "
        "convert it to PNG), 1,202 other files (1,200 .txt, 1 .csv, 1 .json)"
    )
    with pytest.raises(DataError, match=r"no images in .*: 2 other files \(2 \.zip\); give one of"):
        open_catalog(write_folder(tmp_path / "zips", {"a.zip": b"", "b.zip": b""}))


def test_messages_are_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with line breaks, and bytes that are not valid UTF-8, as older systems wrote them."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\nset"))
    names_in = [b"a.png", b"\xff.a\nb", b".\xe9/c", b"sub/dataset.json", b"\xe9/b.png"]
    write_folder(root, {os.fsdecode(name): png(0) for name in names_in})
    write_folder(root, {os.fsdecode(b"\xff.c\xff"): b"", os.fsdecode(b"\xe9/dataset.json"): b""})
    assert main([str(root), str(tmp_path / "out"), "--resolution", "32"]) == 0
    printed = capsys.readouterr().out.splitlines()
    catalog = open_catalog(root)
    assert number_of_files(catalog) == 7
    assert len(catalog.messages()) == 2
    for message in catalog.messages():
        assert message.isprintable()
        assert message in printed


def test_order_of_sets_that_need_no_sniffing_is_fixed(tmp_path: Path) -> None:
    """The order of images decides what a resumed run sees; these orders are those of 0.1.0."""
    stored = ["b/10.png", "b/9.JPG", "a.jpeg", "B.png", "a/x.webp", "a-1.gif", "ä.tif", "b/9.txt"]
    in_order = ["B.png", "a-1.gif", "a.jpeg", "a/x.webp", "b/10.png", "b/9.JPG", "ä.tif"]
    files = dict.fromkeys(stored, png(0))
    assert names(open_catalog(write_folder(tmp_path / "set", files))) == in_order
    assert names(open_catalog(write_zip(tmp_path / "set.zip", files))) == in_order
    assert names(open_catalog(write_tar(tmp_path / "set.tar", files))) == stored[:-1]
    (tmp_path / "shards").mkdir()
    for shard in ("1.tar", "0.tar"):
        write_tar(tmp_path / "shards" / shard, {"b.png": png(0), "a.png": png(1)})
    shards = ["0.tar/b.png", "0.tar/a.png", "1.tar/b.png", "1.tar/a.png"]
    assert names(open_catalog(tmp_path / "shards")) == shards


def test_known_suffixes_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of a million images with their captions, opening every file takes minutes."""
    files = {"a.png": b"", "b.JPG": b"", "a.txt": b"", "b.json": b"", "c.dng": b"", "d": b""}
    write_folder(tmp_path, files)
    opened = fail(monkeypatch, "open", errno.EACCES, str(tmp_path), float("inf"))
    catalog = open_catalog(tmp_path)
    assert opened == [str(tmp_path / "d")]
    assert ("d", "it cannot be read: Permission denied") in catalog.refused


def test_only_what_lies_below_the_source_can_be_hidden(tmp_path: Path) -> None:
    root = write_folder(tmp_path / ".cache" / "@eaDir" / "set", {"a.png": png(0)})
    assert names(open_catalog(root)) == ["a.png"]
    for shard in ("0.tar", "._0.tar", ".old.tar"):
        (root / shard).write_bytes(APPLE_DOUBLE)
    write_tar(root / "0.tar", {"./a.png": png(0), "./.b/b.png": png(1)})
    (root / "a.png").unlink()
    catalog = open_catalog(root)
    assert names(catalog) == ["./a.png"]
    assert dict(catalog.hidden) == {".b": 1, "by name": 2}


def test_a_hidden_folder_that_may_not_be_read_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lost+found at the root of a disk belongs to root."""
    write_folder(tmp_path, {"a.png": png(0), "lost+found/b.png": png(1)})
    scandir = os.scandir

    def guarded(path: str) -> object:
        if "lost+found" in path:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert names(open_catalog(tmp_path)) == ["a.png"]


class HeifFile(ImageFile.ImageFile):
    """An opener as pillow-heif registers it, which shows the same picture for every file."""

    format = "HEIF"

    def _open(self) -> None:
        self._size, self._mode, self.tile = (32, 32), "RGB", []
        self.im = picture(3).im

    def load(self) -> None:  # type: ignore[override]
        return None


def register_heif() -> None:
    Image.register_open("HEIF", HeifFile, lambda start: start[4:8] == b"ftyp")


class TestHeic:
    @pytest.fixture(autouse=True)
    def openers_are_found_again(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
        monkeypatch.setattr(Image, "ID", list(Image.ID))
        formats.openers.cache_clear()
        yield
        formats.openers.cache_clear()

    def test_the_missing_extra_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        write_folder(tmp_path / "in", {"a.png": png(0), "b.heic": HEIC, "c.jpg": HEIC})
        assert main([str(tmp_path / "in"), str(tmp_path / "out"), "--resolution", "32"]) == 0
        printed = capsys.readouterr().out
        assert f'2 of them are HEICs: pip install -e ".[heic]", remove {tmp_path}' in printed

    def test_it_is_read_where_pillow_heif_is_installed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in = SimpleNamespace(register_heif_opener=register_heif)
        monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)  # type: ignore[arg-type]
        write_folder(tmp_path / "in", {"b.heic": HEIC})
        report = prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
        assert (report.num_images, report.num_rejected, report.num_heic) == (1, 0, 0)
        stored = Image.open(io.BytesIO(open_catalog(tmp_path / "out").read(0)))
        assert stored.tobytes() == picture(3).tobytes()
