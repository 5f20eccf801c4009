"""Earth Mover's Distance between an anchor and a realness distribution."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.anchor_distance import distance

from . import reference


def realness_emd(logits: Tensor, anchor: Tensor) -> Tensor:
    """Earth Mover's Distance between softmax(logits) and the anchor on ordered outcomes.

    The mass is moved along u_0 < u_1 < ... < u_{N-1}, one unit of distance between neighbours:
    sum_k |F_softmax(k) - F_anchor(k)| with F the cumulative distributions. It may replace the KL
    divergence of eq. 3 (Xiangli et al., ICLR 2020, section 2.3).

    logits: [B, N], any strides, N <= 1024; anchor: [N] or [B, N], a constant distribution.
    Returns [B] in float32 (float64 for float64 logits), in outcome steps. Once differentiable in
    `logits`, with subgradient 0 where the cumulative distributions meet.
    Raises ValueError for other shapes, dtypes or mixed devices, or an anchor with a gradient.
    Traffic: the logits once, B values out; backward: the logits in, their gradient out.
    """
    return distance("realness_emd", reference.realness_emd, logits, anchor)
