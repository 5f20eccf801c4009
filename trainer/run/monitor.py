"""Scores of the generator during training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from realness import kernels
from realness.data_pipeline import Catalog
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.metrics import (
    CheckpointInfo,
    Evaluator,
    MeasurementPlan,
    RealImages,
    Score,
    check_metrics,
    compared_classes,
    open_network,
)
from realness.trainer.reporting import Reporter
from realness.trainer.run.improvement import Improvement
from realness.trainer.storage.scores import append_records, is_of_class, read_records

log = logging.getLogger("realness.trainer")

SEED = 0
"""Seed of latents, patches and directions: evaluate.py's default, so that scores are comparable."""


class Monitor:
    """Measures a run's generator repeatedly; what it computes of the real images is kept.

    Every rank generates and embeds its share, and scores do not depend on the number of ranks.
    """

    def __init__(self, config: TrainConfig, catalog: Catalog, device: torch.device) -> None:
        """Raises ValueError for metrics that cannot be measured, or a missing feature network."""
        metrics, names = config.metrics, check_metrics(config.metrics.metrics)
        plan = MeasurementPlan(
            names,
            num_images=metrics.metrics_images,
            num_real=len(catalog),
            batch_size=config.batch_size // world_size(),
            seed=SEED,
            classes=compared_classes(
                names, config.classes, catalog, metrics.metrics_images, len(catalog)
            ),
        )
        if plan.classes is not None and plan.classes.note and rank() == 0:
            log.warning("%s", plan.classes.note)
        network = None
        if plan.needs_network:
            network = open_network(
                metrics.metrics_network, resize=metrics.metrics_resize, device=device
            )
        real = RealImages(catalog, config.data, plan.batch_size)
        self._evaluator = Evaluator(plan, real, network, self._show)
        self._digest = catalog.digest
        self._weights = metrics.metrics_weights
        self.improvement = Improvement(metrics.metrics, metrics.stop_after)
        self._reporter: Reporter | None = None

    def recall(self, folder: Path, images: int) -> None:
        """Take the first metric's earlier scores from metrics.csv, for a run that resumes after
        `images` images; those with other settings do not count."""
        try:
            records = read_records(folder)
        except ValueError as error:
            log.warning("earlier scores do not count: %s", error)
            return
        settings = (SEED, self._digest[:12], self._weights)
        for record in records:
            same = (record.seed, record.data, record.weights) == settings
            if same and record.images <= images and self._evaluator.compares(record):
                self.improvement.add(record.images, [record])

    def scores(self, generator: TrainedGenerator, reporter: Reporter) -> list[Score]:
        """All scores of a generator, with progress shown by the reporter; collective."""
        self._reporter = reporter
        # The same draws as in evaluate.py, some on the CPU; the generator keeps the run's --impl.
        with kernels.implementation("auto"):
            return self._evaluator.scores(generator)

    def measure(
        self, make: Callable[[], TrainedGenerator], reporter: Reporter, folder: Path, images: int
    ) -> float:
        """Score the generator that `make` returns and record it; returns the seconds. Collective.

        Any error costs only these scores: it is reported, and training continues.
        """
        started = time.monotonic()
        try:
            generator = make()
            scores = self.scores(generator, reporter)
        except Exception as error:
            reporter.warn(
                f"NO METRICS at {images / 1000:.1f} kimg ({type(error).__name__}: {error}). "
                "Training continues; they are tried again next time"
            )
            return time.monotonic() - started
        seconds = time.monotonic() - started
        self.improvement.add(images, scores)
        if rank() == 0:
            info = CheckpointInfo(
                images, generator.iteration, SEED, self._digest, seconds, generator.weights
            )
            with reporter.hold("metrics.csv", "these scores are in stats.jsonl only."):
                append_records(folder, info.records(scores))
        whole = [score for score in scores if not is_of_class(score.metric)]
        reporter.log_scores(images, {score.metric: score.value for score in whole}, seconds)
        return seconds

    def _show(self, what: str, done: int, total: int) -> None:
        if self._reporter is not None:
            self._reporter.working(f"metrics: {what}, {done:,} / {total:,}")


def open_monitor(config: TrainConfig, catalog: Catalog, device: torch.device) -> Monitor | None:
    """The run's monitor; None if metrics are disabled. Raises ValueError as `Monitor` does."""
    return Monitor(config, catalog, device) if config.metrics.metrics_kimg else None
