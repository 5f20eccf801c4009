"""How the first metric of a run develops: its best measurement, and how long ago that was."""

from __future__ import annotations

from collections.abc import Iterable

from realness.trainer.metrics import Score, first_metric, is_headline, loss_of
from realness.trainer.storage.checkpoint_folder import folder_name
from realness.trainer.storage.scores import Record


class Improvement:
    """The measurements of the first metric of a run.

    Rank 0's decide for all ranks: a score may differ between machines in its last digits, and only
    rank 0 reads the earlier ones of a resumed run.
    """

    def __init__(self, metrics: str, patience: int) -> None:
        """metrics: `--metrics`; patience: `--stop-after`.

        Raises ValueError if the first metric is not known.
        """
        self.metric = first_metric(metrics)
        self.losses: dict[int, float] = {}
        """Scores by images seen, so that less is better."""
        self._patience = patience

    def add(self, images: int, scores: Iterable[Score | Record]) -> None:
        """Take the metric's main score of a measurement after `images` images."""
        for score in scores:
            if is_headline(score.metric, self.metric):
                self.losses[images] = loss_of(self.metric, score.value)

    def cut_back(self, images: int) -> None:
        """Forget what was measured after `images` images: the run has gone back to there."""
        for later in [count for count in self.losses if count > images]:
            del self.losses[later]

    @property
    def best(self) -> int | None:
        """Images seen at the best measurement, the first one of equals; None if there is none."""
        return min(sorted(self.losses), key=self.losses.__getitem__, default=None)

    @property
    def num_since(self) -> int:
        """Number of measurements after the best one."""
        best = self.best
        return sum(images > best for images in self.losses) if best is not None else 0

    @property
    def is_over(self) -> bool:
        """Whether `--stop-after` ends the run."""
        return 0 < self._patience <= self.num_since

    def describe_end(self) -> str:
        """Why the run ends, which checkpoint is the best, and how to continue."""
        best, count = self.best or 0, self.num_since
        return (
            f"{self.metric} has not improved in {count} measurements, since {best / 1000:,.1f} "
            f"kimg: --stop-after={self._patience} ends the run. Its best checkpoint is "
            f"checkpoints/{folder_name(best)} (--checkpoint best). To continue the run, give "
            f"--stop-after 0, or a number above {count}"
        )
