"""Measuring while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import any_time, not_negative, positive


@dataclass(frozen=True)
class MetricsConfig:
    """Scores of the moving average during training; the trajectory does not depend on them."""

    metrics_kimg: float = any_time(0.0)
    """Measure the moving average every so many thousand images, and at the end; 0 never."""
    metrics: str = any_time("swd")
    """Comma-separated: swd, fid, kid, is, pr, ppl. swd needs no feature network."""
    metrics_images: int = any_time(2048)
    """Images generated each time, over all ranks; swd takes as many real ones, the others all."""
    metrics_network: Literal["inception", "efflite0"] = any_time("inception")
    """Feature network: the Inception of FID, downloaded once, or EfficientNet-lite0, which the
    extra offline-features installs."""
    metrics_resize: Literal["clean", "bilinear", "network"] = any_time("clean")
    """How images come to its size: antialiased bicubic, plain bilinear, or left to the network."""

    def __post_init__(self) -> None:
        not_negative(self, "metrics_kimg")
        positive(self, "metrics_images")
