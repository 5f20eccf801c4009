"""Power-function averages: their weights over training, and other averages computed from them.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (CVPR 2024, arXiv
2312.02696), appendix C. The profile of an average at time t is p(tau) = (gamma + 1) tau^gamma /
t^(gamma + 1) for 0 <= tau <= t: the weight of the network as it was at time tau. Its width is its
standard deviation as a fraction of t. The recurrence of `newest_weight` has this profile exactly,
not only for small steps, if one takes the network as constant between updates: the weight of the
update that ended at tau is the integral of p over that update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64] | float


class Profile(NamedTuple):
    """The profile of an average of `width` at `time`, which may have any unit."""

    width: float
    time: float


class Reconstruction(NamedTuple):
    """An average as a sum of others.

    coefficients: factor of each, float64 [n], with sum 1. residual: how far its profile is from the
    wanted one, as a fraction of that: |sum_i x_i p_i - p| / |p|, with the L2 norm over training.
    """

    coefficients: NDArray[np.float64]
    residual: float


def exponent_of(width: float) -> float:
    """gamma for a width between 0 and 1/sqrt(12): the largest real root of equation 126."""
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16 - inverse, 12 - inverse])
    # The roots' sum is -7, so the other two have negative real parts.
    return float(roots.real.max())


def width_of(exponent: float) -> float:
    """The width for gamma >= 0, equation 123."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


def newest_weight(exponent: float, num_images: int, images_seen: int) -> float:
    """1 - beta: the weight of the network after the last `num_images` of `images_seen`.

    beta = (1 - num_images / images_seen)^(gamma + 1), equation 127; it is 0 in the first update.
    """
    if num_images >= images_seen:
        return 1.0
    return -math.expm1((exponent + 1) * math.log1p(-num_images / images_seen))


def inner_product(
    exponent_a: Numbers,
    time_a: Numbers,
    exponent_b: Numbers,
    time_b: Numbers,
) -> NDArray[np.float64]:
    """The integral over tau of the product of two profiles, equation 151; arrays broadcast."""
    earlier = np.divide(time_a, time_b)
    share = np.where(
        earlier < 1,
        np.minimum(1, earlier) ** exponent_b,
        np.minimum(1, 1 / earlier) ** exponent_a,
    )
    product = (exponent_a + 1) * (exponent_b + 1) * share
    return product / ((exponent_a + exponent_b + 1) * np.maximum(time_a, time_b))


def reconstruct(stored: Sequence[Profile], wanted: Profile) -> Reconstruction:
    """The sum of stored averages whose profile is nearest to `wanted` in L2; algorithm 3.

    The normal equations are solved in float64 after scaling each profile to norm 1, and the
    coefficients are divided by their sum.
    """
    exponents = np.array([exponent_of(item.width) for item in stored])
    times = np.array([item.time for item in stored], dtype=np.float64)
    exponent, time = exponent_of(wanted.width), wanted.time
    gram = inner_product(exponents[:, None], times[:, None], exponents[None], times[None])
    towards = inner_product(exponents, times, exponent, time)
    scale = gram.diagonal() ** -0.5
    solved, *_ = np.linalg.lstsq(gram * scale[:, None] * scale, towards * scale, rcond=None)
    coefficients = solved * scale
    coefficients /= coefficients.sum()
    whole = inner_product(exponent, time, exponent, time)
    squared = whole - 2 * coefficients @ towards + coefficients @ gram @ coefficients
    return Reconstruction(coefficients, math.sqrt(max(0.0, squared / whole)))
