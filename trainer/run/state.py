"""The objects of a run in one process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from realness.data_pipeline import Catalog, ImageStream
from realness.trainer.checkpoint import Saver
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank
from realness.trainer.distributed.streams import open_stream, rank_share
from realness.trainer.randomness import Stream
from realness.trainer.reporting import Reporter
from realness.trainer.run.contention import BusyAdvice
from realness.trainer.run.monitor import Monitor
from realness.trainer.updates.sharded_gan import ShardedGan

log = logging.getLogger("realness.trainer")


@dataclass
class Run:
    """The objects and counters of a run. `images` counts images seen by all ranks.

    monitor: measures the generator; None if metrics are disabled.
    snapshots: writes the snapshots of the power-function averages; None if the run keeps none.
    went_back_to: images at the checkpoint that the run last went back to, if it ever did.
    warned_of_leaks: whether the probability of augmentation was too high in the last record.
    told_samples: whether the place of the sample grids was said.
    busy: advice on a machine that is busy with other programs.
    is_over: whether the first metric has not improved for as long as `--stop-after` allows.
    is_between_updates: whether all of the last iteration, and nothing of the next, has happened.
    """

    config: TrainConfig
    folder: Path
    catalog: Catalog
    gan: ShardedGan
    saver: Saver
    reporter: Reporter
    images: int
    monitor: Monitor | None = None
    snapshots: Saver | None = None
    went_back_to: int | None = None
    warned_of_leaks: bool = False
    told_samples: bool = False
    busy: BusyAdvice = field(default_factory=BusyAdvice)
    is_over: bool = False
    is_between_updates: bool = True

    def stream(self, stream: Stream, updates: int, batch: int) -> ImageStream:
        """Real images for `updates` updates per iteration of `batch` images, from `images` on."""
        iteration = self.images // self.config.batch_size
        return open_stream(
            self.config.data,
            self.catalog,
            stream,
            rank_share(batch),
            seed=self.config.seed,
            first_sample=iteration * updates * batch,
            device=self.gan.device,
        )


def open_reporter(config: TrainConfig, folder: Path, images: int) -> Reporter:
    """The reporter of a run that has seen `images` images; it writes only on rank 0."""
    return Reporter(
        folder, total_images=config.num_images, start_images=images, enabled=rank() == 0
    )
