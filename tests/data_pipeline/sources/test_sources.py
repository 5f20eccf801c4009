"""Catalogs: folder, zip and tar shards hold the same images; bad sources get clear errors."""

from __future__ import annotations

import logging
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from realness.data_pipeline import Catalog, DataError, check_images, open_catalog
from realness.data_pipeline.prepare.shard_writer import ShardWriter, locked_workplace, publish
from tests.helpers.data_images import (
    encoded,
    image_files,
    picture,
    write_folder,
    write_tar,
    write_zip,
)

TAR_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def contents(catalog: Catalog) -> dict[str, bytes]:
    return {catalog.name(i): bytes(catalog.read(i)) for i in range(len(catalog))}


def test_folder_is_read_recursively_and_sorted(tmp_path: Path) -> None:
    files = image_files(7)
    write_folder(tmp_path, files | {"notes.txt": b"x", "0/.hidden.jpg": b"x", "0/._img.jpg": b"x"})
    catalog = open_catalog(tmp_path)
    assert contents(catalog) == files
    assert [catalog.name(i) for i in range(len(catalog))] == sorted(files)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_gives_the_same_images(tmp_path: Path, compression: int) -> None:
    files = image_files(7)
    catalog = open_catalog(write_zip(tmp_path / "set.zip", files, compression=compression))
    assert contents(catalog) == files
    for i in range(len(catalog)):
        assert catalog.read_head(i, 64) == files[catalog.name(i)][:64]


@pytest.mark.parametrize("tar_format", TAR_FORMATS.values(), ids=TAR_FORMATS.keys())
def test_tar_gives_the_same_images(tmp_path: Path, tar_format: int) -> None:
    deep = "/".join(["a long folder name"] * 8) + "/über 写真.png"
    files = image_files(5) | {deep: encoded(picture(9), "PNG")}
    catalog = open_catalog(write_tar(tmp_path / "set.tar", files, tar_format))
    assert contents(catalog) == files
    assert [catalog.name(i) for i in range(len(catalog))] == list(files)


def test_folder_of_tar_shards_is_one_catalog(tmp_path: Path) -> None:
    files = list(image_files(6).items())
    write_tar(tmp_path / "b.tar", dict(files[3:]))
    write_tar(tmp_path / "a.tar", dict(files[:3]))
    catalog = open_catalog(tmp_path)
    expected = [f"a.tar/{n}" for n, _ in files[:3]] + [f"b.tar/{n}" for n, _ in files[3:]]
    assert [catalog.name(i) for i in range(len(catalog))] == expected
    assert [catalog.read(i) for i in range(6)] == [data for _, data in files]


def test_digest_follows_contents(tmp_path: Path) -> None:
    files = image_files(4)
    digests = [
        open_catalog(write_folder(tmp_path / "a", files)).digest,
        open_catalog(write_folder(tmp_path / "b", files)).digest,
        open_catalog(write_folder(tmp_path / "c", image_files(5))).digest,
        open_catalog(write_folder(tmp_path / "d", {f"x{n}": d for n, d in files.items()})).digest,
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_stylegan_labels(tmp_path: Path) -> None:
    files = image_files(6)
    labels: list[list[object]] = [[name, i % 3] for i, name in enumerate(files)]
    catalog = open_catalog(write_zip(tmp_path / "dataset.zip", files, labels=labels))
    assert {catalog.name(i): catalog.label(i) for i in range(6)} == {str(n): c for n, c in labels}
    assert catalog.num_classes == 3
    without = open_catalog(write_folder(tmp_path / "folder", files))
    assert without.label(0) is None
    assert without.num_classes == 0


def test_incomplete_labels_are_ignored(tmp_path: Path) -> None:
    files = image_files(3)
    path = write_zip(tmp_path / "d.zip", files, labels=[[next(iter(files)), 0]])
    catalog = open_catalog(path)
    assert (len(catalog), catalog.labels) == (3, None)
    assert "no label for 2 of 3 images" in catalog.notes[0]


def test_webdataset_classes(tmp_path: Path) -> None:
    jpeg = encoded(picture(0))
    files = {"a/0.jpg": jpeg, "a/0.cls": b"2", "a/1.jpg": jpeg, "a/1.cls": b"0\n"}
    catalog = open_catalog(write_tar(tmp_path / "set.tar", files))
    assert [catalog.label(i) for i in range(2)] == [2, 0]


def tar_of_many(path: Path, names: list[str], data: bytes) -> Path:
    block = data + bytes(-len(data) % 512)
    with path.open("wb") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + block)
        file.write(bytes(1024))
    return path


def prepared_of_many(path: Path, names: list[str], data: bytes) -> Path:
    manifest = {"format": "png", "resolution": 2}
    with locked_workplace(path, manifest) as work:
        writer = ShardWriter(work, suffix="png", shard_bytes=1 << 28, journals=[])
        for name in names:
            writer.add(data, name, -1)
        writer.close()
        publish(work, path, writer.journals, manifest, [])
    return path


