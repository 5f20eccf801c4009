"""Scores of the moving average while a run goes on."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from realness import kernels
from realness.data_pipeline import Catalog
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.metrics import (
    Evaluator,
    Place,
    Plan,
    RealImages,
    Score,
    check_metrics,
    open_network,
)
from realness.trainer.reporting import Reporter
from realness.trainer.storage.scores import append_records

SEED = 0
"""Of latents, patches and directions; evaluate.py's default, so that its scores compare."""


class Monitor:
    """Measures one run's generator again and again, against real images that are kept.

    Every rank makes and embeds its share, so the scores do not depend on the number of ranks.
    """

    def __init__(self, config: TrainConfig, catalog: Catalog, device: torch.device) -> None:
        """Raises ValueError for metrics that cannot be measured, or a network that is not there."""
        metrics = config.metrics
        plan = Plan(
            check_metrics(metrics.metrics),
            num_images=metrics.metrics_images,
            num_real=len(catalog),
            batch_size=config.batch_size // world_size(),
            seed=SEED,
        )
        network = None
        if plan.needs_network:
            network = open_network(
                metrics.metrics_network, resize=metrics.metrics_resize, device=device
            )
        real = RealImages(catalog, config.data, plan.batch_size)
        self._evaluator = Evaluator(plan, real, network, self._show)
        self._digest = catalog.digest
        self._reporter: Reporter | None = None

    def scores(self, generator: TrainedGenerator, reporter: Reporter) -> list[Score]:
        """All scores of a generator, with its progress on the reporter's line; collective."""
        self._reporter = reporter
        # The draws are evaluate.py's, some on the CPU; the generator keeps to the run's --impl.
        with kernels.implementation("auto"):
            return self._evaluator.scores(generator)

    def measure(
        self, generator: TrainedGenerator, reporter: Reporter, folder: Path, images: int
    ) -> float:
        """Score the run's moving average and record it; returns the seconds it took. Collective.

        Whatever goes wrong costs these scores only: it is said, and training goes on.
        """
        started = time.monotonic()
        try:
            scores = self.scores(generator, reporter)
        except Exception as error:
            reporter.warn(
                f"NO METRICS at {images / 1000:.1f} kimg ({type(error).__name__}: {error}). "
                "Training goes on; they are tried again next time"
            )
            return time.monotonic() - started
        seconds = time.monotonic() - started
        if rank() == 0:
            place = Place(images, generator.iteration, SEED, self._digest, seconds)
            with reporter.hold("metrics.csv", "these scores are in stats.jsonl only."):
                append_records(folder, place.records(scores))
        reporter.log_scores(images, {score.metric: score.value for score in scores}, seconds)
        return seconds

    def _show(self, what: str, done: int, total: int) -> None:
        if self._reporter is not None:
            self._reporter.working(f"metrics: {what}, {done:,} / {total:,}")


def open_monitor(config: TrainConfig, catalog: Catalog, device: torch.device) -> Monitor | None:
    """The run's monitor; None where it is not to measure anything. Raises ValueError."""
    return Monitor(config, catalog, device) if config.metrics.metrics_kimg else None
