"""The 2-D distributions of the papers, as fixed sets of training points.

Every point is a function of (seed, index), so that a set is the same on any machine and a smaller
set is the beginning of a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from realness import kernels
from realness.trainer.config import ConfigError, flag
from realness.trainer.toy.names import DataName

NUM_POINTS = 100_000
"""Number of training points, as stated in RealnessGAN, section 4.1."""
NUM_FINITE_POINTS = 100
"""Training points of `gauss-finite`; FAR-GAN's section 6.1 says "finite" but states no number."""
TRAINING, TARGET = 0, 1
_CHOICE, _NOISE, _ROLL = 1, 2, 3

Sampler = Callable[[int, Tensor], Tensor]
"""(seed, index [B] int64) -> points [B, 2]."""


@dataclass(frozen=True)
class ToyData:
    """A distribution in the plane, and the points of it that a GAN is trained on.

    `modes` [K, 2] and `std`, the standard deviation of each mode along each axis, are only set for
    mixtures of Gaussians.
    """

    name: str
    sampler: Sampler
    num_points: int = NUM_POINTS
    modes: Tensor | None = None
    std: float | None = None
    seed: int = 0

    def training_points(self) -> Tensor:
        """The training set, [num_points, 2] float32."""
        return self.sampler(2 * self.seed + TRAINING, torch.arange(self.num_points))

    def target_points(self, count: int) -> Tensor:
        """New points of the same distribution, [count, 2], none of which is used for training."""
        return self.sampler(2 * self.seed + TARGET, torch.arange(count))


def gaussian_mixture(modes: Tensor, std: float) -> Sampler:
    """A mixture of isotropic Gaussians with equal weights around `modes` [K, 2]."""

    def sample(seed: int, index: Tensor) -> Tensor:
        words = kernels.philox_uint32(seed, _CHOICE, index, 1).squeeze(1)
        noise = kernels.philox_normal(seed, _NOISE, index, 2)
        return modes[words % len(modes)] + std * noise

    return sample


def square_grid(side: int, spacing: float) -> Tensor:
    """The nodes of a square grid around the origin, [side * side, 2]."""
    line = (torch.arange(side) - (side - 1) / 2) * spacing
    return torch.cartesian_prod(line, line)


def circle(count: int, radius: float) -> Tensor:
    """Equidistant points on a circle around the origin, [count, 2]."""
    angle = torch.arange(count) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def swiss_roll(seed: int, index: Tensor) -> Tensor:
    """The planar Swiss roll t (cos t, sin t), t uniform in [1.5 pi, 4.5 pi], divided by 7.5.

    Gaussian noise of standard deviation 0.25 is added before the division, as in the 2-D
    experiments of Gulrajani et al., "Improved Training of Wasserstein GANs" (NIPS 2017).
    """
    t = 1.5 * math.pi * (1 + 2 * kernels.philox_uniform(seed, _ROLL, index, 1))
    roll = torch.cat([t * t.cos(), t * t.sin()], dim=1)
    return (roll + 0.25 * kernels.philox_normal(seed, _NOISE, index, 2)) / 7.5


def _mixture(name: str, modes: Tensor, std: float) -> ToyData:
    return ToyData(name, gaussian_mixture(modes, std), modes=modes, std=std)


GRIDS: dict[str, tuple[int, float, float]] = {"grid9": (3, 2.0, 0.05), "grid25": (5, 2.0, 0.05)}
"""Side, distance of neighbours and standard deviation of the square grids of Gaussians."""


def _grid(name: str) -> ToyData:
    side, spacing, std = GRIDS[name]
    return _mixture(name, square_grid(side, spacing), std)


DATA: dict[DataName, Callable[[], ToyData]] = {
    "grid9": lambda: _grid("grid9"),
    "ring8": lambda: _mixture("ring8", circle(8, 2.0), 0.02),
    "grid25": lambda: _grid("grid25"),
    "swissroll": lambda: ToyData("swissroll", swiss_roll),
    "gauss-finite": lambda: ToyData(
        "gauss-finite", gaussian_mixture(torch.zeros(1, 2), 1.0), NUM_FINITE_POINTS
    ),
}
"""grid9: RealnessGAN section 4.1, 3 x 3 Gaussians at distance 2, as in its published data set. Its
"variances equal to 0.05" are standard deviations: with a variance of 0.05 (a standard deviation of
0.224) the mean sigma of high-quality samples that the paper reports, 0.043, would be a fifth of the
data's. ring8: Metz et al., "Unrolled GANs" (ICLR 2017), radius 2, standard deviation 0.02. grid25:
Dumoulin et al. (2016) in the usual scale, 5 x 5 at distance 2, standard deviation 0.05.
gauss-finite: a few points of N(0, I), FAR-GAN section 6.1."""


def build_data(
    name: DataName,
    *,
    spacing: float | None = None,
    std: float | None = None,
    num_points: int | None = None,
    seed: int = 0,
) -> ToyData:
    """The data called `name`; `spacing` and `std` change the scale of grid9 and grid25.

    Raises:
        ConfigError: for an unknown name, a number out of range, or a scale of data without one.
    """
    if name not in DATA:
        raise ConfigError(f"--data={name} is unknown; choose one of {', '.join(DATA)}")
    for what, value in (("spacing", spacing), ("std", std), ("num_points", num_points)):
        if value is not None and value <= 0:
            raise ConfigError(f"{flag(what)}={value} must be greater than 0")
    data = DATA[name]()
    if spacing is not None or std is not None:
        if name not in GRIDS:
            raise ConfigError(f"--spacing and --std belong to {' and '.join(GRIDS)}, not to {name}")
        side, usual_spacing, usual_std = GRIDS[name]
        modes = square_grid(side, spacing or usual_spacing)
        data = _mixture(name, modes, std or usual_std)
    return replace(data, num_points=num_points or data.num_points, seed=seed)
