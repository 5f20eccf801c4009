"""benchmarks/small_data.py: its images, what it reads from runs, and its table and figure."""

from __future__ import annotations

import csv
import importlib
import json
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from realness.launch.train_arguments import parse
from tests.helpers import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("small_data")


def test_every_command_is_understood(bench: ModuleType) -> None:
    """And only the data, the augmentation and the seed differ between runs of one set."""
    tasks = bench.tasks(bench.SETS, 2)
    assert len(set(tasks)) == len(tasks) == 2 * len(bench.SETS) * len(bench.ARMS)
    for name, images in bench.SETS.items():
        configs = []
        for task in [task for task in tasks if task.images == name]:
            command = task.command(Path("data"), Path("run"), images.kimg)
            config = parse(command[2:]).config
            assert config.seed == task.seed
            assert config.augment.name == ("ada" if task.arm == "none" else task.arm)
            configs.append((config.optimizer, config.num_images, config.g, config.d))
        assert configs.count(configs[0]) == len(configs)


def test_images_are_spaced_evenly_over_classes(bench: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "cifar.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for part, count in (("test", 3), ("train", 10)):
            for name in ("cat", "dog"):
                for number in range(count):
                    packed.writestr(f"{part}/{name}/{number:04d}.jpg", f"{part} {name} {number}")
    folder = bench.extract_cifar(archive, 4, tmp_path / "work")
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found == {
        f"{name}-{number:04d}.jpg": f"train {name} {number}"
        for name in ("cat", "dog")
        for number in (0, 5)
    }
    with pytest.raises(ValueError, match="20 training images, 21 are needed"):
        bench.extract_cifar(archive, 21, tmp_path / "work")


def write_run(folder: Path, r_t: float, distance: float) -> None:
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["images", "metric", "value"])
        for images in (100, 200):
            for name in ("FD", "KID", "precision", "recall"):
                writer.writerow([images, f"{name}-efflite0", distance - images / 100])
            writer.writerow([images, "KID-efflite0-sd", 7])
    records = [{"images": n, "augment_p": 0.5, "r_t": r_t + n / 1000} for n in (50, 100, 150, 250)]
    (folder / "stats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_table_and_figure_of_finished_runs(bench: ModuleType, tmp_path: Path) -> None:
    report = importlib.import_module("small_data_report")
    rows = []
    for seed, distance in enumerate((10, 14, 11)):
        task = bench.Task("faces", "ada", seed)
        write_run(bench.run_folder(tmp_path, task), 0.1, distance)
        found = bench.rows_of(task, bench.run_folder(tmp_path, task))
        # The last records up to 100 and up to 200 images.
        assert [(row["kimg"], row["r_t"]) for row in found] == [(0.1, 0.2), (0.2, 0.25)]
        rows += found
    report.write_table(tmp_path / "table.md", rows)
    text = (tmp_path / "table.md").read_text()
    assert "| faces | ada | 3 | 0.2 | 9.0 (8.0 to 12.0) | 9.0 (8.0 to 12.0) |" in text
    report.write_figure(tmp_path / "figure.png", rows)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > image.height > 200
