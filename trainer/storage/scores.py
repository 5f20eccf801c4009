"""`metrics.csv` of a run folder, with one row per score, and summaries of training curves."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from realness.trainer.storage.files import write_text

METRICS_FILE = "metrics.csv"
CLASS_METRICS_FILE = "metrics_classes.csv"
"""Scores of single classes, in the same columns; their metrics are named `intra-FID/CLASS`."""


@dataclass(frozen=True)
class Record:
    """One score of one checkpoint, and everything it depends on.

    time: UTC, ISO 8601; images: images seen in training; seconds: duration of the checkpoint's
    whole evaluation; data: the first 12 digits of the real images' digest; weights: those of G that
    were scored, "ema" or "raw".
    """

    time: str
    images: int
    iteration: int
    metric: str
    value: float
    num_images: int
    num_real: int
    network: str
    resize: str
    seed: int
    data: str
    seconds: float
    weights: str = "ema"

    @property
    def settings(self) -> tuple[object, ...]:
        """The fields that must be equal for two records to belong to one curve."""
        return (
            self.metric, self.num_images, self.num_real, self.network, self.resize, self.seed,
            self.data, self.weights,
        )  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Statistics of a metric over checkpoints; `deviation` is the population standard deviation."""

    metric: str
    least: float
    greatest: float
    mean: float
    deviation: float
    count: int


def append_records(run: Path, records: Iterable[Record]) -> Path:
    """Append rows to the run's metrics.csv, with a header if it is new. Returns its path.

    Scores of single classes go to metrics_classes.csv.
    A file of an earlier version has fewer columns, and is rewritten with all of them.
    """
    rows: dict[bool, list[Record]] = {False: [], True: []}
    for record in records:
        rows[is_of_class(record.metric)].append(record)
    if rows[True]:
        _append(run / CLASS_METRICS_FILE, rows[True])
    return _append(run / METRICS_FILE, rows[False])


def is_of_class(metric: str) -> bool:
    """Whether a score is that of a single class."""
    return "/" in metric


def _append(path: Path, records: Iterable[Record]) -> Path:
    columns = [item.name for item in fields(Record)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    header = _header(path)
    if header == columns:
        writer.writerows(asdict(record) for record in records)
        with path.open("a", newline="") as file:
            file.write(text.getvalue())
        return path
    earlier = read_records(path.parent, path.name) if header else []
    writer.writeheader()
    writer.writerows(asdict(record) for record in [*earlier, *records])
    write_text(path, text.getvalue())
    return path


def _header(path: Path) -> list[str]:
    """The names of a table's columns; empty if it is missing or empty."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def read_records(run: Path, file: str = METRICS_FILE) -> list[Record]:
    """The rows of the run's metrics.csv, or of CLASS_METRICS_FILE, oldest first.

    Empty if the file is missing.

    Raises ValueError, naming the file and the row, for contents that are not scores.
    """
    path = run / file
    if not path.exists():
        return []
    kinds = {"int": int, "float": float, "str": str}
    try:
        with path.open(newline="") as table:
            rows = list(csv.DictReader(table))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a valid table of scores ({error}); remove it") from error
    records = []
    for row in rows:
        try:
            values = {
                item.name: kinds[str(item.type)](row[item.name])
                for item in fields(Record)
                if item.name in row or item.default is MISSING
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has a row that is not a valid score ({error}): {row}; remove it"
            ) from error
        records.append(Record(**values))
    return records


def curves(records: Iterable[Record]) -> list[list[Record]]:
    """The records grouped by metric and settings in order of appearance, each sorted by images.

    If a checkpoint was measured twice, the later row is used.
    """
    found: dict[tuple[object, ...], dict[int, Record]] = {}
    for record in records:
        found.setdefault(record.settings, {})[record.images] = record
    return [[curve[images] for images in sorted(curve)] for curve in found.values()]


def summarise(records: Iterable[Record], from_iteration: int = 0) -> list[Summary]:
    """Minimum, maximum, mean and SD over checkpoints, for each metric in order of appearance.

    As in RealnessGAN's Table 1 (Xiangli et al., ICLR 2020), which starts at iteration 20,000. If a
    checkpoint was measured twice, the later row is used. Records must agree in all settings except
    the metric; metrics without a checkpoint from `from_iteration` on are omitted.
    """
    late = [record for record in records if record.iteration >= from_iteration]
    return [_summary(curve) for curve in curves(late)]


def chart_of(metric: str) -> str:
    """The chart in which a metric is drawn; empty for the standard deviation of another metric."""
    if metric.endswith("-sd"):
        return ""
    if metric.startswith("SWD"):
        return "SWD"
    if metric.startswith(("precision-", "recall-")):
        return "Precision and recall"
    return metric


def describe(record: Record) -> str:
    """How a score was measured, such as `2,048 generated, 400 real, inception, clean`."""
    counts = [f"{record.num_images:,} generated"]
    if record.num_real:
        counts.append(f"{record.num_real:,} real")
    weights = "" if record.weights == "ema" else f"{record.weights} weights"
    return ", ".join([*counts, *filter(None, [record.network, record.resize, weights])])


def _summary(curve: list[Record]) -> Summary:
    values = [record.value for record in curve]
    return Summary(
        curve[0].metric,
        min(values),
        max(values),
        statistics.fmean(values),
        statistics.pstdev(values),
        len(values),
    )
