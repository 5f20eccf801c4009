"""Precision and recall of generated images: separate measures of quality and coverage.

Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS
2019, eq. 1 and 2: a set's manifold is the union of balls around its features, each reaching to its
k-th nearest neighbour in the set, k = 3. Precision is the fraction of generated images on the real
manifold, recall the fraction of real images on the generated one. The paper uses 50,000 images of
each set and the features of VGG-16; here they are those of the network named with the score.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOUR = 3
ROWS_AT_ONCE = 1024


def precision_recall(real: Tensor, fake: Tensor, neighbour: int = NEIGHBOUR) -> tuple[float, float]:
    """(precision, recall) of features [n, dim] and [m, dim], both in [0, 1].

    Raises:
        ValueError: for sets of different dimension, or with too few images for `neighbour`.
    """
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features have shapes {tuple(real.shape)} and {tuple(fake.shape)}, expected [n, dim] "
            "and [m, dim] of the same network"
        )
    if min(len(real), len(fake)) <= neighbour:
        raise ValueError(
            f"{min(len(real), len(fake))} images have no neighbour number {neighbour}; use at "
            f"least {neighbour + 1}"
        )
    real, fake = real.double(), fake.double()
    return _share_inside(fake, real, neighbour), _share_inside(real, fake, neighbour)


def _share_inside(points: Tensor, centres: Tensor, neighbour: int) -> float:
    """The fraction of points [m, dim] in a ball around any of the centres [n, dim]."""
    radii = torch.cat(
        [
            # The nearest of all is the centre itself.
            _squared_distances(part, centres).kthvalue(neighbour + 1, dim=1).values
            for part in centres.split(ROWS_AT_ONCE)
        ]
    )
    inside = [
        (_squared_distances(part, centres) <= radii).any(1) for part in points.split(ROWS_AT_ONCE)
    ]
    return torch.cat(inside).double().mean().item()


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, dim], [m, dim] -> [n, m] by one matrix product, in float64 because it cancels."""
    product = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
    return product.clamp_(min=0)