OPEN_AND_MEASURE = """
import resource, sys
from realness.data_pipeline import open_catalog
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
catalog = open_catalog(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(catalog), catalog.name(len(catalog) - 1), (after - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "zip", "prepared"])
def test_opening_70000_images_takes_little_memory(tmp_path: Path, kind: str) -> None:
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(70_000)]
    tiny = encoded(picture(0, 2), "PNG")
    if kind == "zip":
        path = write_zip(tmp_path / "set.zip", dict.fromkeys(names, tiny))
    else:
        make = tar_of_many if kind == "tar" else prepared_of_many
        path = make(tmp_path / f"set.{kind}", names, tiny)
    command = [sys.executable, "-c", OPEN_AND_MEASURE, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, last, mebibytes = out.split()
    assert (int(count), last) == (70_000, names[-1])
    assert float(mebibytes) < 100


def test_missing_path_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"does not exist.*{tmp_path.name}'"):
        open_catalog(tmp_path / "no" / "such")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in"):
        open_catalog(tmp_path)


def test_folder_without_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.txt": b"words", "b/c.json": b"{}"})
    with pytest.raises(DataError, match="no images in"):
        open_catalog(tmp_path)


def test_empty_path_is_not_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data source is empty"):
        open_catalog("")


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    assert len(open_catalog(write_zip(tmp_path / "SET.ZIP", image_files(2)))) == 2


def test_unknown_file(tmp_path: Path) -> None:
    path = tmp_path / "images.rar"
    path.write_bytes(b"Rar!")
    with pytest.raises(DataError, match="not a known data source"):
        open_catalog(path)


def test_damaged_archives(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 not a zip at all")
    with pytest.raises(DataError, match="not a readable zip"):
        open_catalog(tmp_path / "x.zip")
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match="not a tar, or is damaged"):
        open_catalog(tmp_path / "x.tar")
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="compressed tar"):
        open_catalog(tmp_path / "x.tar.gz")


@pytest.mark.parametrize("label", [1.7, True, "3", -1, 2**40, 10**6, None, [0]], ids=repr)
def test_labels_that_are_no_class_numbers_are_ignored(tmp_path: Path, label: object) -> None:
    files = image_files(1)
    path = write_zip(tmp_path / "d.zip", files, labels=[[next(iter(files)), label]])
    catalog = open_catalog(path)
    assert (len(catalog), catalog.labels) == (1, None)
    assert "is not a whole number from 0 to 999,999" in catalog.notes[0]


def test_webdataset_classes_that_cannot_be_used(tmp_path: Path) -> None:
    jpeg = encoded(picture(0))
    files = {"a.jpg": jpeg, "a.cls": b"2", "b.jpg": jpeg, "b.cls": b"cat", "c.jpg": jpeg}
    catalog = open_catalog(write_tar(tmp_path / "some.tar", files))
    assert catalog.labels is None
    assert "2 of the 3 images" in catalog.notes[0]
    huge = write_tar(tmp_path / "huge.tar", {"a.jpg": jpeg, "a.cls": b"99999999999999999999"})
    catalog = open_catalog(huge)
    assert catalog.labels is None
    assert "1 of the 1 images" in catalog.notes[0]
    assert "no class number below 1,000,000" in catalog.notes[0]


class TestCheckImages:
    def test_good_set_passes(self, tmp_path: Path) -> None:
        files = image_files(6) | image_files(12, image_format="PNG")
        check_images(open_catalog(write_folder(tmp_path, files)), 32)

    def test_wrong_resolution_names_both_and_the_command(self, tmp_path: Path) -> None:
        catalog = open_catalog(write_folder(tmp_path, image_files(3, 16)))
        with pytest.raises(DataError, match=r"16x16.*resolution=32.*prepare\.py.*--resolution 32"):
            check_images(catalog, 32)

    def test_mixed_sizes_show_counts(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "a", image_files(6))
        write_folder(tmp_path / "b", image_files(2, 16))
        with pytest.raises(DataError, match=r"mixed sizes \(6 of 32x32, 2 of 16x16\)"):
            check_images(open_catalog(tmp_path), 32)

    def test_few_bad_are_reported_many_refused(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        files = image_files(10) | {"bad.jpg": b"<html>", "worse.png": b""}
        catalog = open_catalog(write_folder(tmp_path, files))
        check_images(catalog, 32, max_bad_images=2)
        assert sorted(r.getMessage().split(":")[0] for r in caplog.records) == [
            "bad image bad.jpg",
            "bad image worse.png",
        ]
        with pytest.raises(DataError, match=r"2 of the 12 images.*bad\.jpg.*prepare\.py"):
            check_images(catalog, 32, max_bad_images=1)

    def test_one_rank_names_bad_images_for_all(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_folder(tmp_path, image_files(10) | {"bad.jpg": b"<html>"})
        with caplog.at_level(logging.INFO, "realness.data"):
            catalogs = [open_catalog(tmp_path) for _ in range(3)]
            for catalog, level in zip(catalogs, (logging.WARNING, 10, 10), strict=True):
                check_images(catalog, 32, level=level)
                assert catalog.num_bad_images == 1
                catalog.report_bad(10, "met again by a stream")
        assert len(caplog.records) == 1

    def test_header_behind_a_long_segment_is_found(self, tmp_path: Path) -> None:
        data = encoded(picture(0))
        comment = b"\xff\xfe" + (50_002).to_bytes(2, "big") + bytes(50_000)
        data = data[:2] + 3 * comment + data[2:]
        check_images(open_catalog(write_folder(tmp_path, {"a.jpg": data})), 32)


def test_formats_for_prepare_only_are_refused_by_training(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{i}.pgm": encoded(picture(i).convert("L"), "PPM") for i in range(3)})
    with pytest.raises(DataError, match=r"is a PGM.*prepare\.py"):
        check_images(open_catalog(tmp_path), 32)
