"""The compiled generator: shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.library import Operator


def fake(seed: int, purpose: int, index: Tensor, dim: int, kind: int) -> Tensor:
    dtype = torch.int64 if kind == 0 else torch.float32
    return index.new_empty((index.shape[0], dim), dtype=dtype)


OPERATORS = (
    Operator("philox(int seed, int purpose, Tensor index, int dim, int kind) -> Tensor", fake),
)
