"""Scores of a trained generator against real images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from realness.trainer.distributed.collectives import on_all_ranks
from realness.trainer.distributed.ranks import world_size
from realness.trainer.inference.pixels import HALF_RANGE
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.metrics.features import FeatureNetwork
from realness.trainer.metrics.frechet import GaussianMoments, frechet_distance
from realness.trainer.metrics.inception_score import inception_score
from realness.trainer.metrics.intra_fid import INTRA_FID, ComparedClasses
from realness.trainer.metrics.kid import kernel_distance
from realness.trainer.metrics.path_length import (
    EPSILON,
    squared_feature_distance,
    step_pair,
    trimmed_mean,
)
from realness.trainer.metrics.plan import MeasurementPlan
from realness.trainer.metrics.precision_recall import precision_recall
from realness.trainer.metrics.ranks import shares
from realness.trainer.metrics.reference import MeasureFailed, Progress, RealImages
from realness.trainer.metrics.samples import (
    Embedding,
    FeatureCollector,
    NeededStatistics,
    RowGatherer,
)
from realness.trainer.metrics.score import Score
from realness.trainer.metrics.swd import PatchSet, sliced_wasserstein
from realness.trainer.randomness import Draws, Purpose, Stream
from realness.trainer.storage.scores import Record


class Evaluator:
    """Measures generators against the same real images. The real images are read once."""

    def __init__(
        self,
        plan: MeasurementPlan,
        real: RealImages,
        network: FeatureNetwork | None,
        progress: Progress,
    ) -> None:
        """Raises ValueError if metrics need a network, or Inception, and it is missing."""
        if plan.needs_network and network is None:
            raise ValueError(f"--metrics={','.join(plan.metrics)} need a feature network")
        if plan.has("is") and network is not None and not network.is_inception:
            raise ValueError(
                f"--metrics=is is defined for the Inception network of 2015, not {network.name}; "
                "leave it out, or use --network inception"
            )
        self._plan, self._real, self._network, self._progress = plan, real, network, progress

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return self._plan.metrics

    def only(self, *metrics: str) -> Evaluator:
        """An evaluator for some of the metrics, with the same settings."""
        plan = replace(self._plan, metrics=metrics)
        return Evaluator(plan, self._real, self._network, self._progress)

    def compares(self, record: Record) -> bool:
        """Whether a score was measured with the same numbers of images, network and resize."""
        plan, network = self._plan, self._network
        if record.metric.startswith("SWD"):
            return record.num_images == plan.num_patch_images
        num_images, num_real = plan.num_images, plan.num_real
        if record.metric.startswith("intra-") and plan.classes is not None:
            num_images, num_real = plan.classes.total_fake, sum(plan.classes.num_real)
        return network is not None and (
            (record.num_images, record.network, record.resize)
            == (num_images, network.name, network.resize)
            and record.num_real in (0, num_real)
        )

    def scores(self, generator: TrainedGenerator) -> list[Score]:
        """All scores of one generator; collective, the same on every rank.

        Raises MeasureFailed, on every rank, if any rank cannot generate or embed its share.
        """
        plan, found = self._plan, []
        fake_patches, fake = self._generate(generator)
        if fake_patches is not None:
            swd = sliced_wasserstein(
                self._real_patches, fake_patches, seed=plan.seed, device=generator.device
            )
            values = {"SWD": swd.mean, **{f"SWD-{size}": v for size, v in swd.levels.items()}}
            count = plan.num_patch_images
            found += [Score(name, value, count, count) for name, value in values.items()]
        if self._network is not None:
            found += self._feature_scores(self._network, fake)
            if plan.has(INTRA_FID) and plan.classes is not None:
                found += self._class_scores(generator, self._network, plan.classes)
        if plan.has("ppl") and self._network is not None:
            value = self._path_length(generator, self._network)
            found.append(self._score(self._network, f"PPL-{self._network.name}", value, 0))
        return found

    def _generate(self, generator: TrainedGenerator) -> tuple[PatchSet | None, Embedding]:
        """Patches and statistics of the generated images; each image is generated once."""
        plan, fake = self._plan, self._needed_of_fakes
        patches = None
        if plan.has("swd"):
            patches = PatchSet(self._real.data.resolution, plan.seed, Stream.EVALUATED)
        collector = None
        if self._network is not None and fake:
            collector = FeatureCollector(self._network, fake)
        total = plan.num_images if collector else plan.num_patch_images
        if not collector and not patches:
            return None, Embedding()

        def take_in(index: Tensor) -> None:
            images = generator.sample(index, plan.seed)
            if collector:
                collector.add(images, index)
            if patches:
                kept = index < plan.num_patch_images
                patches.add(images[kept], index[kept])

        self._go_through("generated images", total, generator.device, take_in)
        return patches, collector.finish() if collector else Embedding()

    def _go_through(
        self, what: str, total: int, device: torch.device, action: Callable[[Tensor], None]
    ) -> None:
        """Call `action` with the indices [B] of this rank's samples, batch by batch; collective.

        If `action` fails on one rank, no other rank is left waiting.
        """
        batch = self._plan.batch_size

        def share_by_share() -> None:
            for number, share in enumerate(shares(total, batch), start=1):
                if share.count:
                    action(share.index(device))
                self._progress(what, min(total, number * batch * world_size()), total)

        on_all_ranks(share_by_share, failure=MeasureFailed, what=f"{what}: ")

    @property
    def _needed_of_fakes(self) -> NeededStatistics:
        plan = self._plan
        return NeededStatistics(plan.has("fid"), plan.has("kid", "pr"), plan.has("is"))

    @functools.cached_property
    def _real_patches(self) -> PatchSet:
        plan = self._plan
        return self._real.patches(plan.num_patch_images, plan.seed, self._progress)

    @functools.cached_property
    def _real_embedding(self) -> Embedding:
        plan, network = self._plan, self._network
        classes = plan.classes.numbers if plan.has(INTRA_FID) and plan.classes else ()
        needed = NeededStatistics(plan.has("fid"), plan.has("kid", "pr"), classes=classes)
        if network is None or not needed:
            return Embedding()
        return self._real.embedding(plan.num_real, network, needed, self._progress)

    def _feature_scores(self, network: FeatureNetwork, fake: Embedding) -> list[Score]:
        plan, real, found = self._plan, self._real_embedding, []
        suffix = "" if network.is_inception else f"-{network.name}"

        def add(name: str, value: float, num_real: int = plan.num_real) -> None:
            found.append(self._score(network, name, value, num_real))

        if real.moments is not None and fake.moments is not None:
            add(
                "FID" if network.is_inception else f"FD{suffix}",
                frechet_distance(real.moments, fake.moments),
            )
        if real.features is not None and fake.features is not None:
            if plan.has("kid"):
                mean, deviation = kernel_distance(real.features, fake.features, seed=plan.seed)
                add(f"KID{suffix}", mean)
                add(f"KID{suffix}-sd", deviation)
            if plan.has("pr"):
                precision, recall = precision_recall(real.features, fake.features)
                add(f"precision-{network.name}", precision)
                add(f"recall-{network.name}", recall)
        if fake.probabilities is not None:
            mean, deviation = inception_score(fake.probabilities)
            add("IS", mean, 0)
            add("IS-sd", deviation, 0)
        return found

    def _class_scores(
        self, generator: TrainedGenerator, network: FeatureNetwork, classes: ComparedClasses
    ) -> list[Score]:
        """The FID of each class, one class at a time, then the mean over classes."""
        name = "intra-FID" if network.is_inception else f"intra-FD-{network.name}"
        real, found = self._real_embedding.by_class, []
        assert real is not None

        def add(suffix: str, value: float, num_images: int, num_real: int) -> None:
            made = Score(name + suffix, value, num_images, num_real, network.name, network.resize)
            found.append(made)

        for number, label, num_real in zip(
            classes.numbers, classes.names, classes.num_real, strict=True
        ):
            fake = self._class_moments(generator, network, number, label)
            value = frechet_distance(real.over_ranks(number), fake)
            add(f"/{label}", value, classes.num_fake, num_real)
        mean = fmean(score.value for score in found)
        add("", mean, classes.total_fake, sum(classes.num_real))
        return found

    def _class_moments(
        self, generator: TrainedGenerator, network: FeatureNetwork, number: int, label: str
    ) -> GaussianMoments:
        """The moments of the generated images of a class; collective.

        Classes have latents of their own, so that the errors of their scores are independent.
        """
        plan = self._plan
        assert plan.classes is not None
        count, of_class = plan.classes.num_fake, generator.of_classes([number])
        first = plan.classes.numbers.index(number) * count
        collector = FeatureCollector(network, NeededStatistics(moments=True))
        self._go_through(
            f"generated images of {label}",
            count,
            generator.device,
            lambda index: collector.add(of_class.sample(index + first, plan.seed), index),
        )
        moments = collector.finish().moments
        assert moments is not None
        return moments

    def _score(self, network: FeatureNetwork, name: str, value: float, num_real: int) -> Score:
        return Score(name, value, self._plan.num_images, num_real, network.name, network.resize)

    @torch.no_grad()
    def _path_length(self, generator: TrainedGenerator, network: FeatureNetwork) -> float:
        plan, distances = self._plan, RowGatherer()

        def embed(z: Tensor, index: Tensor) -> Tensor:
            # Not rounded to grey levels, because these are much coarser than the step.
            images = generator.images(z.float(), index, plan.seed)
            return network.features((images + 1) * HALF_RANGE)

        def add_distances(index: Tensor) -> None:
            t = Draws(plan.seed, Stream.EVALUATED, index).uniform(Purpose.INTERPOLATION, 1)
            start = generator.latents(index, plan.seed)
            # The reference stream uses no latents, so its draws serve as end points.
            end = generator.latents(index, plan.seed, Stream.REFERENCE)
            pair = [embed(z, index) for z in step_pair(start, end, t)]
            distances.add(squared_feature_distance(*pair)[:, None] / EPSILON**2, index)

        self._go_through("path length", plan.num_images, generator.device, add_distances)
        return trimmed_mean(distances.gather()[:, 0])
