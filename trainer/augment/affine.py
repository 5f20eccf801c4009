"""Affine maps of every image's pixel positions or colours, and where they apply.

A map of n coordinates, x -> L x + t, is the matrix [L | t], [B, n, n + 1] float32: n is 2 for
positions (x to the right, y down, in pixels from the image's centre) and 3 for colours.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def identity(dims: int, like: Tensor) -> Tensor:
    """The identity [dims, dims + 1], in the dtype and on the device of `like`."""
    return torch.eye(dims, dims + 1, dtype=like.dtype, device=like.device)


def matrix(rows: Sequence[Sequence[Tensor | float]], like: Tensor) -> Tensor:
    """The matrices [B, n, m] with the given entries, each [B] or a number; like: [B]."""
    columns = [
        entry if isinstance(entry, Tensor) else torch.full_like(like, entry)
        for row in rows
        for entry in row
    ]
    return torch.stack(columns, 1).view(-1, len(rows), len(rows[0]))


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map x -> outer(inner(x)); all [B, n, n + 1].

    Sums of products, not a matrix product, which a GPU may round to TF32.
    """
    dims = outer.shape[1]
    linear = (outer[:, :, :dims, None] * inner[:, None]).sum(2)
    return linear + F.pad(outer[:, :, dims:], (dims, 0))


def compose_all(maps: Sequence[Tensor]) -> Tensor:
    """The map x -> maps[0](maps[1](...(x))); at least one map, each [B, n, n + 1]."""
    return functools.reduce(compose, maps)


def where_applied(applied: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """Each map [B, n, n + 1] for the images to which it applies, the identity for the others.

    applied: [B, number of maps] bool.
    """
    stacked = torch.stack(list(maps), 1)
    dims = stacked.shape[2]
    chosen = torch.where(applied[:, :, None, None], stacked, identity(dims, stacked))
    return list(chosen.unbind(1))
