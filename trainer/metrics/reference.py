"""Real images for comparison: their patches, and their embedding, which is computed once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from realness.data_pipeline import Catalog
from realness.trainer.config import DataConfig
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.distributed.streams import open_stream, rank_share
from realness.trainer.metrics.features import FeatureNetwork
from realness.trainer.metrics.frechet import GaussianMoments
from realness.trainer.metrics.intra_fid import ORDER_SEED
from realness.trainer.metrics.network_file import cache_folder
from realness.trainer.metrics.samples import Embedding, FeatureCollector, NeededStatistics
from realness.trainer.metrics.swd import PatchSet
from realness.trainer.randomness import Stream
from realness.trainer.storage.files import atomic_writer

log = logging.getLogger("realness.metrics")

Progress = Callable[[str, int, int], None]
"""Callback(stage, images_done, images_total), called after every batch."""


class MeasureFailed(RuntimeError):
    """Images that could not be generated, read or embedded; raised on every rank alike."""


@dataclass(frozen=True)
class RealImages:
    """The images of a catalog at their training resolution, not mirrored, in a fixed order.

    data: the run's settings of its images. Each rank reads images of the parts that it trains on,
    in batches of at least `batch_size`.
    """

    catalog: Catalog
    data: DataConfig
    batch_size: int
    cache: Path = field(default_factory=cache_folder)

    @property
    def global_batch(self) -> int:
        """Images per batch over all ranks, a multiple of the number of parts of the catalog."""
        step = math.lcm(world_size(), self.catalog.num_parts)
        return -(-self.batch_size * world_size() // step) * step

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This rank's share of the first `count` images, with their numbers and their classes.

        uint8 [B, 3, R, R], int64 [B] and int64 [B], whose values are -1 for images without a class.
        Every rank gets the same number of batches; the last ones may be short or empty.
        """
        labels = self.catalog.labels
        with open_stream(
            self.data,
            self.catalog,
            Stream.REFERENCE,
            rank_share(self.global_batch),
            seed=ORDER_SEED,
        ) as stream:
            for _ in range(0, count, self.global_batch):
                images, index, classes = next(stream), stream.samples, stream.indices
                if labels is None:
                    classes = torch.full_like(classes, -1)
                else:
                    classes = torch.from_numpy(labels[classes.numpy()].astype("int64"))
                if not (wanted := index < count).all():
                    images, index, classes = images[wanted], index[wanted], classes[wanted]
                yield images, index, classes

    def patches(self, count: int, seed: int, progress: Progress) -> PatchSet:
        """The patches of the first `count` images; collective. Raises MeasureFailed."""
        patches = PatchSet(self.data.resolution, seed, Stream.REFERENCE)
        self._go_through(
            "real patches", count, progress, lambda images, index, _: patches.add(images, index)
        )
        return patches

    def _go_through(
        self,
        what: str,
        count: int,
        progress: Progress,
        action: Callable[[Tensor, Tensor, Tensor], None],
    ) -> None:
        """Call `action` with every batch of this rank's share of the first `count` images."""

        def batch_by_batch() -> None:
            for done, batch in enumerate(self.batches(count), start=1):
                action(*batch)
                progress(what, min(count, done * self.global_batch), count)

        on_all_ranks(batch_by_batch, failure=MeasureFailed, what=f"{what}: ")

    def embedding(
        self, count: int, network: FeatureNetwork, needed: NeededStatistics, progress: Progress
    ) -> Embedding:
        """The statistics of the first `count` images, from the cache if they are in it.

        The key of a cached file includes the digest of the images, the network's hash, the resize
        and the count. Statistics of classes, which may take gigabytes, are not cached. Collective.
        Raises MeasureFailed.
        """
        key = {
            "digest": self.catalog.digest,
            "resolution": self.data.resolution,
            "network": network.sha256,
            "resize": network.resize,
            "count": count,
            "moments": needed.moments,
            "features": needed.features,
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self.cache / "references" / f"{name}.safetensors"
        cached = None if needed.classes else _read(path, needed)
        if all(gather(cached is not None)) and cached is not None:
            return cached
        collector = FeatureCollector(network, needed)
        self._go_through("real features", count, progress, collector.add)
        embedding = collector.finish()
        if rank() == 0 and (needed.moments or needed.features):
            _write(path, embedding)
        return embedding


def _read(path: Path, needed: NeededStatistics) -> Embedding | None:
    if not path.exists():
        return None
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be read and is recomputed: %s", path, error)
        return None
    moments = None
    if needed.moments:
        moments = GaussianMoments(len(stored["mean"]))
        moments.count = int(stored["count"])
        moments.mean, moments.scatter = stored["mean"], stored["scatter"]
    return Embedding(moments, stored.get("features"))


def _write(path: Path, embedding: Embedding) -> None:
    """Cache the statistics. Failure to write only costs time, so it only gives a warning."""
    tensors: dict[str, Tensor] = {}
    if embedding.moments is not None:
        tensors["count"] = torch.tensor(embedding.moments.count)
        tensors["mean"], tensors["scatter"] = embedding.moments.mean, embedding.moments.scatter
    if embedding.features is not None:
        tensors["features"] = embedding.features.contiguous()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            file.write(save(tensors))
    except OSError as error:
        log.warning("the reference statistics cannot be kept in %s: %s", path, error.strerror)
