"""Bringing images to the size of a feature network, which moves the scores: so it is stated.

Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022: a
resize that does not filter before it takes samples changes FID by several points.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Resize = Literal["clean", "bilinear", "network"]


def resize_images(images: Tensor, size: int, resize: Resize) -> Tensor:
    """Images [B, 3, R, R] in 0..255, of any type, as float32 [B, 3, size, size] in 0..255.

    clean: bicubic, antialiased where it shrinks, in floats without clipping, as Pillow does it on
    float images. bilinear: four neighbours without antialiasing, as many older numbers were
    computed. network: the images as they are, for a network that resizes by itself.
    """
    floats = images.float()
    if resize == "network" or floats.shape[-2:] == (size, size):
        return floats
    if resize == "clean":
        return F.interpolate(floats, (size, size), mode="bicubic", antialias=True)
    return F.interpolate(floats, (size, size), mode="bilinear")
