"""RealnessGAN's objectives of D and G, each in one launch forward and one backward."""

from __future__ import annotations

import torch
from torch import Tensor

from realness.kernels.checks import (
    accumulation_dtype,
    check_anchor,
    check_floating,
    check_logits,
    check_same_shape,
)
from realness.kernels.library import Impl, select

from . import reference


def check_side(side: str, logits: Tensor, noise: Tensor | None) -> None:
    """A batch of logits that has a mean, and noise of its shape."""
    check_logits(f"logits_{side}", logits)
    if logits.shape[0] == 0:
        raise ValueError(f"logits_{side} has an empty batch; expected B >= 1")
    if noise is not None:
        check_same_shape(f"noise_{side}", noise, f"logits_{side}", logits)


def check_anchors(anchor_real: Tensor, anchor_fake: Tensor, logits: Tensor) -> None:
    """Both anchors are constants of shape [N]."""
    for name, anchor in (("anchor_real", anchor_real), ("anchor_fake", anchor_fake)):
        check_anchor(name, anchor, logits)
        if anchor.dim() != 1:
            raise ValueError(f"{name} has shape {tuple(anchor.shape)}; expected [outcomes]")


def widened(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in the dtype of the logits' arithmetic."""
    return [None if x is None else x.to(accumulation_dtype(dtype)) for x in tensors]


def realness_d_loss(
    logits_real: Tensor,
    logits_fake: Tensor,
    anchor_real: Tensor,
    anchor_fake: Tensor,
    noise_real: Tensor | None = None,
    noise_fake: Tensor | None = None,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """The discriminator's loss: E[KL(A1 || D(real))] + E[KL(A0 || D(fake))], eq. 3.

    logits_real [B, N], logits_fake [B', N] of one dtype; anchor_real (A1), anchor_fake (A0) [N].
    With noise_* [B, N] the logits are resampled first (section 2.4) from this batch's moments.
    Returns a scalar in float32 (float64 for float64 logits). Once differentiable in both logits.
    Raises ValueError for other shapes or dtypes, mixed devices or an empty batch.
    Traffic: logits and noise in, the gradient out; backward: the gradient in and out.
    The compiled forward is one thread block: made for batches up to a few hundred samples.
    Source: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020).
    """
    check_floating(
        logits_real=logits_real,
        logits_fake=logits_fake,
        anchor_real=anchor_real,
        anchor_fake=anchor_fake,
        noise_real=noise_real,
        noise_fake=noise_fake,
    )
    check_side("real", logits_real, noise_real)
    check_side("fake", logits_fake, noise_fake)
    if logits_real.dtype != logits_fake.dtype or logits_real.shape[1] != logits_fake.shape[1]:
        raise ValueError(
            f"logits_real is {logits_real.dtype} {tuple(logits_real.shape)}, logits_fake "
            f"{logits_fake.dtype} {tuple(logits_fake.shape)}; expected one dtype, as many outcomes"
        )
    check_anchors(anchor_real, anchor_fake, logits_real)
    ops = select(impl, logits_real)
    if ops is None:
        return reference.realness_d_loss(
            logits_real, logits_fake, anchor_real, anchor_fake, noise_real, noise_fake
        )
    rest = widened(logits_fake.dtype, anchor_real, anchor_fake, noise_real, noise_fake)
    return ops.realness_d_loss(logits_real, logits_fake, *rest)[0]


def realness_g_loss(
    logits_fake: Tensor,
    logits_real: Tensor | None,
    anchor_real: Tensor,
    anchor_fake: Tensor,
    noise_fake: Tensor | None = None,
    noise_real: Tensor | None = None,
    *,
    objective: int = 2,
    impl: Impl = "auto",
) -> Tensor:
    """The generator's loss, one of the paper's three objectives.

    1 (eq. 18): -E[KL(A0 || D(fake))]
    2 (eq. 19): E[KL(D(real) || D(fake))] - E[KL(A0 || D(fake))], real and fake paired by row
    3 (eq. 20): E[KL(A1 || D(fake))] - E[KL(A0 || D(fake))]

    logits_fake: [B, N]; logits_real: [B, N], a constant, needed by objective 2 only;
    anchor_real (A1), anchor_fake (A0): [N]. With noise_* [B, N] the logits are resampled first.
    Returns a scalar in float32 (float64 for float64 logits). Once differentiable in logits_fake.
    Raises ValueError for other shapes, dtypes, objectives, mixed devices or an empty batch.
    Traffic: logits and noise in, the gradient out; backward: the gradient in and out.
    The compiled forward is one thread block: made for batches up to a few hundred samples.
    Source: Xiangli et al., "Real or Not Real, that is the Question" (ICLR 2020).
    """
    if objective not in (1, 2, 3):
        raise ValueError(f"objective={objective!r}; expected 1, 2 or 3 (eq. 18, 19 or 20)")
    if objective == 2:
        if logits_real is None:
            raise ValueError("objective=2 compares with real samples; give logits_real")
        check_same_shape("logits_real", logits_real, "logits_fake", logits_fake)
        if logits_real.dtype != logits_fake.dtype:
            raise ValueError(
                f"logits_real is {logits_real.dtype}, logits_fake is {logits_fake.dtype}; "
                "convert one of them"
            )
    else:
        logits_real = noise_real = None
    check_floating(
        logits_fake=logits_fake,
        logits_real=logits_real,
        anchor_real=anchor_real,
        anchor_fake=anchor_fake,
        noise_fake=noise_fake,
        noise_real=noise_real,
    )
    check_side("fake", logits_fake, noise_fake)
    if logits_real is not None:
        check_side("real", logits_real, noise_real)
    check_anchors(anchor_real, anchor_fake, logits_fake)
    ops = select(impl, logits_fake)
    if ops is None:
        return reference.realness_g_loss(
            logits_fake, logits_real, anchor_real, anchor_fake, noise_fake, noise_real, objective
        )
    rest = widened(logits_fake.dtype, anchor_real, anchor_fake, noise_fake, noise_real)
    return ops.realness_g_loss(logits_fake, logits_real, *rest, objective)[0]
