"""Selecting the best checkpoint by the measured scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.config import ConfigError
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    list_checkpoints,
    read_best,
)
from realness.trainer.storage.scores import METRICS_FILE, Record, is_of_class, read_records

RANKING = ("fid", "kid", "swd", "intra-fid", "is", "pr", "ppl")
"""Metrics in the order in which they decide if the user names none."""

_NAMES = {
    "fid": ("FID", "FD-"),
    "intra-fid": ("intra-FID", "intra-FD-"),
    "kid": ("KID", "KID-"),
    "swd": ("SWD",),
    "is": ("IS",),
    "pr": ("precision-",),
    "ppl": ("PPL-",),
}
_MORE_IS_BETTER = ("is", "pr")


def is_headline(name: str, metric: str) -> bool:
    """Whether the score `name` is the main score of `metric`, by which checkpoints are ranked.

    FID or FD-network, the mean of the intra-FID over classes, KID, the mean of SWD over levels, IS,
    precision, PPL.
    """
    if is_of_class(name):
        return False
    whole = [item for item in _NAMES[metric] if not item.endswith("-")]
    begins = tuple(item for item in _NAMES[metric] if item.endswith("-"))
    return name in whole or (name.startswith(begins) and not name.endswith("-sd"))


def loss_of(metric: str, value: float) -> float:
    """A headline score of `metric` such that less is better; infinite if it is not a number."""
    if math.isnan(value):
        return math.inf
    return -value if metric in _MORE_IS_BETTER else value


def first_metric(text: str) -> str:
    """The first name in a list such as `fid,swd`. Raises ConfigError if it is not a metric."""
    name = text.split(",")[0].strip().lower()
    if name not in _NAMES:
        raise ConfigError(f"{name!r} is not a metric; use one of {', '.join(RANKING)}")
    return name


def best_record(records: Sequence[Record], metric: str) -> Record | None:
    """The record with the best headline score of `metric`; None if there is none.

    Scores with different settings are not comparable: only those with the settings of the newest
    record are used, and the newer one if a checkpoint was measured twice.
    """
    found = [record for record in records if is_headline(record.metric, metric)]
    if not found:
        return None
    curve = {item.images: item for item in found if item.settings == found[-1].settings}
    return min(curve.values(), key=lambda record: loss_of(metric, record.value))


def choose(run: Path, which: str) -> list[Path]:
    """`choose_checkpoints`, extended by `best`.

    That is the checkpoint which training kept as the best by its first metric. Without metrics
    during training it is the best score in metrics.csv; the first metric in RANKING with a score of
    a checkpoint on disk decides.

    Raises:
        ConfigError: if there is no checkpoint, or not the one asked for, or no score of one.
    """
    if which != "best":
        return choose_checkpoints(run, which)
    root = checkpoint_root(run)
    there = {int(path.name): path for path in list_checkpoints(root)}
    named = read_best(root)
    for path in there.values():
        if path.name == named:
            return [path]
    records = [record for record in read_records(run) if record.images in there]
    for metric in RANKING:
        best = best_record(records, metric)
        if best is not None:
            return [there[best.images]]
    raise ConfigError(
        f"--checkpoint=best: {run / METRICS_FILE} has no score of a checkpoint that still exists; "
        "measure them first: launch/evaluate.py RUN --checkpoint all"
    )
