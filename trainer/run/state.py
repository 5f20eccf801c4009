"""One process's view of a run, and whether its data fits it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from realness.data_pipeline import Catalog, ImageStream
from realness.trainer.checkpoint import Saver
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.randomness import Stream
from realness.trainer.reporting import Reporter
from realness.trainer.run.monitor import Monitor
from realness.trainer.updates.sharded_gan import ShardedGan

log = logging.getLogger("realness.trainer")


@dataclass
class Run:
    """What a run works with. `images` counts images seen by all ranks.

    monitor: measures the moving average; None where no metrics are asked for.
    went_back_to: images at the checkpoint that the run last went back to, if it ever did.
    """

    config: TrainConfig
    folder: Path
    catalog: Catalog
    gan: ShardedGan
    saver: Saver
    reporter: Reporter
    images: int
    monitor: Monitor | None = None
    went_back_to: int | None = None

    def stream(self, stream: Stream, updates: int, batch: int) -> ImageStream:
        """Real images for `updates` updates of `batch` an iteration, from where the run stands."""
        data = self.config.data
        iteration = self.images // self.config.batch_size
        return ImageStream(
            self.catalog,
            resolution=data.resolution,
            global_batch=batch,
            rank=rank(),
            world_size=world_size(),
            seed=self.config.seed,
            purpose=int(stream),
            mirror=data.mirror,
            first_sample=iteration * updates * batch,
            decoder=data.decoder,
            device=self.gan.device,
            num_threads=data.decode_threads,
            max_bad_images=data.max_bad_images,
        )


def open_reporter(config: TrainConfig, folder: Path, images: int) -> Reporter:
    """The reporter of a run that stands at `images`; it writes on rank 0 alone."""
    return Reporter(
        folder, total_images=config.num_images, start_images=images, enabled=rank() == 0
    )
