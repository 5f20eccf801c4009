"""Measures of how close generated points are to a distribution in the plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

RADIUS_STDS = 4.0
MIN_MODE_SAMPLES = 100
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class ModeMeasures:
    """Section 4.1 of RealnessGAN: quality and coverage of a mixture of Gaussians.

    high_quality: percentage of samples within 4 sigma of the nearest mode's mean.
    num_modes: modes with more than 100 such samples.
    sigma: mean over these modes of the standard deviation of their high-quality samples (around the
    samples' own mean, both axes pooled); NaN if no mode is recovered.
    """

    high_quality: float
    num_modes: int
    sigma: float


def measure_modes(samples: Tensor, modes: Tensor, std: float) -> ModeMeasures:
    """Quality, coverage and spread of samples [n, 2] for Gaussians at `modes` [K, 2].

    RealnessGAN (ICLR 2020), section 4.1, after Dumoulin et al., "Adversarially Learned Inference"
    (2016); the paper draws 10,000 samples.

    Raises:
        ValueError: for samples or modes that are not points in the plane, or no samples.
    """
    _check_points(samples=samples, modes=modes)
    distance, nearest = torch.cdist(samples.double(), modes.double()).min(1)
    good = distance < RADIUS_STDS * std
    counts = torch.bincount(nearest[good], minlength=len(modes))
    recovered = torch.nonzero(counts > MIN_MODE_SAMPLES).flatten().tolist()
    spreads = [_pooled_std(samples[good & (nearest == mode)]) for mode in recovered]
    return ModeMeasures(
        high_quality=100 * float(good.double().mean()),
        num_modes=len(recovered),
        sigma=float(np.mean(spreads)) if spreads else float("nan"),
    )


def _pooled_std(points: Tensor) -> float:
    return float(points.double().var(0, correction=1).mean().sqrt())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of points [n, 2] and [m, 2], unbiased.

    Szekely & Rizzo, "Energy statistics: a class of statistics based on distances" (2013), eq. 5,
    with means over distinct pairs, so that it is 0 on average for two samples of one distribution
    (and can be negative). Its unit is that of the points.

    Raises:
        ValueError: unless both sets contain at least two points in the plane.
    """
    _check_points(x=x, y=y)
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"x has {len(x)} and y {len(y)} points; the distance needs two of each")
    within = sum(_sum_of_distances(p, p) / (len(p) * (len(p) - 1)) for p in (x, y))
    return 2 * _sum_of_distances(x, y) / (len(x) * len(y)) - within


def _sum_of_distances(x: Tensor, y: Tensor) -> float:
    y = y.double()
    # The exact mode, because distances by a matrix product are inaccurate for close points.
    exact = "donot_use_mm_for_euclid_dist"
    parts = (torch.cdist(part, y, compute_mode=exact) for part in x.double().split(_ROWS_AT_ONCE))
    return sum(float(part.sum()) for part in parts)


def wasserstein_distance(x: Tensor, y: Tensor) -> float:
    """The exact 1-Wasserstein distance between two sets of n points, [n, 2] each.

    The mean length of the cheapest assignment of one set to the other (Kantorovich's problem for
    uniform discrete measures; Peyre & Cuturi, "Computational Optimal Transport", 2019, section
    2.2). Cubic in n: a second for 1,000 points.

    Raises:
        ValueError: for sets of different sizes, or if they are not points in the plane.
    """
    _check_points(x=x, y=y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} and y {len(y)} points; give both the same number")
    cost = torch.cdist(x.double(), y.double()).numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def _check_points(**sets: Tensor) -> None:
    for name, points in sets.items():
        if points.dim() != 2 or points.shape[1] != 2 or len(points) == 0:
            raise ValueError(f"{name} has shape {tuple(points.shape)}; expected points [n, 2]")
