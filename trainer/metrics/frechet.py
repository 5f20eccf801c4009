"""The Fréchet distance between two sets of features; with Inception's features it is the FID.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
NeurIPS 2017, section 4: both sets are treated as Gaussians, and
d^2 = |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau, 1982). Usually computed with
50,000 generated images and all real ones; the estimate is biased upwards, more so for fewer images
(Bińkowski et al., 2018), so only numbers with equal counts are comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.distributed.collectives import gather

DEFAULT_NUM_IMAGES = 50_000


class GaussianMoments:
    """Mean and covariance of features [n, dim], batch by batch, in float64 on the CPU.

    Sets are merged exactly (Chan, Golub and LeVeque, 1979), without the cancellation of
    E[x^2] - E[x]^2.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 [dim, dim]. Raises ValueError for fewer than 2 rows."""
        if self.count < 2:
            raise ValueError(f"{self.count} images have no covariance; use at least 2")
        return self.scatter / (self.count - 1)

    def add(self, features: Tensor) -> None:
        """Add features [n, dim] of any floating type.

        Raises ValueError for a different dim, and for features that are not finite.
        """
        if features.dim() != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"features have shape {tuple(features.shape)}, expected [n, {len(self.mean)}]"
            )
        if not len(features):
            return
        rows = features.detach().to("cpu", torch.float64)
        check_finite(rows)
        batch = GaussianMoments(rows.shape[1])
        batch.count, batch.mean = len(rows), rows.mean(0)
        centred = rows - batch.mean
        batch.scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: GaussianMoments) -> None:
        """Add the rows that were added to `other`."""
        total = self.count + other.count
        if not other.count:
            return
        shift = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += torch.outer(shift, shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def over_ranks(self) -> GaussianMoments:
        """The moments of all ranks' rows, the same on every rank; collective."""
        merged = GaussianMoments(len(self.mean))
        for count, mean, scatter in gather((self.count, self.mean, self.scatter)):
            part = GaussianMoments(len(self.mean))
            part.count, part.mean, part.scatter = count, mean, scatter
            merged.merge(part)
        return merged


def check_finite(features: Tensor) -> None:
    """Raise ValueError for features that are not finite."""
    if not features.isfinite().all():
        raise ValueError("features are not finite: the generator or the network is broken")


def frechet_distance(first: GaussianMoments, second: GaussianMoments) -> float:
    """The squared distance d^2 of the formula above, i.e. the FID.

    With C1 = A A^T and C2 = B B^T, Tr((C1 C2)^(1/2)) is the sum of the singular values of A^T B.
    This avoids taking roots of rounding errors of the product, and gives no complex numbers for
    singular covariances (fewer images than dimensions).

    Raises:
        ValueError: for sets of different dimension or fewer than 2 rows.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(
            f"features of {len(first.mean)} and of {len(second.mean)} dimensions come from "
            "different networks"
        )
    c1, c2 = first.covariance, second.covariance
    overlap = torch.linalg.svdvals(_factor(c1).T @ _factor(c2)).sum()
    squared = (first.mean - second.mean).square().sum() + c1.trace() + c2.trace() - 2 * overlap
    return max(0.0, squared.item())


def _factor(covariance: Tensor) -> Tensor:
    """A [dim, rank] with A A^T = covariance [dim, dim], by its eigenvalues.

    An eigenvalue of 0 is computed as up to dim * eps * the largest one, and its root would be a
    deviation of 1e-8 instead of 0; such small ones are treated as 0, as in `matrix_rank`.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors[:, kept] * values[kept].sqrt()
