"""What benchmarks that train many runs share: commands, runs side by side, images, and scores."""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from train_step import RESULTS, ROOT, append

T = TypeVar("T")
Row = dict[str, Any]
"""A row of a table of scores; `arm`, `seed` and `kimg` are always there."""


# --- commands


def command(script: str, *words: object) -> list[str]:
    """The command line of a script in launch/."""
    return [sys.executable, str(ROOT / "launch" / script), *map(str, words)]


def run_command(words: Sequence[str], name: str) -> None:
    """Run a command with one thread. Raises RuntimeError, with the last output, if it fails."""
    ended = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if ended.returncode:
        raise RuntimeError(f"{name} ended with {ended.returncode}: {ended.stderr[-2000:]}")


def side_by_side(work: Sequence[Callable[[], T]], jobs: int, title: str) -> list[T]:
    """The results of `work`, in order; `jobs` pieces run at a time, and a bar shows progress."""
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda piece: piece(), work)
        console = Console(stderr=True)
        return list(track(results, title, total=len(work), console=console))


def options(document: str | None, work: str, seeds: int) -> argparse.ArgumentParser:
    """A parser with the options that all of these benchmarks have; `work` is a folder in runs/."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of everything")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / work, help="folder of runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser


@dataclass(frozen=True)
class TrainingRun:
    """A run of `realness train`: what it belongs to, and its arguments but for seed and folder."""

    arm: str
    seed: int
    words: tuple[object, ...]

    def folder(self, work: Path) -> Path:
        """Where the run is kept."""
        return work / f"{re.sub('[^a-z0-9]+', '-', self.arm.lower())}-seed{self.seed}"

    def command(self, work: Path) -> list[str]:
        """The training command, which also continues a run that was stopped."""
        own = ("--seed", self.seed, "--run-dir", self.folder(work))
        return command("train_ffhq.py", *self.words, *own)

    def train(self, work: Path) -> Path:
        """Train, continue or skip the run; returns its folder. RuntimeError if it fails."""
        run_command(self.command(work), f"{self.arm}, seed {self.seed}")
        return self.folder(work)


# --- scores


def read_scores(run: Path, weights: str = "ema") -> dict[int, dict[str, float]]:
    """The scores of some weights in a run's metrics.csv: images -> metric -> the last value.

    Empty if there is no such file.
    """
    scores: dict[int, dict[str, float]] = {}
    if not (run / "metrics.csv").exists():
        return scores
    with (run / "metrics.csv").open(newline="") as file:
        for record in csv.DictReader(file):
            if record.get("weights", "ema") == weights:
                own = scores.setdefault(int(record["images"]), {})
                own[record["metric"]] = float(record["value"])
    return dict(sorted(scores.items()))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a table; every row also says on which machine, and with which versions, it ran."""
    path.unlink(missing_ok=True)
    append(path, [dict(row) for row in rows])


# --- images


def write_results(out: Path, name: str, rows: Sequence[Mapping[str, Any]], page: str) -> None:
    """Write `name`.csv and `name`.md to `out`, and print the page."""
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / f"{name}.csv", rows)
    print(page)
    (out / f"{name}.md").write_text(page)


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
