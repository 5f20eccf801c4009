"""Resizing images for a feature network. It affects scores, so each score states its method.

Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022: a
resize that does not filter before sampling changes FID by several points.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Resize = Literal["clean", "bilinear", "network"]


def resize_images(images: Tensor, size: int, resize: Resize) -> Tensor:
    """Resize images [B, 3, R, R] in 0..255, of any type, to float32 [B, 3, size, size] in 0..255.

    clean: bicubic, antialiased when shrinking, in floats without clipping, as in Pillow on float
    images. bilinear: four neighbours without antialiasing, as used for many older numbers.
    network: images are not resized, for a network that does so by itself.
    """
    floats = images.float()
    if resize == "network" or floats.shape[-2:] == (size, size):
        return floats
    if resize == "clean":
        return F.interpolate(floats, (size, size), mode="bicubic", antialias=True)
    return F.interpolate(floats, (size, size), mode="bilinear")
