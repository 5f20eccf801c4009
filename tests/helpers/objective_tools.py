"""Draws, logits and anchors shared by the tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.objectives.anchors import skewnorm_pair
from realness.trainer.randomness import Draws, Stream, batch_draws

N = 7


def draws(num_samples: int = 4, stream: Stream = Stream.D_FAKE, first_sample: int = 0) -> Draws:
    return batch_draws(3, stream, first_sample, num_samples)


def both_draws(num_samples: int = 4) -> tuple[Draws, Draws]:
    return draws(num_samples, Stream.D_REAL), draws(num_samples, Stream.D_FAKE)


def logits64(num_samples: int = 4, num_outcomes: int = N, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(num_samples, num_outcomes, dtype=torch.float64, generator=generator)
    return values.requires_grad_()


def anchors64(num_outcomes: int = N) -> tuple[Tensor, Tensor]:
    pair = skewnorm_pair(num_outcomes, 5, -5)
    return torch.from_numpy(pair.real), torch.from_numpy(pair.fake)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """sum_i p_i ln(p_i / q_i) of positive distributions, as the definition has it."""
    return (p * (p / q).log()).sum(-1)
