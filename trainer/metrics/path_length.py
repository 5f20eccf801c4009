"""Perceptual path length: how much images change under a small step between two latents.

Karras et al., "A Style-Based Generator Architecture for GANs", CVPR 2019, section 4.1, eq. 2, in z:
l = E[d(G(slerp(z1, z2; t)), G(slerp(z1, z2; t + eps))) / eps^2], t ~ U(0, 1), eps = 1e-4, over
100,000 samples, of which the lowest and the highest 1 % are excluded.

The paper's d is LPIPS with VGG-16. Here it is the squared Euclidean distance between features of
the network that the score is named after, each normalised to unit length. The numbers of different
networks are not comparable with each other or with published ones, so the score is never called
just PPL.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-4
TRIMMED_SHARE = 0.01


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of rows: start, end [B, dim], t [B, 1] -> unit vectors [B, dim].

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985. In float64, because the
    path length divides by eps^2.
    """
    start, end = (F.normalize(row.double(), dim=1) for row in (start, end))
    omega = (start * end).sum(1, keepdim=True).clamp(-1, 1).arccos()
    ortho = F.normalize(end - (start * end).sum(1, keepdim=True) * start, dim=1)
    angle = t.double() * omega
    return angle.cos() * start + angle.sin() * ortho


def step_pair(z1: Tensor, z2: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [B, dim] that are eps apart on the path from z1 to z2, with the norm of a typical z.

    A normal z has a norm near sqrt(dim); the paper's generator divides by it, but these do not.
    """
    length = z1.shape[1] ** 0.5
    pair = (slerp(z1, z2, t), slerp(z1, z2, t.double() + EPSILON))
    return pair[0] * length, pair[1] * length


def squared_feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """|f1 / |f1| - f2 / |f2||^2 of each row: [B, dim], [B, dim] -> float64 [B]."""
    difference = F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)
    return difference.square().sum(1)


def trimmed_mean(distances: Tensor) -> float:
    """The mean [n] -> () of the values from the 1st to the 99th percentile, inclusive."""
    low = torch.quantile(distances, TRIMMED_SHARE, interpolation="lower")
    high = torch.quantile(distances, 1 - TRIMMED_SHARE, interpolation="higher")
    return distances[(distances >= low) & (distances <= high)].mean().item()
