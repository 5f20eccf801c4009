"""Training says once what it takes from its source, and opens it as the flags say."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realness.data_pipeline import Catalog, DataError
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.launch.train_arguments import parse
from realness.trainer.config import TrainConfig
from realness.trainer.run import data as data_module
from realness.trainer.run.data import open_data
from tests.helpers.data_images import write_folder, write_tar
from tests.helpers.odd_folders import jpeg, png
from tests.helpers.systems import small


def config(source: Path, **changes: Any) -> TrainConfig:
    tiny = small("cifar10-realness-dcgan")
    return replace(tiny, data=replace(tiny.data, data=str(source), **changes))


def names(catalog: Catalog) -> list[str]:
    return [catalog.name(index) for index in range(len(catalog))]


def test_the_listing_is_said_by_one_rank(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.png": png(0), "b": jpeg(1), "c.psd": b"", "d.txt": b"", ".e/f.png": png(2)}
    root = write_folder(tmp_path, files | {"dataset.json": b"{}"})
    with caplog.at_level(logging.INFO, "realness.trainer"):
        catalog = open_data(config(root))
        said = [record.getMessage() for record in caplog.records]
        assert said.count(catalog.listing()) == 1
        assert "2 images, 1 refused (the first is 'c.psd'" in catalog.listing()
        caplog.clear()
        monkeypatch.setattr(data_module, "rank", lambda: 1)
        open_data(config(root))
        assert catalog.listing() not in caplog.text


def test_notes_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, {"a.png": png(0), "dataset.json": b'{"labels": [["a.png", [1, 2]]]}'})
    open_data(config(tmp_path))
    assert "labels in dataset.json are ignored: they are lists of 2 numbers" in caplog.text


def test_flags_choose_what_is_read(tmp_path: Path) -> None:
    samples = {"0.jpg": jpeg(0), "0.seg.png": png(1), "1.jpg": jpeg(2), "1.seg.png": png(3)}
    write_folder(tmp_path / "set", {"a.png": png(4)})
    write_tar(tmp_path / "set" / "0.tar", samples)
    write_folder(tmp_path / "outside", {"b.png": png(5)})
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "outside" / "b.png")
    flags = ["--data", str(tmp_path / "set"), "--source-kind", "tar", "--wds-image", "jpg"]
    data = parse([*flags, "--follow-links"]).config.data
    assert (data.source_kind, data.wds_image, data.follow_links) == ("tar", "jpg", True)
    with pytest.raises(DataError, match="--source-kind"):
        open_data(config(tmp_path / "set"))
    with pytest.raises(DataError, match="--wds-image"):
        open_data(config(tmp_path / "set", source_kind="tar"))
    choice = dict(source_kind="tar", wds_image="jpg")
    assert names(open_data(config(tmp_path / "set", **choice))) == ["0.jpg", "1.jpg"]
    choice = dict(source_kind="folder", follow_links=True)
    assert names(open_data(config(tmp_path / "set", **choice))) == ["a.png", "b.png"]


def test_training_and_prepare_agree_on_the_images(tmp_path: Path) -> None:
    files = {f"{number}.jpg.{number}": jpeg(number) for number in range(6)}
    files |= {"z": png(7), ".h.png": png(8), "x.txt": b"", "@eaDir/a.png": png(9)}
    root = write_folder(tmp_path / "in", files)
    prepare(root, tmp_path / "out", Conversion(32))
    trained_on = names(open_data(config(root)))
    assert trained_on == names(open_data(config(tmp_path / "out")))
    assert len(trained_on) == 7
