"""Inversion: latents of given images, found by optimisation.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020, [1]), appendix D:
styles w and noise maps n minimise a distance to the image plus a penalty on structure in the noise.
One style per layer (the space W+) is that of Abdal et al., "Image2StyleGAN" (ICCV 2019). Generators
without styles are inverted in z, as in Creswell and Bharath, "Inverting the Generator of a
Generative Adversarial Network" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from realness import kernels
from realness.trainer.inference.adjusting import styled_module
from realness.trainer.inference.latents import Latents, synthesized
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.networks.light import LightGenerator
from realness.trainer.networks.stylegan2_generator import CENTRE_SAMPLES, StyleGAN2Generator
from realness.trainer.randomness import Draws, Purpose, Stream

Space = Literal["w", "w+", "z"]
Distance = Callable[[Tensor], Tensor]
"""Images float32 [B, 3, R, R] in [-1, 1] -> distances [B] from their targets; differentiable."""

# [1], appendix D.
RAMP_UP, RAMP_DOWN = 0.05, 0.25
PERTURBATION, PERTURBED_SHARE = 0.05, 0.75
NOISE_WEIGHT = 1e5
SMALLEST_NOISE = 8
CANDIDATES = 64
"""Drawn latents z of which the nearest is the start of a search in z (a choice)."""
LONGEST = 3.0
"""How far a norm of z may exceed sqrt(z_dim). Norms of drawn z deviate by 0.7 (1 / sqrt(2))."""


@dataclass(frozen=True)
class InversionSettings:
    """How to search: the space, the number of steps, Adam's largest learning rate, the seed.

    optimise_noise: whether to search for noise too, where the generator takes any.
    """

    space: Space = "w"
    steps: int = 1000
    lr: float = 0.1
    optimise_noise: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Inverted:
    """The latents found for B images, and the distances [B] at the start and at the end.

    The start is the centre of W, or the nearest of the drawn z.
    """

    latents: Latents
    before: Tensor
    after: Tensor


def default_space(generator: TrainedGenerator) -> Space:
    """w for generators with styles, z for others."""
    return "w" if isinstance(generator.module, StyleGAN2Generator) else "z"


def check_space(generator: TrainedGenerator, space: Space) -> None:
    """Raise ConfigError for w or w+ of a generator without styles."""
    if space != "z":
        styled_module(generator, f"--space={space}", "use --space z")


def invert(
    generator: TrainedGenerator,
    distance: Distance,
    index: Tensor,
    settings: InversionSettings,
    advance: Callable[[], None] = lambda: None,
) -> Inverted:
    """Search for latents of the images with the numbers `index` [B], which `distance` knows.

    The images are independent of each other, and all draws depend only on the seed and the numbers.
    A conditional generator must have one chosen class. `advance` is called after every step.

    Raises:
        ConfigError: for a space that the generator does not have.
    """
    check_space(generator, settings.space)
    index = index.to(generator.device)
    with kernels.implementation(generator.config.engine.impl):
        return _Search(generator, distance, index, settings).run(advance)


def joined(parts: Sequence[Inverted]) -> Inverted:
    """The results of several batches as one."""
    arrays = [part.latents.arrays() for part in parts]
    latents = {name: torch.cat([part[name] for part in arrays]) for name in arrays[0]}
    before, after = (torch.cat([getattr(p, name) for p in parts]) for name in ("before", "after"))
    return Inverted(Latents(**latents), before, after)


class _Search:
    """One search; `latent` and `inputs` are its present state."""

    def __init__(
        self,
        generator: TrainedGenerator,
        distance: Distance,
        index: Tensor,
        settings: InversionSettings,
    ) -> None:
        self.generator, self.distance, self.settings = generator, distance, settings
        self.index = index
        self.inputs = generator.inputs(index, settings.seed, Stream.INVERTED)
        if generator.code_factors is not None:
            self.inputs["code"] = generator.code_factors[0].expand(len(index), -1)
        module = generator.module
        self.sides: list[int] = []
        if settings.optimise_noise and isinstance(module, StyleGAN2Generator | LightGenerator):
            self.sides = module.noise_sides
            self.inputs["noise"] = _standardised(self.inputs["noise"], self.sides)
        start, self.scale = self._nearest_draw() if settings.space == "z" else self._centre()
        self.latent = start.clone()

    def run(self, advance: Callable[[], None]) -> Inverted:
        before, steps = self._measure(), self.settings.steps
        searched = [self.latent.requires_grad_()]
        if self.sides:
            searched.append(self.inputs["noise"].requires_grad_())
        adam = torch.optim.Adam(searched, lr=0.0)
        for step in range(steps):
            adam.param_groups[0]["lr"] = self.settings.lr * rate(step / steps)
            loss = self.distance(self._render(self.latent + self._perturbation(step)))
            if self.sides:
                maps = _maps(self.inputs["noise"], self.sides)
                loss = loss + NOISE_WEIGHT * noise_structure(maps)
            adam.zero_grad()
            loss.sum().backward()
            adam.step()
            self._restrict()
            advance()
        return Inverted(self._found(), before, self._measure())

    @torch.no_grad()
    def _centre(self) -> tuple[Tensor, float]:
        """The centre of W for each image, [B, 1 or num_styles, w_dim], and sigma_w ([1])."""
        module, number = self.generator.module, CENTRE_SAMPLES
        assert isinstance(module, StyleGAN2Generator)
        draws = Draws(self.settings.seed, Stream.CENTRE, torch.arange(number).to(self.index))
        condition = None
        if self.generator.classes is not None:
            condition = self.inputs["code"][:1].expand(number, -1)
        w = module.mapping(draws.normal(Purpose.LATENT, module.z_dim), condition)
        centre = w.mean(0)
        count = module.num_styles if self.settings.space == "w+" else 1
        sigma = (w - centre).square().sum(1).mean().sqrt().item()
        return centre.expand(len(self.index), count, -1), sigma

    @torch.no_grad()
    def _nearest_draw(self) -> tuple[Tensor, float]:
        """The nearest z of those drawn for each image, [B, z_dim], and the deviation of all z."""
        z_dim = self.generator.config.g.z_dim
        nearest = torch.zeros(len(self.index), z_dim, device=self.index.device)
        least = torch.full((len(self.index),), math.inf, device=self.index.device)
        for number in range(CANDIDATES):
            draws = Draws(self.settings.seed, Stream.INVERTED, CANDIDATES * self.index + number)
            z = draws.normal(Purpose.LATENT, z_dim)
            distance = self.distance(self._render(z))
            nearest = torch.where((distance < least)[:, None], z, nearest)
            least = torch.minimum(distance, least)
        return nearest, math.sqrt(z_dim)

    def _render(self, latent: Tensor) -> Tensor:
        if self.settings.space == "z":
            return self.generator.module(latent, **self.inputs)
        module = self.generator.module
        assert isinstance(module, StyleGAN2Generator)
        styles = latent.expand(-1, module.num_styles, -1)
        return synthesized(self.generator, styles, self.inputs)

    def _perturbation(self, step: int) -> Tensor:
        """Normal draws [B, ...] that explore at first and fade out, with deviation 0.05 sigma t^2.

        [1], appendix D: t falls from 1 to 0 during the first three quarters.
        """
        left = max(0.0, 1 - step / (PERTURBED_SHARE * self.settings.steps))
        draws = Draws(self.settings.seed, Stream.INVERTED, self.settings.steps * self.index + step)
        values = draws.normal(Purpose.PERTURBATION, self.latent[0].numel())
        return PERTURBATION * self.scale * left**2 * values.view_as(self.latent)

    @torch.no_grad()
    def _restrict(self) -> None:
        """Give noise zero mean and unit variance ([1]), and z a norm that draws have."""
        if self.sides:
            noise = self.inputs["noise"]
            noise.copy_(_standardised(noise, self.sides))
        if self.settings.space == "z":
            longest = math.sqrt(self.latent.shape[1]) + LONGEST
            self.latent.mul_((longest / self.latent.norm(dim=1, keepdim=True)).clamp(max=1))

    @torch.no_grad()
    def _measure(self) -> Tensor:
        return self.distance(self._render(self.latent)).cpu()

    def _found(self) -> Latents:
        latent = self.latent.detach().cpu()
        given = {name: values.detach().cpu() for name, values in self.inputs.items()}
        if self.settings.space == "z":
            return Latents(z=latent, **given)
        return Latents(w=latent if self.settings.space == "w+" else latent[:, 0], **given)


def rate(progress: float) -> float:
    """The learning rate at `progress` in [0, 1), as a share of the largest ([1], appendix D).

    It rises linearly during the first 5 % of the steps, and falls as a cosine during the last 25 %.
    """
    down = min(1.0, (1 - progress) / RAMP_DOWN)
    return min(1.0, progress / RAMP_UP) * (0.5 - 0.5 * math.cos(math.pi * down))


def noise_structure(maps: list[Tensor]) -> Tensor:
    """How far noise maps, each [B, S, S], are from white noise, [B] ([1], appendix D).

    The sum of the squared autocorrelations at shifts by one pixel, in both directions and with wrap
    around the edges, over all maps and all levels of their pyramids: a map of more than 8x8 is
    averaged over 2x2 pixels and doubled, which keeps the variance of white noise, down to 8x8.
    """
    total = maps[0].new_zeros(len(maps[0]))
    for values in maps:
        while True:
            for axis in (1, 2):
                total = total + (values * values.roll(1, axis)).mean((1, 2)).square()
            if values.shape[-1] <= SMALLEST_NOISE:
                break
            values = 2 * F.avg_pool2d(values, 2)
    return total


def _maps(noise: Tensor, sides: list[int]) -> list[Tensor]:
    """The maps [B, S, S] in noise [B, noise_dim]."""
    parts = noise.split([side**2 for side in sides], 1)
    return [part.unflatten(1, (side, side)) for part, side in zip(parts, sides, strict=True)]


def _standardised(noise: Tensor, sides: list[int]) -> Tensor:
    """Noise [B, noise_dim] of which every map has mean 0 and variance 1."""
    parts = []
    for values in noise.split([side**2 for side in sides], 1):
        centred = values - values.mean(1, keepdim=True)
        parts.append(centred * centred.square().mean(1, keepdim=True).rsqrt())
    return torch.cat(parts, 1)
