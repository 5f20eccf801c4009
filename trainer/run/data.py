"""Opening the images of a run, and checking them on every rank."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from realness.data_pipeline import (
    Catalog,
    check_images,
    check_shards,
    class_counts,
    describe_classes,
    parts_of_rank,
)
from realness.trainer.config import ConfigError, TrainConfig, check_classes
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.device import local_rank
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.distributed.streams import open_images
from realness.trainer.updates.build import Blueprint

log = logging.getLogger("realness.trainer")

FEW_IMAGES = 30_000
"""A rule of thumb of the field: with fewer images, augmentation helps."""


def open_data(config: TrainConfig) -> Catalog:
    """Open the run's images, and check that those this rank reads are present and usable.

    Raises ConfigError if a batch cannot be split evenly over the parts of the data set, or if the
    images have no classes and need some, and DataError for problems with the images.
    """
    catalog = open_images(config.data)
    if rank() == 0:
        listing, *notes = catalog.messages()
        log.info("%s", listing)
        for note in notes:
            log.warning("%s", note)
    known = with_classes(config, catalog)
    if rank() == 0 and config.classes.conditional:
        log.info("%s", describe_classes(catalog))
    check_parts(known, catalog.num_parts, world_size())
    _check_number(config, len(catalog))
    check_shards(catalog, rank(), world_size())
    check_images(
        catalog,
        config.data.resolution,
        max_bad_images=config.data.max_bad_images,
        # All ranks of a node find the same bad images; only one of them lists them.
        level=logging.WARNING if local_rank() == 0 else logging.DEBUG,
    )
    if catalog.num_parts > 1:
        parts = ", ".join(map(str, parts_of_rank(rank(), world_size(), catalog.num_parts)))
        log.info(
            "%d parts of images; this rank (%d) reads part %s", catalog.num_parts, rank(), parts
        )
    return catalog


def with_classes(config: TrainConfig, catalog: Catalog) -> TrainConfig:
    """The configuration with the classes of the images, for a conditional run.

    Raises ConfigError if the images have no classes.
    """
    if not config.classes.conditional:
        return config
    counts = class_counts(catalog)
    check_classes(counts, len(catalog), config.data.data, catalog.notes)
    classes = replace(
        config.classes, class_counts=tuple(counts), class_names=tuple(catalog.class_names)
    )
    return replace(config, classes=classes)


def _check_number(config: TrainConfig, num_images: int) -> None:
    """Raise ConfigError for augmentation of fewer images than one batch; advise on few images."""
    augmented = config.augment.name != "none"
    if augmented and num_images < config.batch_size:
        raise ConfigError(
            f"--data={config.data.data} has {num_images} images, fewer than one batch of "
            f"{config.batch_size}, which augmentation cannot make up for; add images, or use "
            f"--batch-size {num_images} or less"
        )
    if not augmented and num_images < FEW_IMAGES and rank() == 0:
        log.info(
            "%s images are few: D may memorise them, and G then stops improving; consider "
            "--augment ada (docs/small-data.md)",
            f"{num_images:,}",
        )


def check_parts(config: TrainConfig, num_parts: int, num_ranks: int) -> None:
    """Raise ConfigError unless every batch of real images has the same number from each part."""
    if num_parts == 1:
        return
    batch, fakes = config.batch_size, config.far.far_fakes
    # Images of a whole batch that are not real: in D's updates, and in G's if it sees real ones.
    not_real = {fakes}
    if Blueprint.of(config).needs_real_in_g_step:
        not_real.add(0)

    def fits(batch: int) -> bool:
        return batch % num_ranks == 0 and all((batch - n) % num_parts == 0 for n in not_real)

    if fits(batch):
        return
    step = math.lcm(num_parts, num_ranks)
    nearest = next(filter(fits, range(batch, batch + step)), None)
    remedy = f"--batch-size {nearest}" if nearest else f"a multiple of {step} as --far-fakes"
    less = f" less --far-fakes={fakes}" if fakes else ""
    raise ConfigError(
        f"--batch-size={batch}{less} does not take the same number of images from each of the "
        f"{num_parts} parts of --data={config.data.data}; use {remedy}, or prepare the images with "
        "a different number of --parts"
    )


def check_same_images(catalog: Catalog) -> None:
    """Raise ConfigError, on every rank, unless all ranks opened the same set; collective."""
    digests = gather(catalog.digest)
    other = next((number for number, digest in enumerate(digests) if digest != digests[0]), 0)
    if other:
        raise ConfigError(
            f"rank {other} has opened a different set of images from rank 0 (digests "
            f"{digests[other][:12]} and {digests[0][:12]}); give every node the same set, or parts "
            "of one set with its manifest.json, index.npy and names.utf8"
        )
