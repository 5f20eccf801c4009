"""Classes in `evaluate`: those of the real images, and scores per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from realness.data_pipeline import SourceOptions
from realness.launch.evaluated_images import RUN, differing_classes, open_real_images
from realness.trainer.config import ClassesConfig, ConfigError, DataConfig
from tests.helpers.metric_images import pictures


def write_classes(folder: Path, counts: dict[str, int]) -> Path:
    """A folder for each class with as many different images of 32x32."""
    images = iter(pictures(sum(counts.values())).permute(0, 2, 3, 1).numpy())
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(next(images)).save(folder / name / f"{number:02d}.png")
    return folder


def run_data(labels: str) -> DataConfig:
    return DataConfig(data="elsewhere", labels=labels, resolution=32)


def test_images_are_labelled_as_those_of_the_run_unless_told_otherwise(tmp_path: Path) -> None:
    source = str(write_classes(tmp_path / "set", {"cat": 2, "dog": 1}))
    settings, catalog = open_real_images(run_data("folders"), source, SourceOptions(labels=RUN))
    assert (settings.labels, list(catalog.class_names)) == ("folders", ["cat", "dog"])
    settings, catalog = open_real_images(run_data("folders"), source, SourceOptions(labels="none"))
    assert (settings.labels, catalog.num_classes) == ("none", 0)
    table = tmp_path / "labels.csv"
    table.write_text("cat/00.png,0\ncat/01.png,1\ndog/00.png,2\n")
    _, catalog = open_real_images(run_data("none"), source, SourceOptions(labels=str(table)))
    assert [catalog.label(number) for number in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError, match="this choice is the run's: give one for these images"):
        open_real_images(run_data(str(tmp_path / "gone.csv")), source, SourceOptions(labels=RUN))


def test_other_classes_than_the_runs_are_named(tmp_path: Path) -> None:
    source = str(write_classes(tmp_path / "set", {"cat": 3, "dog": 1}))
    _, catalog = open_real_images(run_data("folders"), source, SourceOptions(labels=RUN))
    same = ClassesConfig(True, (6, 2), ("cat", "dog"))
    assert differing_classes(same, catalog) == []
    assert differing_classes(replace(same, class_names=()), catalog) == []
    assert differing_classes(ClassesConfig(), catalog) == []
    (message,) = differing_classes(replace(same, class_counts=(4, 4)), catalog)
    assert "75.0 % of them, and 50.0 % of the run's, are of class cat" in message
    for other in (ClassesConfig(True, (6, 2), ("dog", "cat")), ClassesConfig(True, (8,))):
        (message,) = differing_classes(other, catalog)
        assert "the images have other classes than the run: 2 classes of 1 (dog)" in message
    _, catalog = open_real_images(run_data("none"), source, SourceOptions(labels=RUN))
    (message,) = differing_classes(same, catalog)
    assert message.startswith("the images have no classes")
