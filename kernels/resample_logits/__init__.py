"""Feature resampling: replace logits by draws from their own per-outcome Gaussian."""

from __future__ import annotations

from torch import Tensor

from realness.kernels.checks import check_floating, check_logits, check_same_shape
from realness.kernels.library import select
from realness.kernels.philox import philox_normal

from . import reference


def logit_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every outcome over the batch: the first half of resampling.

    logits: [B, N] with B >= 1, any strides, N <= 1024. Returns (mean [N], variance [N]) in float32
    (float64 for float64 logits). Twice differentiable. Merge the moments of several ranks, then
    call `resample_from_moments`. Raises ValueError for other shapes or dtypes, or an empty batch.
    Traffic: the logits once (twice through the cache: the variance is not a difference of sums).
    Source: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020), section 2.4.
    """
    check_floating(logits=logits)
    check_logits("logits", logits)
    if logits.shape[0] == 0:
        raise ValueError("logits has an empty batch, which has no moments; expected B >= 1")
    ops = select(logits)
    return reference.logit_moments(logits) if ops is None else ops.logit_moments(logits)


def resample_from_moments(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """mean + sqrt(variance) * noise: the second half of resampling.

    mean, variance: [N] float32 or float64; noise: [B, N]. Returns [B, N] in the dtype of `mean`.
    Twice differentiable in mean, variance and noise; an outcome of variance 0 passes no gradient
    to its variance. Raises ValueError for other shapes or dtypes, or mixed devices.
    Traffic: the noise in, the logits out; backward: gradient and noise in, 2 N values out.
    """
    check_floating(mean=mean, variance=variance, noise=noise)
    check_logits("noise", noise)
    if not mean.shape == variance.shape == noise.shape[1:] or mean.dtype != variance.dtype:
        raise ValueError(
            f"mean is {mean.dtype} {tuple(mean.shape)}, variance {variance.dtype} "
            f"{tuple(variance.shape)}; expected both [{noise.shape[1]}] , one dtype"
        )
    ops = select(mean)
    if ops is None:
        return reference.resample_from_moments(mean, variance, noise)
    return ops.resample_from_moments(mean, variance, noise.to(mean.dtype))


def resample_logits(
    logits: Tensor,
    noise: Tensor | None = None,
    *,
    seed: int | None = None,
    purpose: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Draw logits from N(mean_i, variance_i) of every outcome i over this batch.

    logits: [B, N]. Give either `noise` [B, N], or `seed`, `purpose` and `index` [B] (the samples'
    global numbers), from which `philox_normal` draws it. Returns [B, N] in float32 (float64 for
    float64 logits): the losses that follow are computed there. Twice differentiable.
    Raises ValueError unless exactly one source of noise is given, and as both halves do.
    Source: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020), section 2.4.
    """
    if noise is None:
        if seed is None or index is None:
            raise ValueError("resample_logits has no noise; give noise, or seed and index")
        noise = philox_normal(seed, purpose, index, logits.shape[-1])
    elif seed is not None or index is not None:
        raise ValueError("resample_logits was given noise and a seed or index; give one of them")
    check_same_shape("noise", noise, "logits", logits)
    mean, variance = logit_moments(logits)
    return resample_from_moments(mean, variance, noise)
