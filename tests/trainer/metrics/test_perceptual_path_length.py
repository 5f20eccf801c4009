"""Perceptual path length of generators and distances with a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from realness.trainer.metrics.path_length import (
    EPSILON,
    slerp,
    squared_feature_distance,
    step_pair,
    trimmed_mean,
)


def test_slerp_runs_along_the_great_circle() -> None:
    start, end = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    for t in (0.0, 0.25, 1.0):
        angle = t * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
        torch.testing.assert_close(slerp(start, end, torch.tensor([[t]])), expected)


def test_path_length_of_the_identity_is_the_squared_angle() -> None:
    """With G(z) = z and features of unit length, d / eps^2 -> omega^2, omega the angle z1 to z2."""
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, 50, 16, generator=generator).unbind()
    t = torch.rand(50, 1, generator=generator)
    pair = step_pair(z1, z2, t)
    lengths = squared_feature_distance(*pair) / EPSILON**2
    cosines = torch.nn.functional.cosine_similarity(z1.double(), z2.double())
    torch.testing.assert_close(lengths, cosines.arccos().square(), rtol=1e-6, atol=1e-6)
    for latent in pair:
        torch.testing.assert_close(latent.norm(dim=1), torch.full((50,), 4.0).double())


def test_the_trimmed_mean_leaves_out_the_extremes() -> None:
    values = torch.arange(1000).double()
    values[0], values[-1] = -1e9, 1e9
    kept = np.sort(values.numpy())[9:991]
    assert trimmed_mean(values) == pytest.approx(kept.mean(), abs=0.6)
    assert trimmed_mean(torch.full((7,), 3.0)) == 3.0
