"""The inputs of a generator, drawn for the samples of a batch.

Every generator takes latents z. A generator with further inputs is a `TakesNoise` or a
`TakesNoiseAndStyles`: it has methods that draw them.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from realness.trainer.randomness import Draws, Purpose

Mixing = tuple[Tensor, Tensor]
"""For style mixing: second latents [B, z_dim], and the layers [B] from which on they hold."""


@runtime_checkable
class TakesNoise(Protocol):
    """A generator called as `generator(z, noise, code, share)`."""

    def draw_noise(self, draws: Draws) -> Tensor:
        """The noise of each sample, [B, noise_dim]."""
        ...


@runtime_checkable
class TakesNoiseAndStyles(TakesNoise, Protocol):
    """A generator called as `generator(z, noise, code, share, mixing)`."""

    def draw_mixing(self, draws: Draws) -> Mixing:
        """The second latents and crossovers of each sample."""
        ...


def training_inputs(
    generator: nn.Module,
    draws: Draws,
    z_dim: int,
    coded: tuple[Tensor, float] | None = None,
    condition: Tensor | None = None,
) -> tuple[Any, ...]:
    """The arguments of `generator` in training: z [B, z_dim], `coded`, and any further inputs.

    `coded` is a posterior code [B, code_dim] with its share, for generators that take one. A
    conditional generator takes its `condition` [B, num_classes] in place of the code.
    """
    latents = draws.normal(Purpose.LATENT, z_dim)
    if condition is not None:
        coded = condition, 1.0
    if not isinstance(generator, TakesNoise):
        return (latents, *(coded or ())) if condition is None else (latents, condition)
    inputs = latents, generator.draw_noise(draws), *(coded or (None, 1.0))
    if isinstance(generator, TakesNoiseAndStyles):
        return *inputs, generator.draw_mixing(draws)
    return inputs


def sampling_inputs(generator: nn.Module, draws: Draws) -> dict[str, Tensor]:
    """The keyword arguments of `generator` for sampling, in addition to z: noise, if any."""
    return {"noise": generator.draw_noise(draws)} if isinstance(generator, TakesNoise) else {}
