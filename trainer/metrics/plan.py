"""What to measure: the metrics, and the numbers of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from realness.trainer.metrics.inception_score import NUM_SPLITS
from realness.trainer.metrics.intra_fid import INTRA_FID, ComparedClasses
from realness.trainer.metrics.precision_recall import NEIGHBOUR
from realness.trainer.metrics.swd import DEFAULT_NUM_IMAGES as MAX_PATCH_IMAGES

METRICS = ("swd", "fid", INTRA_FID, "kid", "is", "pr", "ppl")


@dataclass(frozen=True)
class MeasurementPlan:
    """The metrics to measure, and the numbers of generated and of real images.

    classes: those of the intra-FID, from `compared_classes`.
    """

    metrics: tuple[str, ...]
    num_images: int
    num_real: int
    batch_size: int
    seed: int = 0
    classes: ComparedClasses | None = None

    def __post_init__(self) -> None:
        named, known = ",".join(self.metrics), ",".join(METRICS)
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"--metrics={named}: unknown {unknown}; choose from {known}")
        if self.has(INTRA_FID) and self.classes is None:
            raise ValueError(f"--metrics={named}: the classes of {INTRA_FID} are missing")
        least = max([2, NUM_SPLITS * ("is" in self.metrics), (NEIGHBOUR + 1) * self.has("pr")])
        for name, count in (("generated", self.num_images), ("real", self.num_real)):
            if count < least:
                raise ValueError(
                    f"{count} {name} images are too few for --metrics={named}; use at least {least}"
                )
        if self.batch_size < 1:
            raise ValueError(f"--batch-size={self.batch_size} must be at least 1")

    def has(self, *names: str) -> bool:
        """Whether any of these metrics is to be measured."""
        return any(name in self.metrics for name in names)

    @property
    def needs_network(self) -> bool:
        return self.has("fid", INTRA_FID, "kid", "is", "pr", "ppl")

    @property
    def num_patch_images(self) -> int:
        """Images per set whose patches are compared: the same number, at most that of the paper."""
        return min(self.num_images, self.num_real, MAX_PATCH_IMAGES)


def check_metrics(text: str) -> tuple[str, ...]:
    """Parse a list such as `swd,fid`; known metrics come first, in the order of METRICS."""
    wanted: Sequence[str] = [name.strip().lower() for name in text.split(",") if name.strip()]
    known = tuple(name for name in METRICS if name in wanted)
    return known + tuple(name for name in wanted if name not in METRICS)
