"""RealnessGAN's objectives of D and G, each in one launch forward and one backward."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from realness.kernels.checks import (
    accumulation_dtype,
    check_anchor,
    check_floating,
    check_logits,
    check_same_shape,
)
from realness.kernels.library import select
from realness.kernels.philox import NormalDraws, check_draw, philox_normal

from . import reference

Noise: TypeAlias = "Tensor | NormalDraws | None"


def check_side(side: str, logits: Tensor, noise: Noise) -> None:
    """Check that the batch of logits is not empty and that noise has its shape."""
    check_logits(f"logits_{side}", logits)
    if logits.shape[0] == 0:
        raise ValueError(f"logits_{side} has an empty batch; expected B >= 1")
    if isinstance(noise, NormalDraws):
        check_draw(*noise, dim=logits.shape[1])
        if len(noise.index) != len(logits) or noise.index.device != logits.device:
            raise ValueError(
                f"noise_{side} has {len(noise.index)} indices on {noise.index.device}, "
                f"logits_{side} {len(logits)} rows on {logits.device}; "
                "expected one index per row, on one device"
            )
    elif noise is not None:
        check_same_shape(f"noise_{side}", noise, f"logits_{side}", logits)


def check_anchors(anchor_real: Tensor, anchor_fake: Tensor, logits: Tensor) -> None:
    """Check that both anchors are constants of shape [N]."""
    for name, anchor in (("anchor_real", anchor_real), ("anchor_fake", anchor_fake)):
        check_anchor(name, anchor, logits)
        if anchor.dim() != 1:
            raise ValueError(f"{name} has shape {tuple(anchor.shape)}; expected [outcomes]")


def values(noise: Noise) -> Tensor | None:
    """The noise, if it is given as numbers, else None."""
    return None if isinstance(noise, NormalDraws) else noise


def drawn(noise: Noise, logits: Tensor) -> Tensor | None:
    """The noise as numbers, for the reference."""
    if not isinstance(noise, NormalDraws):
        return noise
    return philox_normal(*noise, dim=logits.shape[1])


def widened(dtype: torch.dtype, *inputs: Noise) -> list[Tensor | None]:
    """Noise tensors in the dtype of the logits' arithmetic; for draws, their index."""
    wide = accumulation_dtype(dtype)
    return [
        x.index if isinstance(x, NormalDraws) else None if x is None else x.to(wide) for x in inputs
    ]


def keys(*sides: Noise) -> list[int]:
    """Seed and purpose of each side's draws; zeros for a side without draws."""
    pairs = (tuple(x[:2]) if isinstance(x, NormalDraws) else (0, 0) for x in sides)
    return [number for pair in pairs for number in pair]


def realness_d_loss(
    logits_real: Tensor,
    logits_fake: Tensor,
    anchor_real: Tensor,
    anchor_fake: Tensor,
    noise_real: Noise = None,
    noise_fake: Noise = None,
) -> Tensor:
    """The discriminator's loss: E[KL(A1 || D(real))] + E[KL(A0 || D(fake))], eq. 3.

    logits_real [B, N], logits_fake [B', N] of one dtype; anchor_real (A1), anchor_fake (A0) [N].
    With noise_* the logits are resampled first (section 2.4) from this batch's moments: [B, N]
    numbers, or NormalDraws, which the forward draws itself.
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
        noise_real=values(noise_real),
        noise_fake=values(noise_fake),
    )
    check_side("real", logits_real, noise_real)
    check_side("fake", logits_fake, noise_fake)
    if logits_real.dtype != logits_fake.dtype or logits_real.shape[1] != logits_fake.shape[1]:
        raise ValueError(
            f"logits_real is {logits_real.dtype} {tuple(logits_real.shape)}, logits_fake "
            f"{logits_fake.dtype} {tuple(logits_fake.shape)}; expected equal dtypes and outcomes"
        )
    check_anchors(anchor_real, anchor_fake, logits_real)
    ops = select(logits_real)
    if ops is None:
        noise = drawn(noise_real, logits_real), drawn(noise_fake, logits_fake)
        return reference.realness_d_loss(logits_real, logits_fake, anchor_real, anchor_fake, *noise)
    rest = widened(logits_fake.dtype, anchor_real, anchor_fake, noise_real, noise_fake)
    return ops.realness_d_loss(logits_real, logits_fake, *rest, keys(noise_real, noise_fake))[0]


def realness_g_loss(
    logits_fake: Tensor,
    logits_real: Tensor | None,
    anchor_real: Tensor,
    anchor_fake: Tensor,
    noise_fake: Noise = None,
    noise_real: Noise = None,
    *,
    objective: int = 2,
) -> Tensor:
    """The generator's loss, one of the paper's three objectives.

    1 (eq. 18): -E[KL(A0 || D(fake))]
    2 (eq. 19): E[KL(D(real) || D(fake))] - E[KL(A0 || D(fake))], real and fake paired by row
    3 (eq. 20): E[KL(A1 || D(fake))] - E[KL(A0 || D(fake))]

    logits_fake: [B, N]; logits_real: [B, N], a constant, needed by objective 2 only;
    anchor_real (A1), anchor_fake (A0): [N]. With noise_* the logits are resampled first: [B, N]
    numbers, or NormalDraws, which the forward draws itself.
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
        noise_fake=values(noise_fake),
        noise_real=values(noise_real),
    )
    check_side("fake", logits_fake, noise_fake)
    if logits_real is not None:
        check_side("real", logits_real, noise_real)
    check_anchors(anchor_real, anchor_fake, logits_fake)
    ops = select(logits_fake)
    if ops is None:
        noise = drawn(noise_fake, logits_fake), drawn(noise_real, logits_fake)
        return reference.realness_g_loss(
            logits_fake, logits_real, anchor_real, anchor_fake, *noise, objective
        )
    rest = widened(logits_fake.dtype, anchor_real, anchor_fake, noise_fake, noise_real)
    sides = keys(noise_real, noise_fake)
    return ops.realness_g_loss(logits_fake, logits_real, *rest, objective, sides)[0]
