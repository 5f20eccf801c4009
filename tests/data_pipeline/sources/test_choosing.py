"""What a source leaves out because another kind of file lies there is said, or must be chosen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from realness.data_pipeline import Catalog, DataError, SourceKind, SourceOptions, open_catalog
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.launch.prepare import main
from tests.data_pipeline.sources.test_formats import TestTFRecord, pixels
from tests.helpers.data_images import write_folder, write_tar, write_zip
from tests.helpers.odd_folders import jpeg, png


def names(catalog: Catalog) -> list[str]:
    return [catalog.name(index) for index in range(len(catalog))]


def opened(path: Path, kind: SourceKind) -> Catalog:
    return open_catalog(path, SourceOptions(kind))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three images in a folder, one of them in a subfolder, beside a tar of two."""
    root = write_folder(tmp_path / "mixed", {"a.png": png(0), "b/b.png": png(1), "c": jpeg(2)})
    write_tar(root / "masks.tar", {"m0.png": png(3), "m1.png": png(4), "m.json": b""})
    return root


def test_images_beside_a_tar_need_a_choice(mixed: Path) -> None:
    with pytest.raises(DataError, match=r"1 \.tar file and 3 images, of which only one kind") as e:
        open_catalog(mixed)
    assert "--source-kind tar or --source-kind folder" in str(e.value)
    folder = opened(mixed, "folder")
    assert names(folder) == ["a.png", "b/b.png", "c"]
    assert dict(folder.others) == {".tar": 1}
    tar = opened(mixed, "tar")
    assert names(tar) == ["m0.png", "m1.png"]
    assert dict(tar.others) == {".json": 1, "images beside": 3}
    assert tar.listing().endswith("mixed: 2 images, 4 other files (3 images beside, 1 .json)")


def test_the_commands_take_the_choice(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(mixed), str(mixed.parent / "out"), "--resolution", "32"]
    assert main(arguments) == 2
    assert "--source-kind" in capsys.readouterr().err
    assert main([*arguments, "--source-kind", "folder"]) == 0
    assert len(open_catalog(mixed.parent / "out")) == 3


def test_several_kinds_of_archives_need_a_choice(tmp_path: Path) -> None:
    TestTFRecord.write(tmp_path / "set.tfrecords", pixels(3, 16))
    write_tar(tmp_path / "a.tar", {"a.png": png(0)})
    write_tar(tmp_path / "b.TAR", {"b.png": png(1)})
    with pytest.raises(DataError, match=r"holds 2 \.tar files and 1 TFRecord file, of which"):
        open_catalog(tmp_path)
    assert names(opened(tmp_path, "tar")) == ["a.tar/a.png", "b.TAR/b.png"]
    records = opened(tmp_path, "tfrecord")
    assert (len(records), dict(records.others)) == (3, {".tar": 2})


def test_files_beside_shards_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, {"index.json": b"", "sub/x.txt": b"", ".git/a.png": png(0)})
    write_tar(tmp_path / "0.tar", {"a.png": png(0), "a.json": b""})
    shutil.copy(tmp_path / "0.tar", tmp_path / "sub" / "1.tar")
    catalog = open_catalog(tmp_path)
    assert names(catalog) == ["a.png"]
    assert dict(catalog.others) == {".json": 2, ".txt": 1, ".tar": 1}
    assert dict(catalog.hidden) == {".git": 1}


def test_a_folder_may_be_named_like_a_file(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path / "set.zip", {"images.tar/a.png": png(0), "x.tfrecords/b.png": b""}
    )
    assert names(open_catalog(root)) == ["images.tar/a.png", "x.tfrecords/b.png"]
    assert names(open_catalog(root / "images.tar")) == ["a.png"]


def test_images_beside_a_prepared_set_are_said(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {"a.png": png(0)})
    prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
    assert open_catalog(tmp_path / "out").notes == []
    write_folder(tmp_path / "out", {"b.png": png(1), "run/samples/0.png": png(2)})
    (note,) = open_catalog(tmp_path / "out").notes
    assert "is a prepared set; 1 image files that lie beside it are left out" in note
    assert names(opened(tmp_path / "out", "folder")) == ["b.png", "run/samples/0.png"]


def test_a_choice_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.bak", {"a.png": png(0)})
    with pytest.raises(DataError, match="not a known data source"):
        open_catalog(path)
    assert names(opened(path, "zip")) == ["a.png"]
    with pytest.raises(DataError, match=r"--source-kind=folder, but .* is a file"):
        opened(path, "folder")
    for kind in ("zip", "tar", "lmdb", "cifar", "tfrecord", "prepared"):
        with pytest.raises(DataError, match=f"--source-kind={kind}, but .* without such files"):
            opened(tmp_path, kind)
    with pytest.raises(ValueError, match="source_kind='rar' is unknown; use one of auto, folder"):
        SourceOptions("rar")  # type: ignore[arg-type]
