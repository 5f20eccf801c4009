"""KL divergence from an anchor distribution to a discriminator's realness distribution."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.anchor_distance import distance

from . import reference


def realness_kl(logits: Tensor, anchor: Tensor) -> Tensor:
    """KL(anchor || softmax(logits)) of every sample: the terms of RealnessGAN's eq. 3, 18 and 20.

    logits: [B, N], any strides, N <= 1024; anchor: [N] or [B, N], a constant distribution.
    Returns [B] in float32 (float64 for float64 logits). Twice differentiable in `logits`.
    An outcome with anchor probability 0 costs nothing, even where its logit is -inf.
    Raises ValueError for other shapes, dtypes or mixed devices, or an anchor with a gradient.
    Traffic: the logits once, B values out; backward: the logits in, their gradient out.
    Source: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020), eq. 3 and 17.
    """
    return distance("realness_kl", reference.realness_kl, logits, anchor)
