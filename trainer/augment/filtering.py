"""ADA's filter: random gains of four octaves of spatial frequency.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020), appendix
B. The bands are those of the wavelet sym2. With L(z) and U(z) the autocorrelations of its low-pass
and high-pass filter, halved, L + U = 1, and

    1 = U(z) + L(z) (U(z^2) + L(z^2) (U(z^4) + L(z^4))).

The four products, from the last to the first, are the bands, from the lowest to the highest.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realness.trainer.randomness import Draws, Purpose

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
"""Low-pass filter of the wavelet; Daubechies, "Ten Lectures on Wavelets" (1992)."""

NUM_BANDS = 4

SPECTRUM = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""The share of each band in the power of a typical image (1/f), for the normalisation."""


def octave_bands() -> np.ndarray:
    """The filters of the bands, [4, 43] float64, lowest first; they are even and sum to 1 at 0."""
    low = np.array(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    lows, highs = (np.convolve(taps, taps[::-1]) / 2 for taps in (low, high))
    bands, rest = [], np.ones(1)
    for octave in range(NUM_BANDS - 1):
        bands.append(np.convolve(rest, _stretched(highs, 2**octave)))
        rest = np.convolve(rest, _stretched(lows, 2**octave))
    bands.append(rest)
    margins = [(len(rest) - len(band)) // 2 for band in bands]
    padded = [np.pad(band, margin) for band, margin in zip(bands, margins, strict=True)]
    return np.stack(padded[::-1])


def _stretched(taps: np.ndarray, factor: int) -> np.ndarray:
    """The taps of H(z^factor)."""
    result = np.zeros((len(taps) - 1) * factor + 1)
    result[::factor] = taps
    return result


@functools.cache
def _bands_on(device: torch.device) -> Tensor:
    """`octave_bands` as float32, copied to each device once: not while a CUDA graph is captured."""
    return torch.from_numpy(octave_bands()).float().to(device)


def band_gains(n: Tensor, applied: Tensor) -> Tensor:
    """The gain of each band, [B, 4], from draws n ~ N(0, 1) and `applied` (bool), both [B, 4].

    For each band to which it applies, the vector with 2^n for this band and 1 for the others is
    divided by the root of sum_i spectrum_i gain_i^2, which keeps a typical image's power. The
    result is the product of the vectors.
    """
    squared = torch.where(applied, torch.exp2(n), 1).square()
    # Only band i differs from 1 in vector i, so its norm needs no vector.
    powers = [1 + share * (squared[:, i] - 1) for i, share in enumerate(SPECTRUM)]
    common = torch.stack(powers, 1).prod(1, keepdim=True)
    return (squared / common).sqrt()


def reflect_pad(images: Tensor, margin: int) -> Tensor:
    """Extend the last axis, at least 2 long, by `margin` at both ends, mirrored about its ends.

    Unlike `torch.nn.functional.pad`, for any margin, with derivatives that are deterministic on a
    GPU.
    """
    while margin > 0:
        step = min(margin, images.shape[-1] - 1)
        before, after = images[..., 1 : step + 1], images[..., -step - 1 : -1]
        images = torch.cat([before.flip(-1), images, after.flip(-1)], -1)
        margin -= step
    return images


def filter_rows(images: Tensor, taps: Tensor) -> Tensor:
    """Filter each row of images [B, C, H, W] with its image's even filter, taps [B, k] (k odd)."""
    batch, channels, height, width = images.shape
    padded = reflect_pad(images, taps.shape[1] // 2).reshape(1, batch * channels, height, -1)
    weight = taps.repeat_interleave(channels, 0)[:, None, None]
    filtered = F.conv2d(padded, weight, groups=batch * channels)
    return filtered.view(batch, channels, height, width)


def random_filter(images: Tensor, draws: Draws, p: Tensor) -> Tensor:
    """Images [B, C, H, W] with random gains per band, each drawn with probability p."""
    applied = draws.uniform(Purpose.FILTER, NUM_BANDS) < p
    gains = band_gains(draws.normal(Purpose.FILTER_NORMAL, NUM_BANDS), applied)
    bands = _bands_on(images.device)
    taps = (gains[:, :, None] * bands).sum(1)
    working = images.to(torch.promote_types(images.dtype, torch.float32))
    filtered = filter_rows(working, taps.to(working.dtype))
    filtered = filter_rows(filtered.mT, taps.to(working.dtype)).mT.to(images.dtype)
    return torch.where(applied.any(1)[:, None, None, None], filtered, images)
