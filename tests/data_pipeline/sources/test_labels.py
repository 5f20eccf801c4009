"""dataset.json in archives as macOS makes them, and labels that no run needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from realness.data_pipeline import Catalog, open_catalog
from realness.launch.prepare import main
from tests.data_pipeline.sources.test_formats import TestTFRecord, pixels
from tests.helpers.data_images import write_folder, write_tar
from tests.helpers.odd_folders import APPLE_DOUBLE, WRITERS, png

CLASSES = {f"00000/img{number:08d}.png": number % 3 for number in range(6)}


def labelled(prefix: str = "", labels: object = None) -> dict[str, bytes]:
    """A labelled set of StyleGAN's under a prefix."""
    pairs = [[name, number] for name, number in CLASSES.items()] if labels is None else labels
    files = {prefix + name: png(number) for number, name in enumerate(CLASSES)}
    return files | {f"{prefix}dataset.json": json.dumps({"labels": pairs}).encode()}


def labels_of(catalog: Catalog) -> dict[str, int | None]:
    return {catalog.name(index): catalog.label(index) for index in range(len(catalog))}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("prefix", ["", "myset/", "a/b/"])
def test_labels_lie_at_the_top_or_in_the_only_folder(
    writer: str, prefix: str, tmp_path: Path
) -> None:
    mac = {f"__MACOSX/{prefix}00000/._img.png": APPLE_DOUBLE, f"{prefix}.DS_Store": b""}
    catalog = open_catalog(WRITERS[writer](tmp_path / "set", labelled(prefix) | mac))
    assert labels_of(catalog) == {prefix + name: label for name, label in CLASSES.items()}
    assert catalog.notes == []


@pytest.mark.parametrize("writer", WRITERS)
def test_camera_parameters_end_no_run(
    writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EG3D's labels are 25 numbers per image."""
    cameras = [[name, [0.1 * number for number in range(25)]] for name in CLASSES]
    source = WRITERS[writer](tmp_path / "set", labelled(labels=cameras))
    catalog = open_catalog(source)
    assert (len(catalog), catalog.labels) == (6, None)
    said = "the labels in dataset.json are ignored: they are lists of 25 numbers, not class numbers"
    assert catalog.notes == [said]
    assert main([str(source), str(tmp_path / "out"), "--resolution", "32"]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b'{"labels": [1]}', b'{"labels": 3}', b"[" * 100_000, b"\xff\xfe"]
)
def test_other_files_of_this_name_end_no_run(text: bytes, tmp_path: Path) -> None:
    catalog = open_catalog(write_folder(tmp_path, {"a.png": png(0), "dataset.json": text}))
    assert catalog.labels is None
    assert "the labels in dataset.json are ignored" in catalog.notes[0]


def test_labels_without_labels_are_no_news(tmp_path: Path) -> None:
    text = b'{"labels": null}'
    catalog = open_catalog(write_folder(tmp_path, {"a.png": png(0), "dataset.json": text}))
    assert (catalog.labels, catalog.notes) == (None, [])


def test_labels_of_a_part_of_the_images_are_said(tmp_path: Path) -> None:
    files = labelled("one/") | labelled("two/")
    catalog = open_catalog(write_folder(tmp_path, files))
    assert catalog.labels is None
    assert catalog.notes == [
        "the labels in one/dataset.json are not used (nor in 1 more): not all images lie in its "
        "folder"
    ]
    both = open_catalog(write_tar(tmp_path / "both.tar", labelled("a/") | labelled("a/00000/")))
    assert both.label(0) is None


def test_damaged_labels_of_records_end_no_run(tmp_path: Path) -> None:
    path = TestTFRecord.write(tmp_path / "set-r04.tfrecords", pixels(3, 16))
    for content in (b"", b"not NumPy's"):
        (tmp_path / "set-rxx.labels").write_bytes(content)
        assert open_catalog(path).labels is None
        assert "the labels are ignored" in open_catalog(path).notes[0]
    with (tmp_path / "set-rxx.labels").open("wb") as file:
        np.save(file, np.eye(2))
    assert "not one row for each of 3 images" in open_catalog(path).notes[0]
