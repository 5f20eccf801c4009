"""The trained generator and discriminator of a run, without engines, optimisers or DeepSpeed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from realness import kernels
from realness.trainer import checkpoint
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.config import TrainConfig
from realness.trainer.inference.kept import Kept, read_kept
from realness.trainer.inference.pixels import to_uint8
from realness.trainer.inference.widths import EMA, load_width
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.classes import ClassDistribution, one_hot
from realness.trainer.networks.growing import set_stage
from realness.trainer.networks.inputs import sampling_inputs
from realness.trainer.objectives.base import CodeObjective, Objective, build_objective
from realness.trainer.randomness import Draws, Purpose, Stream
from realness.trainer.storage.run_folder import read_config


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator in evaluation mode; `images_seen` and `data_digest` are the checkpoint's.

    It renders with the implementation of the fused operations set in `config`.
    `code_factors` are mean and deviation [code_dim] of the codes to sample with (P2GAN only).
    `weights` says which ones `module` has: "ema", the moving average of training; "ema-0.12", one
    of that width, computed after training; or "raw", those that training updates.
    If `truncation` is below 1, styles are moved towards `centre` [w_dim], the centre of W; in a
    conditional run towards the one of the image's class, of [num_classes, w_dim]. `classes` are
    those of the data (conditional runs only): samples have them in its proportions. With `chosen`
    classes, sample i has number i % len(chosen) of them, and the draws of sample i // len(chosen):
    consecutive samples differ only in their classes.
    `kept` is what weights of another program came with. With `noise` [noise_dim], all images have
    this noise instead of their own.
    """

    config: TrainConfig
    module: nn.Module
    device: torch.device
    images_seen: int
    data_digest: str
    code_factors: tuple[Tensor, Tensor] | None = None
    centre: Tensor | None = None
    truncation: float = 1.0
    weights: str = EMA
    classes: ClassDistribution | None = None
    chosen: tuple[int, ...] = ()
    kept: Kept | None = None
    noise: Tensor | None = None

    @property
    def iteration(self) -> int:
        """Number of training iterations, the unit that papers use."""
        return self.images_seen // self.config.batch_size

    def latents(self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED) -> Tensor:
        """The latents z [B, z_dim] of the samples `index`, int64 [B], in the sequence of `seed`."""
        return self._draws(index, seed, stream).normal(Purpose.LATENT, self.config.g.z_dim)

    def inputs(
        self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED
    ) -> dict[str, Tensor]:
        """The generator's inputs besides latents, by name: noise and a code, if any.

        The code is P2GAN's, or the condition of a conditional run.
        """
        draws = self._draws(index, seed, stream)
        inputs = sampling_inputs(self.module, draws)
        if self.noise is not None:
            inputs["noise"] = self.noise.expand(len(index), -1)
        if self.code_factors is not None:
            mean, std = self.code_factors
            inputs["code"] = mean + std * draws.normal(Purpose.CODE, len(mean))
        if self.classes is not None:
            numbers = self.class_numbers(index, seed, stream)
            inputs["code"] = one_hot(numbers, self.classes.num_classes)
        return inputs

    def class_numbers(self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED) -> Tensor:
        """The classes int64 [B] of the samples `index` of a conditional run."""
        assert self.classes is not None
        if not self.chosen:
            return self.classes.draw(self._draws(index, seed, stream))
        chosen = torch.tensor(self.chosen, device=self.device)
        return chosen[index.to(self.device) % len(chosen)]

    def condition(
        self, index: Tensor, seed: int, stream: Stream = Stream.EVALUATED
    ) -> Tensor | None:
        """What D takes besides images of the samples `index`, [B, num_classes], if anything."""
        return self.inputs(index, seed, stream)["code"] if self.classes else None

    def _draws(self, index: Tensor, seed: int, stream: Stream) -> Draws:
        return Draws(seed, stream, index.to(self.device) // max(1, len(self.chosen)))

    @torch.no_grad()
    def render(self, z: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Images float32 [B, 3, R, R] in [-1, 1] for latents z and other `inputs`."""
        with kernels.implementation(self.config.engine.impl):
            if self.centre is None:
                return self.module(z, **inputs)
            centre = self.centre
            if self.classes is not None and centre.dim() == 2:
                centre = (inputs["code"] @ centre)[:, None]
            return self.module(z, **inputs, centre=centre, truncation=self.truncation)

    def images(self, z: Tensor, index: Tensor, seed: int) -> Tensor:
        """Render latents z [B, z_dim] with the other inputs of the samples `index`."""
        return self.render(z, self.inputs(index, seed))

    def sample(self, index: Tensor, seed: int) -> Tensor:
        """Images uint8 [B, 3, R, R] of the samples `index`; they do not depend on batching."""
        return to_uint8(self.images(self.latents(index, seed), index, seed))

    def shown(self, count: int, batch_size: int) -> Tensor:
        """The images of a run's sample grids, float32 [count, 3, R, R] in [-1, 1] on the CPU.

        They use the same draws in every call, and are rendered `batch_size` at a time. With
        `chosen` classes they are in rows of one class, of `count // len(chosen)` images each.
        """
        seed, images = self.config.seed, []
        for index in self.in_rows(torch.arange(count))[0].split(batch_size):
            inputs = self.inputs(index, seed, Stream.SHOWN)
            images.append(self.render(self.latents(index, seed, Stream.SHOWN), inputs).cpu())
        return torch.cat(images)

    def in_rows(self, index: Tensor) -> tuple[Tensor, list[str]]:
        """The samples `index` in rows of one class each, as long as the shortest, and their names.

        Without `chosen` classes, and if one is not among the samples, these stay as they are.
        """
        count = len(self.chosen)
        rows = [index[index % count == number] for number in range(count)]
        length = min(map(len, rows), default=0)
        if not length:
            return index, []
        names = [self.config.classes.name(number) for number in self.chosen]
        return torch.cat([row[:length] for row in rows]), names

    def of_classes(self, chosen: Sequence[int]) -> TrainedGenerator:
        """The generator whose samples have these classes in turn."""
        return replace(self, chosen=tuple(chosen))

    def with_shown_classes(self, count: int) -> TrainedGenerator:
        """The generator whose grids of `count` images have a row per class.

        With more classes than half of the images, these are some classes, evenly spaced.
        """
        present = [k for k, number in enumerate(self.config.classes.class_counts) if number]
        if self.classes is None:
            return self
        rows = max(1, min(len(present), count // 2))
        return self.of_classes([present[k * len(present) // rows] for k in range(rows)])


def load_generator(
    run: Path, folder: Path, device: torch.device, weights: str = EMA
) -> TrainedGenerator:
    """Load the moving average of G from a checkpoint of a run, or other `weights` of G; collective.

    Says, once per process, if the weights are not for commercial use.

    Raises:
        ConfigError: for a run without a valid config.json, or for a width that cannot be computed.
        CheckpointError: for a damaged checkpoint, or one of a different architecture.
        WeightsError: for a damaged file of what a converted model keeps.
    """
    config = read_config(run)
    module = build_empty_generator(config, device)
    names = {EMA: "EMA.model", "raw": "G.model"}
    if weights in names:
        position = checkpoint.load(folder, replicated(names[weights], module.state_dict()))
    else:
        position = load_width(run, folder, config, module, weights)
    images, digest = position.images, position.data_digest
    kept = read_kept(run, device, trained_further=images > 0 or weights == "raw")
    generator = trained_generator(config, module, images, digest, weights)
    return replace(generator, kept=kept)


def build_empty_generator(config: TrainConfig, device: torch.device | str) -> nn.Module:
    """A generator for inference, with weights still to be loaded."""
    code_dim = build_objective(config.objective).code_dim
    module = build_generator(config.g, config.data.resolution, code_dim, **_options(config))
    return module.float().to(device).eval().requires_grad_(False)


def _options(config: TrainConfig) -> dict[str, Any]:
    growing = config.growth.grow_kimg > 0
    return {"growing": growing, "num_classes": config.classes.num_classes}


def trained_generator(
    config: TrainConfig,
    module: nn.Module,
    images_seen: int,
    data_digest: str,
    weights: str = EMA,
) -> TrainedGenerator:
    """Wrap a generator with its weights, and with the distribution of codes if it takes any."""
    set_stage(module, config.growth.at(images_seen, config.data.resolution))
    objective = build_objective(config.objective)
    device, factors = next(module.parameters()).device, None
    if objective.code_dim:
        if config.objective.tracks_codes:
            factors = cast(Any, module).code_mean, cast(Any, module).code_std
        else:
            mean, std = cast(CodeObjective, objective).typical_factors()
            factors = mean.to(device), std.to(device)
    classes = None
    if config.classes.num_classes:
        classes = ClassDistribution(config.classes.class_counts, device)
    return TrainedGenerator(
        config, module, device, images_seen, data_digest, factors, weights=weights, classes=classes
    )


@dataclass(frozen=True)
class TrainedDiscriminator:
    """A discriminator in evaluation mode, with the objective that computes scores of its output.

    `impl` is the implementation of the fused operations that it uses.
    """

    module: nn.Module
    objective: Objective
    impl: kernels.Impl

    @torch.no_grad()
    def score(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """The realness score [B] of images float32 [B, 3, R, R] in [-1, 1].

        A conditional D judges them as images of `condition` [B, num_classes].
        """
        inputs = (images,) if condition is None else (images, condition)
        with kernels.implementation(self.impl):
            return self.objective.score(self.module(*inputs).float())


def load_discriminator(run: Path, folder: Path, device: torch.device) -> TrainedDiscriminator:
    """Load D from a checkpoint of a run. Raises as `load_generator` does."""
    config = read_config(run)
    discriminator = build_empty_discriminator(config, device)
    position = checkpoint.load(folder, replicated("D.model", discriminator.module.state_dict()))
    return grown(discriminator, config, position.images)


def grown(
    discriminator: TrainedDiscriminator, config: TrainConfig, images_seen: int
) -> TrainedDiscriminator:
    """D as it is after `images_seen` images of a run that grows its networks."""
    set_stage(discriminator.module, config.growth.at(images_seen, config.data.resolution))
    return discriminator


def build_empty_discriminator(
    config: TrainConfig, device: torch.device | str
) -> TrainedDiscriminator:
    """D for inference, with weights still to be loaded."""
    objective = build_objective(config.objective)
    size = config.data.resolution
    module = build_discriminator(config.d, size, objective.num_outputs, **_options(config))
    module = module.to(device).eval().requires_grad_(False)
    return TrainedDiscriminator(module, objective, config.engine.impl)
