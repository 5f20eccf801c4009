"""Streams of real images, as the configuration has them."""

from __future__ import annotations

import torch

from realness.data_pipeline import BatchShare, Catalog, ImageStream, StreamSettings
from realness.trainer.config import DataConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.randomness import Stream

MIRRORED = (Stream.D_REAL, Stream.G_REAL)
"""Streams to be trained on. Images that are shown or measured are left as they are."""


def rank_share(global_batch: int) -> BatchShare:
    """This rank's share of a batch. Raises ValueError where the ranks do not divide it."""
    return BatchShare(global_batch, rank(), world_size())


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
    """A stream of the catalog's images; see ImageStream for the arguments and the errors.

    Every stream of the program is opened here, so that no setting is left out of one of them. Two
    fields of `config` are others' work: `data` names the catalog, which is open already, and
    `dequantize` is for Gan.normalise, which knows the draws.
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
