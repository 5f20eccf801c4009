"""Accumulating the statistics of a set of images that the requested metrics need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from realness.trainer.distributed.collectives import gather
from realness.trainer.metrics.features import FeatureNetwork
from realness.trainer.metrics.frechet import GaussianMoments
from realness.trainer.metrics.intra_fid import ClassMoments
from realness.trainer.metrics.ranks import gather_rows


@dataclass(frozen=True)
class NeededStatistics:
    """Which statistics of embedded images are needed; `classes` are those that need moments."""

    moments: bool = False
    features: bool = False
    probabilities: bool = False
    classes: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self.moments or self.features or self.probabilities or bool(self.classes)


class RowGatherer:
    """Rows of a table distributed over ranks: each rank adds its own, and all get all in order."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []

    def add(self, rows: Tensor, index: Tensor) -> None:
        """Add rows [B, dim] with their indices, int64 [B]."""
        self._rows.append(rows.cpu())
        self._index.append(index.cpu())

    def gather(self) -> Tensor:
        """All ranks' rows [n, dim] by index; collective. Some rank must have added a batch."""
        dim = max(gather(self._rows[0].shape[1] if self._rows else 0))
        rows = gather_rows(torch.cat([torch.empty(0, dim), *self._rows]))
        order = gather_rows(torch.cat([torch.empty(0, dtype=torch.int64), *self._index])).argsort()
        return rows[order]


@dataclass(frozen=True)
class Embedding:
    """The statistics of a whole set, the same on every rank; those not needed are None.

    `by_class` has only this rank's images: it is merged over ranks one class at a time.
    """

    moments: GaussianMoments | None = None
    features: Tensor | None = None
    probabilities: Tensor | None = None
    by_class: ClassMoments | None = None


class FeatureCollector:
    """Embeds this rank's share of a set of images, batch by batch."""

    def __init__(self, network: FeatureNetwork, needed: NeededStatistics) -> None:
        self._network, self._needed = network, needed
        self._moments: GaussianMoments | None = None
        self._features, self._probabilities = RowGatherer(), RowGatherer()
        self._by_class = ClassMoments(needed.classes)

    def add(self, images: Tensor, index: Tensor, classes: Tensor | None = None) -> None:
        """Add images uint8 [B, 3, R, R] (B may be 0) with their indices in the set.

        classes: int64 [B], on the CPU, if statistics of classes are needed.
        """
        needed = self._needed
        if not len(images):
            return
        if needed.moments or needed.features or needed.classes:
            features = self._network.features(images)
            if classes is not None:
                self._by_class.add(features, classes)
            if needed.moments:
                self._moments = self._moments or GaussianMoments(features.shape[1])
                self._moments.add(features)
            if needed.features:
                self._features.add(features, index)
        if needed.probabilities:
            self._probabilities.add(self._network.probabilities(images), index)

    def finish(self) -> Embedding:
        """The statistics of all ranks' images; collective."""
        moments = None
        if self._needed.moments:
            # A rank without any image does not know the dimension of the features.
            dim = max(gather(len(self._moments.mean) if self._moments else 0))
            moments = (self._moments or GaussianMoments(dim)).over_ranks()
        return Embedding(
            moments,
            self._features.gather() if self._needed.features else None,
            self._probabilities.gather() if self._needed.probabilities else None,
            self._by_class if self._needed.classes else None,
        )
