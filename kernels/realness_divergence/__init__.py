"""KL divergence between two realness distributions."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import check_floating, check_logits, check_same_shape
from realness.kernels.library import select

from . import reference


def realness_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(softmax(logits_p) || softmax(logits_q)) of every sample: the first term of eq. 19.

    logits_p, logits_q: [B, N], any strides, N <= 1024, one dtype. Returns [B] in float32
    (float64 for float64 logits). Twice differentiable in both.
    Raises ValueError for other or unequal shapes, other or unequal dtypes, or mixed devices.
    Traffic: both logits once, B values out; backward: both in, both gradients out.
    Source: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020), eq. 17 and 19.
    """
    check_floating(logits_p=logits_p, logits_q=logits_q)
    check_logits("logits_p", logits_p)
    check_same_shape("logits_q", logits_q, "logits_p", logits_p)
    if logits_p.dtype != logits_q.dtype:
        raise ValueError(
            f"logits_p is {logits_p.dtype}, logits_q is {logits_q.dtype}; convert one of them"
        )
    ops = select(logits_p)
    if ops is None:
        return reference.realness_divergence(logits_p, logits_q)
    return ops.realness_divergence(logits_p, logits_q)[0]
