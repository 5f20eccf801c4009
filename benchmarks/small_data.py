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
import csv
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import track
from small_data_report import write_figure, write_table
from train_step import RESULTS, ROOT, append

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
            *(sys.executable, ROOT / "launch" / "train_ffhq.py", "--preset", "demo"),
            *(*SETS[self.images].flags, *ARMS[self.arm], "--data", data, "--run-dir", run),
            *("--seed", self.seed, "--total-kimg", kimg, "--lr-decay", "none"),
            *("--log-kimg", kimg / 50, "--sample-kimg", kimg / 10, "--checkpoint-kimg", kimg / 10),
            *("--metrics", "kid,fid,pr", "--metrics-network", FEATURES),
            *("--metrics-kimg", kimg / NUM_POINTS, "--metrics-images", NUM_SAMPLES),
        ]
        return [str(word) for word in words]


def tasks(sets: Iterable[str], seeds: int) -> list[Task]:
    """All runs; the first seed of everything comes first."""
    return [Task(name, arm, seed) for seed in range(seeds) for name in sets for arm in ARMS]


def run_folder(work: Path, task: Task) -> Path:
    """Where a run is kept."""
    return work / f"{task.images}-{task.arm}-seed{task.seed}"


def train(task: Task, work: Path, data: Path, kimg: float) -> Path:
    """Train a run, or continue or skip it; returns its folder. Raises RuntimeError if it fails."""
    folder = run_folder(work, task)
    ended = subprocess.run(
        task.command(data, folder, kimg),
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if ended.returncode:
        raise RuntimeError(f"{task} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return folder


def rows_of(task: Task, run: Path) -> list[dict[str, object]]:
    """One row per measurement: the scores, and p and r_t as last recorded before it."""
    scores: dict[int, dict[str, float]] = {}
    with (run / "metrics.csv").open(newline="") as file:
        for record in csv.DictReader(file):
            name = record["metric"].removesuffix(f"-{FEATURES}")
            if name in MEASURES:
                scores.setdefault(int(record["images"]), {})[name] = float(record["value"])
    records = [record for record in read_stats(run / "stats.jsonl") if "augment_p" in record]
    rows: list[dict[str, object]] = []
    for images, found in sorted(scores.items()):
        before = [record for record in records if record["images"] <= images]
        strength = {key: before[-1].get(key, "") if before else "" for key in ("augment_p", "r_t")}
        about = {"set": task.images, "arm": task.arm, "seed": task.seed, "kimg": images / 1000}
        rows.append({**about, **{name: found[name] for name in MEASURES}, **strength})
    return rows


# --- the images


def prepare_faces(work: Path) -> Path:
    """The demo's faces at 64x64, fetched and prepared if they are not there yet."""
    packed = work / "faces"
    if not packed.exists():
        for command in (
            ("fetch_faces.py", work / "orl-faces"),
            ("prepare.py", work / "orl-faces", packed, "--resolution", "64"),
        ):
            script, *arguments = map(str, command)
            subprocess.run([sys.executable, str(ROOT / "launch" / script), *arguments], check=True)
    return packed


def extract_cifar(archive: Path, count: int, work: Path) -> Path:
    """`count` training images of CIFAR10, evenly spaced over the sorted names, and so over classes.

    archive: a zip with train/CLASS/NAME.jpg or .png at 32x32. Raises ValueError if it has too few.
    """
    folder = work / f"cifar-{count}"
    with zipfile.ZipFile(archive) as packed:
        chosen = evenly_spaced(training_images(packed.namelist()), count)
        if not folder.exists():
            folder.mkdir(parents=True)
            for name in chosen:
                path = PurePosixPath(name)
                (folder / f"{path.parent.name}-{path.name}").write_bytes(packed.read(name))
    return folder


def training_images(names: Sequence[str]) -> list[str]:
    """The names of training images, sorted."""
    return sorted(
        name
        for name in names
        if "train" in PurePosixPath(name).parts and name.lower().endswith((".jpg", ".png"))
    )


def evenly_spaced(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names. Raises ValueError if there are fewer."""
    if len(names) < count:
        raise ValueError(f"there are {len(names)} training images, {count} are needed")
    return [names[k * len(names) // count] for k in range(count)]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--cifar", type=Path, help="a zip with train/CLASS/NAME.jpg")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "small-data")
    options = parser.parse_args()
    if any(name.startswith("cifar") for name in options.sets) and options.cifar is None:
        parser.error("CIFAR10 is needed: give --cifar ZIP, or --sets faces")
    return options


def main() -> None:
    """Train everything, and write the table and the figure."""
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    data = {
        name: prepare_faces(options.work)
        if name == "faces"
        else extract_cifar(options.cifar, SETS[name].images, options.work)
        for name in options.sets
    }
    planned = tasks(options.sets, options.seeds)
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = pool.map(
            lambda task: train(task, options.work, data[task.images], SETS[task.images].kimg),
            planned,
        )
        finished = list(track(runs, "training", total=len(planned), console=Console(stderr=True)))
    rows = [row for task, run in zip(planned, finished, strict=True) for row in rows_of(task, run)]
    (RESULTS / "small_data.csv").unlink(missing_ok=True)
    append(RESULTS / "small_data.csv", rows)
    write_table(RESULTS / "small_data.md", rows)
    write_figure(RESULTS / "small_data.png", rows)


if __name__ == "__main__":
    main()
