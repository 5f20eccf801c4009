"""Power-function averages of G against their closed form, quadrature, and averages kept directly.

The formulas are those of Karras et al. (2024), arXiv 2312.02696.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import nn

from realness.trainer.config import ConfigError
from realness.trainer.config.average import WIDEST, AverageConfig, parse_widths
from realness.trainer.updates.ema import PowerEma
from realness.trainer.updates.power_profiles import (
    Profile,
    exponent_of,
    inner_product,
    newest_weight,
    reconstruct,
    width_of,
)

FLOAT32 = 2.0**-24
"""Largest relative error of one rounding in float32."""


def profile(width: float, time: float) -> Callable[[float], float]:
    """The weight over time as the paper defines it."""
    gamma = exponent_of(width)
    return lambda tau: (gamma + 1) * (tau / time) ** gamma / time if tau <= time else 0.0


@pytest.mark.parametrize("width", [0.001, 0.01, 0.05, 0.1, 0.12, 0.25, 0.2886])
def test_the_exponent_is_the_root_of_the_cubic(width: float) -> None:
    """Found by bracketing: the width falls for gamma >= 0. 1e-9 is the tolerance of the roots."""

    def cubic(gamma: float) -> float:
        rest = width**-2
        return gamma**3 + 7 * gamma**2 + (16 - rest) * gamma + 12 - rest

    gamma = exponent_of(width)
    assert gamma == pytest.approx(brentq(cubic, 0, 2 / width, xtol=1e-12), rel=1e-9, abs=1e-9)
    assert width_of(gamma) == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
def test_a_width_is_the_deviation_of_the_weights(width: float) -> None:
    weight = profile(width, 1.0)
    total, mean, square = (quad(lambda t, k=k: weight(t) * t**k, 0, 1)[0] for k in range(3))
    assert total == pytest.approx(1, abs=1e-7)
    assert math.sqrt(square - mean**2) == pytest.approx(width, rel=1e-6)


def test_the_widest_is_a_plain_mean() -> None:
    assert width_of(0) == pytest.approx(WIDEST, rel=1e-15)


@pytest.mark.parametrize(("a", "b"), [((0.05, 30), (0.1, 50)), ((0.1, 50), (0.05, 30))])
def test_the_inner_product_is_the_integral(a: tuple[float, float], b: tuple[float, float]) -> None:
    found = inner_product(exponent_of(a[0]), a[1], exponent_of(b[0]), b[1])
    end = min(a[1], b[1])
    expected, error = quad(lambda t: profile(*a)(t) * profile(*b)(t), 0, end, epsrel=1e-10)
    assert float(found) == pytest.approx(expected, abs=10 * error)


def trajectory(num_updates: int) -> torch.Tensor:
    """Weights over training that move at several speeds, float64 [num_updates, 3]."""
    time = torch.arange(1, num_updates + 1, dtype=torch.float64) / num_updates
    return torch.stack([time.sqrt(), torch.sin(20 * time), 3 - torch.exp(-8 * time)], 1)


def follow(width: float, points: torch.Tensor, batch: int = 10) -> list[torch.Tensor]:
    """What a PowerEma is after each of the points, [num_updates, 3] in float32."""
    module = nn.Linear(3, 1, bias=False)
    average, states = PowerEma(module, width), []
    for number, point in enumerate(points, 1):
        module.weight.data.copy_(point[None])
        average.update(module, batch, number * batch)
        states.append(average.module.state_dict()["weight"][0].clone())
    return states


def test_the_recurrence_has_the_profile_at_every_step() -> None:
    """The weight of an update is the profile's integral over it, with no error of small steps.

    Each of the n updates rounds at most three times.
    """
    width, count = 0.1, 60
    points, power = trajectory(count), exponent_of(width) + 1
    edges = np.arange(count + 1) / count
    weights = torch.from_numpy(np.diff(edges**power))
    assert float(weights.sum()) == pytest.approx(1)
    found = follow(width, points)[-1]
    bound = 3 * count * FLOAT32 * float(points.abs().max())
    torch.testing.assert_close(found.double(), weights @ points, atol=bound, rtol=0)


def test_the_initial_weights_are_forgotten_and_the_batch_size_does_not_matter() -> None:
    gamma = exponent_of(0.05)
    assert newest_weight(gamma, 10, 10) == newest_weight(gamma, 64, 32) == 1
    kept = (1 - newest_weight(gamma, 10, 110)) * (1 - newest_weight(gamma, 10, 120))
    assert kept == pytest.approx(1 - newest_weight(gamma, 20, 120), rel=1e-12)


@pytest.mark.parametrize(("width", "most"), [(0.12, 0.01), (0.07, 0.01), (0.2, 0.06)])
def test_another_width_is_reconstructed(width: float, most: float) -> None:
    """By Cauchy and Schwarz the error is at most the residual times |p| times the norm of the
    trajectory around any constant, because the coefficients' sum is 1. Averages in float32 add
    their own rounding, times the coefficients.
    """
    count, batch, every = 200, 10, 20
    points, end = trajectory(count), count * batch
    kept = {stored: follow(stored, points) for stored in (0.05, 0.1)}
    profiles = [
        Profile(stored, images * batch) for stored in kept for images in range(every, 201, every)
    ]
    found = reconstruct(profiles, Profile(width, end))
    assert found.coefficients.sum() == pytest.approx(1, rel=1e-12)
    assert found.residual < most
    made = sum(
        x * kept[item.width][int(item.time) // batch - 1].double()
        for x, item in zip(found.coefficients, profiles, strict=True)
    )
    gamma = exponent_of(width)
    norm = math.sqrt(float(inner_product(gamma, end, gamma, end)))
    away = (points - points[-1]).square().sum(0).mul(batch).sqrt()
    rounding = 3 * count * FLOAT32 * 3 * (1 + np.abs(found.coefficients).sum())
    bound = found.residual * norm * away + rounding
    assert ((made - follow(width, points)[-1].double()).abs() <= bound).all()


def test_the_residual_is_that_of_quadrature() -> None:
    stored = [Profile(0.05, 1.0), Profile(0.1, 1.0), Profile(0.1, 0.5)]
    found, wanted = reconstruct(stored, Profile(0.2, 1.0)), profile(0.2, 1.0)

    def difference(tau: float) -> float:
        parts = zip(found.coefficients, stored, strict=True)
        return sum(x * profile(*item)(tau) for x, item in parts) - wanted(tau)

    squares = (quad(lambda t, f=f: f(t) ** 2, 0, 1, points=[0.5])[0] for f in (difference, wanted))
    left, whole = squares
    assert found.residual == pytest.approx(math.sqrt(left / whole), rel=1e-6)


def test_a_stored_width_is_itself() -> None:
    stored = [Profile(0.05, 1.0), Profile(0.1, 1.0), Profile(0.1, 0.5)]
    found = reconstruct(stored, Profile(0.1, 1.0))
    assert found.coefficients == pytest.approx([0, 1, 0], abs=1e-12)
    assert found.residual < 1e-6


def test_widths_are_checked_and_written_in_one_way() -> None:
    assert AverageConfig(ema="power", ema_widths="0.05, 0.10") == AverageConfig(ema="power")
    assert AverageConfig().widths == ()
    assert AverageConfig().num_averages == 1
    assert AverageConfig(ema="power").num_averages == 2
    assert AverageConfig(ema="both", ema_widths="0.01,0.05,0.1").num_averages == 4
    assert AverageConfig(ema="power").names == {0.05: "EMA", 0.1: "EMA-0.1"}
    assert AverageConfig(ema="both").names == {0.05: "EMA-0.05", 0.1: "EMA-0.1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.05;0.1", "not a list of numbers"),
        ("0.05,0", "greater than 0"),
        ("0.05,0.3", "less than 0.2887"),
        ("0.05,nan", "greater than 0"),
        ("0.05,0.05", "twice"),
        ("0.1", "two or three"),
    ],
)
def test_a_wrong_width_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AverageConfig(ema_widths=text)


def test_one_width_is_enough_for_a_command() -> None:
    assert parse_widths("--ema-width", "0.12") == (0.12,)
