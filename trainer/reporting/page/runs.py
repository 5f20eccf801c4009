"""Reading the contents of a run folder."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from realness.trainer.reporting.grid import IMAGES_SEEN, ROW_NAMES, SAMPLES_FOLDER
from realness.trainer.reporting.realness import REALNESS_FILE, Realness, read_realness
from realness.trainer.reporting.stats import STATS_FILE, Thinned, iterate_stats
from realness.trainer.reporting.stats import Record as StatsRecord
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    list_checkpoints,
    read_best,
)
from realness.trainer.storage.environment import ENVIRONMENT_FILE
from realness.trainer.storage.run_folder import CONFIG_FILE, holds_run
from realness.trainer.storage.scores import (
    CLASS_METRICS_FILE,
    METRICS_FILE,
    Record,
    read_records,
)

MAX_RECORDS = 2_500
"""Ten times as many as a curve has points."""

QUIET_SECONDS = 600.0
"""Seconds without new statistics after which a run is shown as interrupted."""

_TRAILING_NUMBER = re.compile(r"[-_. ]*(\d+)$")


class RunFolderError(ValueError):
    """A folder that is not a run folder; the message names it and what is missing."""


@dataclass(frozen=True)
class Frame:
    """One sample grid on disk."""

    path: Path
    images_seen: int | None
    """Images G had been trained on, if the file states it."""
    modified_ns: int = 0
    """When the file was last changed."""
    row_names: tuple[str, ...] = ()
    """Names of its rows, if the file states them."""


@dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[StatsRecord]
    """Sorted by `images`."""
    grids: dict[str, list[Frame]]
    """Sample grids by series (file name without the trailing number), oldest first."""
    scores: list[Record]
    """Scores of its generators, oldest first."""
    realness: list[Realness]
    """D's distributions for real and generated images, oldest first; RealnessGAN only."""
    stats_age_s: float
    """Seconds since the last record was written; infinite if there is none."""
    problems: list[str] = field(default_factory=list)
    """One sentence per file that could not be read."""
    best: int | None = None
    """Images seen by the checkpoint that the run keeps as its best, if it measures."""
    class_scores: list[Record] = field(default_factory=list)
    """Scores of single classes, oldest first."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def images(self) -> int:
        """Images seen at the last record."""
        return int(self.records[-1].get("images") or 0) if self.records else 0

    @property
    def total_images(self) -> int | None:
        """The configured length of the run in images, rounded up to whole iterations."""
        kimg, batch = self.config.get("total_kimg"), self.config.get("batch_size")
        if not (isinstance(kimg, (int, float)) and isinstance(batch, int) and batch > 0):
            return None
        return math.ceil(kimg * 1000 / batch) * batch

    @property
    def state(self) -> str:
        """One of `finished`, `running`, `interrupted` and `not started`."""
        if self.total_images is not None and self.images >= self.total_images:
            return "finished"
        if self._has_stopped_improving:
            return "finished"
        if not self.records:
            return "not started"
        return "running" if self.stats_age_s < QUIET_SECONDS else "interrupted"

    @property
    def _has_stopped_improving(self) -> bool:
        """Whether `--stop-after` has ended the run."""
        metrics = self.config.get("metrics")
        patience = metrics.get("stop_after") if isinstance(metrics, dict) else None
        if self.best is None or not isinstance(patience, int) or patience < 1:
            return False
        later = {record.images for record in self.scores if record.images > self.best}
        return len(later) >= patience

    @property
    def seconds(self) -> float:
        """Time spent by all processes that worked on the run: `elapsed_s` restarts with each."""
        clock = self.values("elapsed_s")
        restarts = [now for now, after in pairwise(clock) if after < now]
        return sum(restarts) + (clock[-1] if clock else 0.0)

    def latest(self, key: str) -> float | None:
        """The newest finite value of `key`."""
        return next((r[key] for r in reversed(self.records) if is_number(r.get(key))), None)

    def values(self, key: str) -> list[float]:
        """All finite values of `key`, oldest first."""
        return [record[key] for record in self.records if is_number(record.get(key))]


def load_run(run_dir: Path) -> Run:
    """Read config.json, environment.json, the statistics and scores, and the list of samples/*.png.

    Missing or damaged files are listed in `problems`, and are not fatal. Raises RunFolderError if
    `run_dir` is not a folder, or holds neither a configuration nor statistics.
    """
    if not run_dir.is_dir():
        what = "is a file" if run_dir.exists() else "does not exist"
        raise RunFolderError(f"{run_dir} {what}; give the folder of a run (its --run-dir)")
    stats = run_dir / STATS_FILE
    if not holds_run(run_dir) and not stats.exists():
        raise RunFolderError(
            f"{run_dir} is not a run folder: it holds neither {CONFIG_FILE} nor {STATS_FILE}; "
            f"give the folder that was passed as --run-dir"
        )
    problems: list[str] = []
    records = _read_records(stats)
    return Run(
        path=run_dir,
        config=_read_object(run_dir / CONFIG_FILE, problems),
        environment=_read_object(run_dir / ENVIRONMENT_FILE, problems),
        records=sorted(records, key=lambda record: record["images"]),
        grids=_find_grids(run_dir / SAMPLES_FOLDER, problems),
        scores=_read_scores(run_dir, METRICS_FILE, problems),
        realness=read_realness(run_dir / REALNESS_FILE),
        stats_age_s=time.time() - stats.stat().st_mtime if records else math.inf,
        problems=problems,
        best=_best_checkpoint(checkpoint_root(run_dir)),
        class_scores=_read_scores(run_dir, CLASS_METRICS_FILE, problems),
    )


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _best_checkpoint(root: Path) -> int | None:
    name = read_best(root)
    return next((int(path.name) for path in list_checkpoints(root) if path.name == name), None)


def _read_records(path: Path) -> list[StatsRecord]:
    """The records with `images`, thinned so that they take bounded memory.

    At most 2 * MAX_RECORDS of each kind (the set of its keys: intervals, measurements) are kept.
    """
    kinds: dict[frozenset[str], Thinned[StatsRecord]] = {}
    for record in iterate_stats(path):
        if is_number(record.get("images")):
            kinds.setdefault(frozenset(record), Thinned(2 * MAX_RECORDS)).add(record)
    return [record for kept in kinds.values() for record in kept.items()]


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing.")
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name} does not hold a JSON object.")
        return {}
    return content


def _read_scores(run_dir: Path, file: str, problems: list[str]) -> list[Record]:
    try:
        return [record for record in read_records(run_dir, file) if math.isfinite(record.value)]
    except (OSError, ValueError) as error:
        problems.append(str(error))
        return []


def _row_names(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _find_grids(folder: Path, problems: list[str]) -> dict[str, list[Frame]]:
    series: dict[str, list[Frame]] = {}
    for path in sorted(folder.glob("*.png")):
        number = _TRAILING_NUMBER.search(path.stem)
        name = path.stem[: number.start()] if number else path.stem
        try:
            modified_ns = path.stat().st_mtime_ns
            with Image.open(path) as image:
                noted = image.info.get(IMAGES_SEEN, "")
                rows = _row_names(image.info.get(ROW_NAMES, "[]"))
        except (OSError, Image.DecompressionBombError) as error:
            problems.append(f"{folder.name}/{path.name} cannot be read: {error}")
            continue
        seen = noted if noted.isdigit() else number.group(1) if number else ""
        frame = Frame(path, int(seen) if seen else None, modified_ns, rows)
        series.setdefault(name or "samples", []).append(frame)
    for frames in series.values():
        frames.sort(key=lambda frame: (frame.images_seen or 0, frame.path.name))
    return series
