"""The films of `generate --interpolate`: images between neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from realness.trainer.inference.trained import TrainedGenerator

FRAME_MS = 80


@dataclass(frozen=True)
class Interpolation:
    """How to interpolate: images per pair, the seed, images per batch, the animation's format.

    loop: whether to go back from the last image to the first. easing: linear moves at one speed,
    smooth slowly near the images, as (1 - cos(pi t)) / 2.
    """

    steps: int
    seed: int
    batch_size: int
    animation: Literal["gif", "mp4"]
    loop: bool = False
    easing: Literal["linear", "smooth"] = "linear"


def write_interpolation(
    settings: Interpolation, generator: TrainedGenerator, kept: Tensor, out: Path
) -> None:
    """Write one strip per pair of neighbours, and all strips in sequence as an animation.

    Neighbours of different classes pass through mixtures of their classes.
    """
    import torch
    from PIL import Image

    from realness.trainer.inference.video import write_animation

    if len(kept) < 2:
        return
    ends = kept.unfold(0, 2, 1)
    if settings.loop:
        ends = torch.cat([ends, kept[[-1, 0]][None]])
    pairs, side, steps = len(ends), generator.config.data.resolution, settings.steps
    canvas = Image.new("RGB", (steps * side, pairs * side))
    for row, pair in enumerate(ends):
        for column, pixels in enumerate(_between(settings, generator, pair)):
            canvas.paste(Image.fromarray(pixels), (column * side, row * side))
    canvas.save(out / "interpolation.png")
    frames = (
        canvas.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(pairs)
        for column in range(steps)
    )
    write_animation(frames, out / f"interpolation.{settings.animation}", frame_ms=FRAME_MS)


def _between(
    settings: Interpolation, generator: TrainedGenerator, ends: Tensor
) -> NDArray[np.uint8]:
    """`interpolate` images, uint8 [steps, R, R, 3], between two samples, ends: [2]."""
    import torch

    from realness.trainer.inference.pixels import to_uint8

    steps = settings.steps
    shares = torch.linspace(0, 1, steps, device=generator.device)[:, None]
    if settings.easing == "smooth":
        shares = (1 - (math.pi * shares).cos()) / 2
    latents = _latents(generator.latents(ends, settings.seed), shares).split(settings.batch_size)
    ways = {
        name: _way(name, values, shares).split(settings.batch_size)
        for name, values in generator.inputs(ends, settings.seed).items()
    }
    images = [
        generator.render(z, {name: parts[number] for name, parts in ways.items()})
        for number, z in enumerate(latents)
    ]
    return to_uint8(torch.cat(images)).permute(0, 2, 3, 1).cpu().numpy()


def _latents(ends: Tensor, shares: Tensor) -> Tensor:
    """Latents between two, ends: z [2, z_dim] or styles [2, num_styles, w_dim]; shares: [steps, 1].

    Between styles in a straight line, as W is not normalised; otherwise on the sphere.
    """
    import torch

    from realness.trainer.metrics.path_length import slerp

    if ends.dim() == 3:
        return torch.lerp(ends[0], ends[1], shares[:, :, None])
    first, last = ends.unsqueeze(1).expand(-1, len(shares), -1)
    lengths = torch.lerp(first.norm(dim=1, keepdim=True), last.norm(dim=1, keepdim=True), shares)
    return slerp(first, last, shares).float() * lengths


def _way(name: str, ends: Tensor, shares: Tensor) -> Tensor:
    """Inputs [steps, dim] between two inputs, ends: [2, dim]; shares: [steps, 1]."""
    import torch

    if name != "noise":
        return torch.lerp(ends[0], ends[1], shares)
    # On the sphere: linear interpolation of noise would shrink its norm.
    angles = shares * (math.pi / 2)
    return angles.cos() * ends[0] + angles.sin() * ends[1]
