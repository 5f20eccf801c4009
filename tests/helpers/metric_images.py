"""Images and a network for the tests of metrics: crops of a photograph, pooled colours."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from realness.trainer.metrics import NetworkFile


@functools.cache
def photograph() -> Image.Image:
    """Grace Hopper's portrait (US Navy, public domain), which Matplotlib ships: 512x600 RGB."""
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    with Image.open(str(path)) as image:
        return image.convert("RGB")


def pictures(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Different crops of the photograph, shrunk: uint8 [count, 3, size, size]."""
    random = np.random.default_rng(seed)
    image, images = photograph(), []
    for _ in range(count):
        side = int(random.integers(2 * size, 300))
        x, y = random.integers(0, image.width - side), random.integers(0, image.height - side)
        box = (int(x), int(y), int(x) + side, int(y) + side)
        small = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
        images.append(np.asarray(small).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images))


def to_uint8(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor) -> Tensor:
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="reflect")
    return to_uint8(F.avg_pool2d(padded, 5, stride=1))


def noisy(images: Tensor, sigma: float, seed: int = 1) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return to_uint8(images.float() + sigma * noise)


def collapsed(images: Tensor, modes: int = 2) -> Tensor:
    """Only the first `modes` images, repeated."""
    return images[torch.arange(len(images)) % modes]


def write_classes(folder: Path, counts: dict[str, int]) -> Path:
    """A folder for each class with as many different images of 32x32."""
    images = iter(pictures(sum(counts.values())).permute(0, 2, 3, 1).numpy())
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(next(images)).save(folder / name / f"{number:02d}.png")
    return folder


class Colours(nn.Module):
    """A detector whose features are pooled colours, called as the field's are."""

    def forward(
        self, images: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1) / 50
        return pooled if return_features else torch.softmax(pooled, 1)


def write_colours(folder: Path) -> NetworkFile:
    """`Colours` as a file that `open_network` takes, for inputs of 32x32."""
    path = folder / "colours.pt"
    torch.jit.script(Colours()).save(str(path))
    return NetworkFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
