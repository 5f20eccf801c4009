"""Few images, with and without augmentation: `python benchmarks/small_data.py --cifar CIFAR.zip`.

Trains RealnessGAN on the light networks on the demo's 400 faces (64x64) and on 1,000 and 5,000
images of CIFAR10 (32x32), without augmentation, with ADA and with DiffAugment: equal updates,
several seeds, and all else as in the preset `demo` but for a constant learning rate. FD and KID of
the moving average are measured five times during each run, in the features of EfficientNet-lite0,
against all training images. Writes small_data.csv, small_data.md and small_data.png to
benchmarks/results.

Runs are kept in --work. After a kill the same command continues, and finished runs are not
repeated.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from small_data_report import write_figure, write_table
from training_runs import (
    command,
    extract_cifar,
    options,
    read_scores,
    run_command,
    side_by_side,
    write_csv,
)

from realness.trainer.reporting import read_stats

NUM_POINTS = 5
"""Measurements per run."""
NUM_SAMPLES = 1000
"""Generated images per measurement."""
FEATURES = "efflite0"
MEASURES = ("FD", "KID", "precision", "recall")


@dataclass(frozen=True)
class Set:
    """Images to train on: how many there are, for how many thousand images to train, and flags."""

    images: int
    kimg: float
    flags: tuple[str, ...]


_CIFAR = ("--resolution", "32", "--no-g-grey")
SETS = {
    "faces": Set(400, 40, ()),
    "cifar-1000": Set(1000, 60, _CIFAR),
    "cifar-5000": Set(5000, 60, _CIFAR),
}
ARMS = {
    # p rises by less than a millionth: no image is changed, but r_t is measured.
    "none": ("--augment", "ada", "--augment-ops", "bgc", "--augment-speed-kimg", "1e9"),
    # Ten times as fast as the default, because the runs are short.
    "ada": ("--augment", "ada", "--augment-ops", "bgc", "--augment-speed-kimg", "50"),
    "diffaugment": ("--augment", "diffaugment", "--augment-ops", "color,translation,cutout"),
}


@dataclass(frozen=True)
class Task:
    """One run."""

    images: str
    arm: str
    seed: int

    def command(self, data: Path, run: Path, kimg: float) -> list[str]:
        """The training command."""
        words = [
            *("--preset", "demo"),
            *(*SETS[self.images].flags, *ARMS[self.arm], "--data", data, "--run-dir", run),
            *("--seed", self.seed, "--total-kimg", kimg, "--lr-decay", "none"),
            *("--log-kimg", kimg / 50, "--sample-kimg", kimg / 10, "--checkpoint-kimg", kimg / 10),
            *("--metrics", "kid,fid,pr", "--metrics-network", FEATURES),
            *("--metrics-kimg", kimg / NUM_POINTS, "--metrics-images", NUM_SAMPLES),
        ]
        return command("train_ffhq.py", *words)


def tasks(sets: Iterable[str], seeds: int) -> list[Task]:
    """All runs; the first seed of everything comes first."""
    return [Task(name, arm, seed) for seed in range(seeds) for name in sets for arm in ARMS]


def run_folder(work: Path, task: Task) -> Path:
    """Where a run is kept."""
    return work / f"{task.images}-{task.arm}-seed{task.seed}"


def train(task: Task, work: Path, data: Path, kimg: float) -> Path:
    """Train a run, or continue or skip it; returns its folder. Raises RuntimeError if it fails."""
    folder = run_folder(work, task)
    run_command(task.command(data, folder, kimg), str(task))
    return folder


def rows_of(task: Task, run: Path) -> list[dict[str, object]]:
    """One row per measurement: the scores, and p and r_t as last recorded before it."""
    records = [record for record in read_stats(run / "stats.jsonl") if "augment_p" in record]
    rows: list[dict[str, object]] = []
    for images, found in read_scores(run).items():
        before = [record for record in records if record["images"] <= images]
        strength = {key: before[-1].get(key, "") if before else "" for key in ("augment_p", "r_t")}
        about = {"set": task.images, "arm": task.arm, "seed": task.seed, "kimg": images / 1000}
        scores = {name: found[f"{name}-{FEATURES}"] for name in MEASURES}
        rows.append({**about, **scores, **strength})
    return rows


# --- the images


def prepare_faces(work: Path) -> Path:
    """The demo's faces at 64x64, fetched and prepared if they are not there yet."""
    packed = work / "faces"
    if not packed.exists():
        source = work / "orl-faces"
        subprocess.run(command("fetch_faces.py", source), check=True)
        subprocess.run(command("prepare.py", source, packed, "--resolution", 64), check=True)
    return packed


def parse_options() -> argparse.Namespace:
    parser = options(__doc__, "small-data", seeds=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--cifar", type=Path, help="a zip with train/CLASS/NAME.jpg")
    chosen = parser.parse_args()
    if any(name.startswith("cifar") for name in chosen.sets) and chosen.cifar is None:
        parser.error("CIFAR10 is needed: give --cifar ZIP, or --sets faces")
    return chosen


def main() -> None:
    """Train everything, and write the table and the figure."""
    chosen = parse_options()
    chosen.work.mkdir(parents=True, exist_ok=True)
    data = {
        name: prepare_faces(chosen.work)
        if name == "faces"
        else extract_cifar(chosen.cifar, SETS[name].images, chosen.work)
        for name in chosen.sets
    }
    planned = tasks(chosen.sets, chosen.seeds)
    work = [
        partial(train, task, chosen.work, data[task.images], SETS[task.images].kimg)
        for task in planned
    ]
    finished = side_by_side(work, chosen.jobs, "training")
    rows = [row for task, run in zip(planned, finished, strict=True) for row in rows_of(task, run)]
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_csv(chosen.out / "small_data.csv", rows)
    write_table(chosen.out / "small_data.md", rows)
    write_figure(chosen.out / "small_data.png", rows)


if __name__ == "__main__":
    main()
