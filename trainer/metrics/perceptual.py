"""A perceptual distance between images, in the form of LPIPS.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018),
eq. 1 with all weights w_l = 1: activations of several layers, each scaled to unit length over the
channels, and their squared distances averaged over positions and summed over layers. The network is
EfficientNet-lite0, so that numbers are not comparable with those of LPIPS, whose network is VGG-16
or AlexNet.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from realness.trainer.metrics.efficientnet_lite import EfficientNetLite0

LARGEST = 256
"""Larger images are averaged to this side first (StyleGAN2, appendix D)."""
SMALLEST = 64
"""Smaller images are enlarged to this side first: that of the patches that LPIPS was made for."""
EPS = 1e-8


class PerceptualDistance:
    """The distance of images to fixed targets: [B, 3, R, R] in [-1, 1] -> float32 [B]."""

    def __init__(self, network: EfficientNetLite0, targets: Tensor) -> None:
        self._network = network
        with torch.no_grad():
            self._targets = self._units(targets)

    def __call__(self, images: Tensor) -> Tensor:
        """The distances from the targets in the same rows; differentiable."""
        pairs = zip(self._units(images), self._targets, strict=True)
        parts = [(found - wanted).square().sum(1).mean((1, 2)) for found, wanted in pairs]
        return torch.stack(parts).sum(0)

    def _units(self, images: Tensor) -> list[Tensor]:
        """Activations of each layer, with unit length over the channels."""
        levels = sized(images) * 127.5 + 127.5
        maps = self._network.stages((levels - 127) / 128)
        return [x * (x.square().sum(1, keepdim=True) + EPS).rsqrt() for x in maps]


def sized(images: Tensor) -> Tensor:
    """Images [B, 3, R, R] with a side from 64 to 256."""
    side = images.shape[-1]
    if side > LARGEST:
        return F.interpolate(images, (LARGEST, LARGEST), mode="area")
    if side < SMALLEST:
        return F.interpolate(images, (SMALLEST, SMALLEST), mode="bilinear")
    return images
