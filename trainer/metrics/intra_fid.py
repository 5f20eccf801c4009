"""The intra-FID: the FID of each class, and its mean over classes.

Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018, section 4: the Fréchet distance
between the real and the generated images of one class, for every class. Unlike the FID of all
images, it rises if G mixes classes up. Every class gets the same number of generated images, and
the mean weighs classes equally. As for the FID, only numbers with equal counts are comparable: the
bias of so few images per class is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from realness.data_pipeline import Catalog, class_counts, sample_indices
from realness.trainer.config import ClassesConfig, ConfigError
from realness.trainer.distributed.collectives import gather
from realness.trainer.metrics.frechet import GaussianMoments, check_finite
from realness.trainer.randomness import Stream

INTRA_FID = "intra-fid"
"""Name of the metric in --metrics."""
ORDER_SEED = 0
"""Seed of the order of real images: it does not depend on the run, so runs are comparable."""
MIN_IMAGES = 50
"""Classes with fewer real images are left out, and as many are generated per class at least. It is
the number per class in ImageNet's validation set."""
_NAMED = 10


@dataclass(frozen=True)
class ComparedClasses:
    """The classes that are compared.

    numbers, names: of these classes; num_real: number of real images of each; num_fake: number of
    generated images per class; left_out: names of the classes with fewer than MIN_IMAGES.
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    num_real: tuple[int, ...]
    num_fake: int
    left_out: tuple[str, ...] = ()

    @property
    def total_fake(self) -> int:
        """Number of generated images of all classes."""
        return len(self.numbers) * self.num_fake

    @property
    def note(self) -> str:
        """What the user should know; empty if all classes are compared."""
        if not self.left_out:
            return ""
        more = ", ..." if len(self.left_out) > _NAMED else ""
        return (
            f"intra-FID leaves out {len(self.left_out):,} of "
            f"{len(self.left_out) + len(self.numbers):,} classes, which have fewer than "
            f"{MIN_IMAGES} real images: {', '.join(self.left_out[:_NAMED])}{more}"
        )


def compared_classes(
    metrics: Sequence[str],
    run: ClassesConfig,
    catalog: Catalog,
    num_images: int,
    num_real: int,
) -> ComparedClasses | None:
    """The classes to compare; None if the intra-FID is not one of the `metrics`.

    run: the classes of G. num_images: images to generate in all, divided equally among classes.
    num_real: number of images of the catalog to compare with.
    Raises ConfigError for a G without classes, for real images without classes or with others, and
    for too few images.
    """
    if INTRA_FID not in metrics:
        return None
    counts = _checked_counts(run, catalog, num_real)
    kept = [number for number, count in enumerate(counts) if count >= MIN_IMAGES]
    if not kept:
        raise ConfigError(
            f"--metrics={INTRA_FID} needs classes of at least {MIN_IMAGES} real images, and the "
            f"largest one has {max(counts):,}; use more real images, or leave {INTRA_FID} out"
        )
    if num_images < len(kept) * MIN_IMAGES:
        raise ConfigError(
            f"{num_images:,} generated images are too few for --metrics={INTRA_FID}: "
            f"{len(kept):,} classes need {MIN_IMAGES} each; use at least {len(kept) * MIN_IMAGES}"
        )
    return ComparedClasses(
        tuple(kept),
        tuple(map(run.name, kept)),
        tuple(counts[number] for number in kept),
        num_images // len(kept),
        tuple(run.name(k) for k, count in enumerate(counts) if count < MIN_IMAGES),
    )


def _checked_counts(run: ClassesConfig, catalog: Catalog, num_real: int) -> list[int]:
    """Number of real images per class of the run, among the `num_real` to compare with."""
    what = f"--metrics={INTRA_FID} compares the images of each class"
    if not run.conditional:
        raise ConfigError(
            f"{what}, and the run was trained without --conditional; leave {INTRA_FID} out"
        )
    known = class_counts(catalog)
    if catalog.labels is None or not known:
        raise ConfigError(
            f"{what}, and the real images have none; choose it with --labels folders or --labels "
            f"FILE.csv, or leave {INTRA_FID} out"
        )
    if not run.agree(catalog.class_names, len(known)):
        raise ConfigError(
            f"{what}, and the real images have other classes than the run; use images of the "
            f"run's classes, give the run's class numbers with --labels FILE.csv, or leave "
            f"{INTRA_FID} out"
        )
    index = sample_indices(
        np.arange(num_real),
        len(catalog),
        seed=ORDER_SEED,
        purpose=int(Stream.REFERENCE),
        num_parts=catalog.num_parts,
    )
    labels = catalog.labels[index].astype(np.int64)
    return np.bincount(labels[labels >= 0], minlength=len(run.class_counts)).tolist()


class ClassMoments:
    """The moments of the features of each class, of the images of this rank.

    Rows of a class wait until they are as many as they have dimensions: fewer take less memory than
    their moments do, and adding many at once is cheaper.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        """Rows of other classes than `classes` are ignored."""
        self._waiting: dict[int, list[Tensor]] = {number: [] for number in classes}
        self._moments: dict[int, GaussianMoments] = {}

    def add(self, features: Tensor, classes: Tensor) -> None:
        """Add features [B, dim] of images of `classes`, int64 [B].

        Raises ValueError for features that are not finite.
        """
        rows = features.detach().float().cpu()
        check_finite(rows)
        for number in classes.unique().tolist():
            if number in self._waiting:
                self._waiting[number].append(rows[classes == number])
                if sum(map(len, self._waiting[number])) >= rows.shape[1]:
                    self._moments[number] = self._own(number, rows.shape[1])
                    self._waiting[number] = []

    def _own(self, number: int, dim: int) -> GaussianMoments:
        """The moments of this rank's rows of a class."""
        moments = GaussianMoments(dim)
        if number in self._moments:
            moments.merge(self._moments[number])
        if self._waiting[number]:
            moments.add(torch.cat(self._waiting[number]))
        return moments

    def over_ranks(self, number: int) -> GaussianMoments:
        """The moments of all ranks' rows of a class, the same on every rank; collective."""
        known = [len(self._moments[number].mean)] if number in self._moments else []
        known += [rows.shape[1] for rows in self._waiting[number]]
        # A rank without any image of the class does not know the dimension of the features.
        return self._own(number, max(gather(max(known, default=0)))).over_ranks()
