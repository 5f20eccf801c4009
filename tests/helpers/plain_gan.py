"""A GAN in plain PyTorch, in one process with explicit updates: the reference for the engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from realness.launch.realness_presets import realness_dcgan
from realness.trainer.config import EngineConfig, PenaltyConfig, TrainConfig, with_fields
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.networks.spectral_norm import update_spectral_norm
from realness.trainer.randomness import Purpose, Stream, batch_draws
from realness.trainer.updates.build import build_networks

State = dict[str, np.ndarray]
"""Flat arrays under the names that checkpoints use."""

ANOTHER_ORDER = 2e-2
"""Tolerance of a tensor, relative to its norm, if only the order of sums differs.

Rounding alone leaves some 1e-5: float32's eps times the square root of 1e4 terms. But a rectifier
whose input is within rounding of 0 takes its other slope, and with it one term of a sum changes by
0.8 of itself. Of the 12 * 256 terms of D's last layer that is 0.8 / 3,072 = 3e-4 of a sum whose
terms add up, and 0.8 / sqrt(3,072) = 1.4e-2 of one whose terms cancel. A run has some 1e6 such
inputs; so one within 1e-7 of 0 is to be expected, and which one it is depends on the processor. A
mistake is larger: one of 12 images left out, or counted twice, changes a sum by 1/12.
"""
ANOTHER_ORDER_LOSS = 2e-4
"""The same for losses of order 1, which such an input reaches by way of the updates only: they move
the losses by 0.01 to 0.1 each, and of that it changes 1e-2 at most. Seen: 1.3e-5."""


def tiny(batch_size: int, *, generator: str = "dcgan", clip: float = 0.0) -> TrainConfig:
    """RealnessGAN with R1 in every other step; "resnet" is a generator without batch norm."""
    base = with_fields(
        realness_dcgan(32, anchor_kl=None), generator=generator, g_width=4, z_dim=16, d_width=4
    )
    if generator == "resnet":
        base = with_fields(base, g_max_channels=4)
    # A large epsilon: Adam's division otherwise turns rounding of near-zero gradients into steps of
    # full size, and no two summation orders agree.
    base = with_fields(base, num_outcomes=5, optimizer_eps=1e-3, clip_grad_norm=clip)
    return replace(
        base,
        batch_size=batch_size,
        penalty=PenaltyConfig(r1_gamma=10.0, penalty_images=2 * batch_size),
        engine=EngineConfig(device="cpu"),
    )


def images(stream: Stream, step: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * stream + step)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return pixels / 127.5 - 1


class PlainGan:
    """The networks of `config` with torch.optim, no engine, and separate passes of D."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.g, self.d, self.objective = build_networks(config)
        self.adam_g, self.adam_d = self._adam(self.g), self._adam(self.d)

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        adam = self.config.optimizer.algorithm
        assert isinstance(adam, AdamConfig)
        betas = (adam.beta1, adam.beta2)
        return torch.optim.Adam(module.parameters(), 2e-4, betas, adam.optimizer_eps)

    def _update(self, module: nn.Module, adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        if clip := self.config.optimizer.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        adam.step()

    def play(self, steps: range) -> list[tuple[float, float]]:
        """Iterations; the losses of D and G in each."""
        return [self._iterate(step) for step in steps]

    def _iterate(self, step: int) -> tuple[float, float]:
        config, g, d, objective = self.config, self.g, self.d, self.objective
        batch, penalty = config.batch_size, config.penalty
        draws = {stream: batch_draws(config.seed, stream, step * batch, batch) for stream in Stream}
        real = images(Stream.D_REAL, step, batch)
        fake = g(draws[Stream.D_FAKE].normal(Purpose.LATENT, config.g.z_dim)).detach()
        update_spectral_norm(d)
        real.requires_grad_()
        out_real = d(real)
        loss_d = objective.d_loss(out_real, d(fake), draws[Stream.D_REAL], draws[Stream.D_FAKE])
        r1 = 0.0
        if step * batch % penalty.penalty_images == 0:
            score = objective.score(out_real).sum()
            (slope,) = torch.autograd.grad(score, real, create_graph=True)
            r1 = slope.square().flatten(1).sum(1).mean()
        weight = penalty.penalty_images / batch * penalty.r1_gamma / 2
        self._update(d, self.adam_d, loss_d + weight * r1)
        with torch.no_grad():
            out_real = d(images(Stream.G_REAL, step, batch))
        fake = g(draws[Stream.G_FAKE].normal(Purpose.LATENT, config.g.z_dim))
        loss_g = objective.g_loss(d(fake), out_real, draws[Stream.G_FAKE], draws[Stream.G_REAL])
        self._update(g, self.adam_g, loss_g)
        return loss_d.item(), loss_g.item()

    def state(self) -> State:
        """Weights, buffers and Adam's moments, which reflect the gradients."""
        state: dict[str, Tensor] = {}
        for name, module, adam in (("G", self.g, self.adam_g), ("D", self.d, self.adam_d)):
            state |= {f"{name}.model/{key}": value for key, value in module.state_dict().items()}
            for key, weight in module.named_parameters():
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[f"{name}.{moment}/{key}"] = adam.state[weight][moment]
        return {key: value.detach().numpy().reshape(-1).copy() for key, value in state.items()}


def largest_error(state: list[tuple[str, int, np.ndarray]], expected: State) -> tuple[float, str]:
    """The largest error of pieces (name, offset, values), relative to the whole tensor's norm.

    Tensors without an expected value are skipped.
    """
    worst: tuple[float, str] = (0.0, "")
    for name, offset, values in state:
        if name not in expected:
            continue
        whole = expected[name]
        wanted = whole[offset : offset + len(values)]
        error = np.linalg.norm(values - wanted) / (np.linalg.norm(whole) + 1e-12)
        worst = max(worst, (float(error), name))
    return worst
