"""The two networks and everything that their updates need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from realness.trainer.augment.input_augmentation import InputAugmentation, View, unchanged
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.collectives import mean_over_ranks
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.engines.trainable_network import TrainableNetwork
from realness.trainer.networks.classes import ClassDistribution
from realness.trainer.networks.inputs import training_inputs
from realness.trainer.networks.layout import choose_layout
from realness.trainer.objectives.base import CodeObjective, Objective
from realness.trainer.randomness import Draws, Purpose, Stream, batch_draws
from realness.trainer.updates.accumulation import split_rows
from realness.trainer.updates.conditions import Batch, Condition
from realness.trainer.updates.schedule import lr_factor


@dataclass(frozen=True)
class Gan:
    """Generator and discriminator with their objective.

    `seeds` has one entry per member of an ensemble of networks; runs on images have one member.
    `augment` changes every image before D sees it, if not None. `classes` are those of generated
    images in a conditional run.
    """

    config: TrainConfig
    device: torch.device
    objective: Objective
    g: TrainableNetwork
    d: TrainableNetwork
    seeds: tuple[int, ...] = (0,)
    augment: InputAugmentation | None = None
    classes: ClassDistribution | None = None

    @property
    def num_members(self) -> int:
        """Number of independent networks; row r of a batch belongs to member r % num_members."""
        return len(self.seeds)

    @property
    def local_batch(self) -> int:
        """Images per rank and update."""
        return self.config.batch_size // world_size()

    def parts(self) -> list[slice]:
        """The rows of this rank's share that are processed in each pass of an update."""
        return split_rows(self.local_batch, self.config.engine.micro_batch)

    def draws(
        self, stream: Stream, first_sample: int | Tensor, num_rows: int | None = None
    ) -> Draws:
        """This rank's draws for `num_rows` samples, counted over all ranks, of `stream`.

        The samples start at index `first_sample` (see `batch_draws`). `num_rows` defaults to the
        batch size.
        """
        return batch_draws(
            self.config.seed,
            stream,
            first_sample,
            (num_rows or self.config.batch_size) // world_size(),
            rank=rank(),
            seeds=self.seeds,
            device=self.device,
        )

    def normalise(self, images: Tensor, stream: Stream, first_sample: int) -> Tensor:
        """Convert uint8 [B, 3, R, R] to float32 in [-1, 1], to rounding (white is 1 + 1.2e-7).

        The memory format is the configured one, and noise is added if `dequantize` is set.
        `first_sample` is the index in `stream` of the global batch's first sample.
        """
        layout = choose_layout(self.config.engine.memory_format)
        images = images.to(self.device).contiguous(memory_format=layout)
        # One pass, which converts, scales and shifts.
        images = torch.add(torch.tensor(-1.0), images, alpha=1 / 127.5)
        if not self.config.data.dequantize:
            return images
        draws = self.draws(stream, first_sample, len(images) * world_size())
        noise = draws.uniform(Purpose.DEQUANTIZE, images[0].numel()).view(images.shape)
        return images.add_(noise, alpha=1 / 128)

    def inputs(
        self, draws: Draws, code_share: float, real: Tensor | None, draws_real: Draws | None
    ) -> tuple[Any, ...]:
        """G's inputs for the samples of `draws`: `training_inputs`, plus two for P2GAN.

        In a conditional run each sample has the class that its draws give it.

        These are a code [B, code_dim], by default from D's posterior of the real image in the same
        row (`real`: D's output [B, num_outputs]), and the plan's `code_share`.
        """
        generator, z_dim = self.g.module, self.config.g.z_dim
        if not self.objective.code_dim:
            condition = None if self.classes is None else self.classes.condition(draws)
            return training_inputs(generator, draws, z_dim, condition=condition)
        if real is None or draws_real is None:
            raise ValueError("this objective's generator needs D's output on real images")
        codes = cast(CodeObjective, self.objective).code(real, draws_real)
        return training_inputs(generator, draws, z_dim, (codes, code_share))

    def generated(self, images: Tensor, draws: Draws) -> Batch:
        """The batch of the images [B, ...] that G made from the inputs of `draws`."""
        return Batch(images, draws, self.condition_of(draws))

    def condition_of(self, draws: Draws) -> Condition:
        """The condition of generated samples: the classes that `inputs` gives G."""
        return () if self.classes is None else (self.classes.condition(draws),)

    def labelled(self, images: Tensor, draws: Draws, labels: Tensor | None) -> Batch:
        """The batch of real images [B, ...] with their labels, one-hot [B, num_classes].

        Raises ValueError if a conditional run gets no labels.
        """
        if self.classes is None:
            return Batch(images, draws)
        if labels is None:
            raise ValueError("a conditional run needs the labels of its real images")
        return Batch(images, draws, (labels,))

    def track_codes(self, real: Tensor | None) -> None:
        """Update G's average of posteriors with D's output [B, num_outputs] on real images."""
        if self.objective.code_dim and real is not None:
            mean, std = cast(CodeObjective, self.objective).factors(real)
            factors = mean_over_ranks(torch.stack([mean.mean(0), std.mean(0)]))
            cast(Any, self.g.module).track_codes(*factors)

    def view(self, images_seen: int | Tensor) -> View:
        """What D sees of images, in an update that starts after `images_seen` of the run."""
        return unchanged if self.augment is None else self.augment.at(images_seen)

    def gamma(self, penalty: Literal["r1", "r2"], images_seen: int | Tensor) -> float | Tensor:
        """The weight gamma of R1 or R2 in an update that starts after `images_seen` of the run: a
        number, or a float32 scalar on the device if it is scheduled."""
        weights = self.config.penalty
        start, end = (
            (weights.r1_gamma, weights.r1_gamma_final)
            if penalty == "r1"
            else (weights.r2_gamma, weights.r2_gamma_final)
        )
        if end is None:
            return start
        return self.config.scheduled(start, end).on(self.device, images_seen)

    def follow_schedules(self, images: int) -> None:
        """Set the rates and settings of both optimisers for the iteration that starts at `images`
        images."""
        factor = lr_factor(self.config, images)
        progress = self.config.scheduled(0.0, 1.0).progress(images)
        for network in (self.g, self.d):
            network.set_lr_factor(factor)
            network.set_progress(progress)
