"""Fused operators of RealnessGAN and StyleGAN2, with plain PyTorch references.

Calls use the compiled library if it supports the device, and the reference otherwise; the choice is
logged once per device. `with implementation("reference"):` overrides it for the whole process.
"""

from __future__ import annotations

if not __name__.startswith("realness."):
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as realness.kernels "
        "(install the project with `pip install -e .`)"
    )

from .bias_act import bias_act
from .checks import MAX_OUTCOMES
from .demodulate import demodulate
from .layout import format_of
from .library import Impl, implementation
from .philox import NormalDraws, philox_normal, philox_uint32, philox_uniform
from .realness_divergence import realness_divergence
from .realness_emd import realness_emd
from .realness_kl import realness_kl
from .realness_loss import realness_d_loss, realness_g_loss
from .resample_logits import logit_moments, resample_from_moments, resample_logits
from .spectral_norm import spectral_norm_step, spectral_scale
from .squared_norm import squared_norm
from .upfirdn2d import upfirdn2d
from .warp import warp

__all__ = [
    "MAX_OUTCOMES",
    "Impl",
    "NormalDraws",
    "bias_act",
    "demodulate",
    "format_of",
    "implementation",
    "logit_moments",
    "philox_normal",
    "philox_uint32",
    "philox_uniform",
    "realness_d_loss",
    "realness_divergence",
    "realness_emd",
    "realness_g_loss",
    "realness_kl",
    "resample_from_moments",
    "resample_logits",
    "spectral_norm_step",
    "spectral_scale",
    "squared_norm",
    "upfirdn2d",
    "warp",
]
