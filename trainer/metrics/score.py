"""A score, and its row in the table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from realness.trainer.storage.scores import Record


@dataclass(frozen=True)
class Score:
    """A score; `network` is empty if none was used, `num_real` is 0 if no real image was."""

    metric: str
    value: float
    num_images: int
    num_real: int
    network: str = ""
    resize: str = ""


@dataclass(frozen=True)
class CheckpointInfo:
    """The checkpoint that scores refer to, and how they were measured.

    images, iteration: how far it was trained; seed: of the samples; data: digest of the real
    images; seconds: time spent on measuring; weights: of G.
    """

    images: int
    iteration: int
    seed: int
    data: str
    seconds: float
    weights: str = "ema"

    def records(self, scores: Sequence[Score]) -> list[Record]:
        """Rows for `metrics.csv`."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return [
            Record(
                time=now,
                images=self.images,
                iteration=self.iteration,
                metric=score.metric,
                value=score.value,
                num_images=score.num_images,
                num_real=score.num_real,
                network=score.network,
                resize=score.resize,
                seed=self.seed,
                data=self.data[:12],
                seconds=round(self.seconds, 1),
                weights=self.weights,
            )
            for score in scores
        ]
