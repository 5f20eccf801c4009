"""The squared L2 norm of every sample: the reduction of gradient penalties."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import check_floating
from realness.kernels.library import select

from . import reference


def squared_norm(x: Tensor) -> Tensor:
    """The sum of squares of every sample, which R1 needs for image gradients.

    x: [B, ...], at least one dimension; contiguous and channels_last are read in place, other
    strides are copied first. Returns [B] in float32 (float64 for float64 input), accumulated in
    that dtype. Differentiable to any order. Raises ValueError for other dtypes or a scalar.
    Traffic: x once; backward: x in, its gradient out.
    Source: Mescheder et al., "Which training methods for GANs do actually converge?" (2018), eq. 9.
    """
    check_floating(x=x)
    if x.dim() == 0:
        raise ValueError("x is a scalar; expected [batch, ...]")
    ops = select(x, compiled_on_cpu=False)
    return reference.squared_norm(x) if ops is None else ops.sample_dot(x, x)
