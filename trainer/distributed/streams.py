"""Real images: the set and streams of it, as set in the configuration."""

from __future__ import annotations

import torch

from realness.data_pipeline import (
    BatchShare,
    Catalog,
    ImageStream,
    SourceOptions,
    StreamSettings,
    open_catalog,
)
from realness.trainer.config import DataConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.randomness import Stream

MIRRORED = (Stream.D_REAL, Stream.G_REAL)
"""Streams used for training. Images that are shown or measured are never mirrored."""


def rank_share(global_batch: int) -> BatchShare:
    """This rank's share of a batch. Raises ValueError unless the ranks divide it evenly."""
    return BatchShare(global_batch, rank(), world_size())


def open_images(config: DataConfig) -> Catalog:
    """Open the configured images; see open_catalog for the errors."""
    options = SourceOptions(
        config.source_kind, config.wds_image, config.follow_links, config.labels
    )
    return open_catalog(config.data, options)


def open_stream(
    config: DataConfig,
    catalog: Catalog,
    purpose: Stream,
    share: BatchShare,
    *,
    seed: int,
    first_sample: int = 0,
    device: torch.device | str = "cpu",
) -> ImageStream:
    """Open a stream of the catalog's images; see ImageStream for the arguments and errors.

    Every stream of the program is opened here, so that each gets all settings. Some fields of
    `config` are not used: those of open_images, since the catalog is already open, and
    `dequantize`, which is applied by Gan.normalise, which has the draws.
    """
    settings = StreamSettings(
        resolution=config.resolution,
        mirror=config.mirror and purpose in MIRRORED,
        decoder=config.decoder,
        decode_threads=config.decode_threads,
        max_bad_images=config.max_bad_images,
    )
    return ImageStream(
        catalog,
        settings,
        share,
        seed=seed,
        purpose=int(purpose),
        first_sample=first_sample,
        device=device,
    )
