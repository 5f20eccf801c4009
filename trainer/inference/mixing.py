"""Style mixing: images with the styles of one sample in some layers, and of another in the rest.

Karras et al., "A Style-Based Generator Architecture for GANs" (CVPR 2019), section 3.1 and
figure 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from realness.trainer.inference.latents import rendered, styles_of
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator

SIDES = {"coarse": (4, 8), "middle": (16, 32), "fine": (64, 1024)}
"""The smallest and largest sides of the layers in each group (figure 3)."""


def style_groups(module: StyleGAN2Generator) -> dict[str, list[int]]:
    """The numbers of the styles in each group that the generator has layers of.

    The style of the last image belongs to the last layers.
    """
    sides = [*module.noise_sides, module.noise_sides[-1]]
    groups = {
        name: [number for number, side in enumerate(sides) if least <= side <= most]
        for name, (least, most) in SIDES.items()
    }
    return {name: numbers for name, numbers in groups.items() if numbers}


def mixed_images(
    generator: TrainedGenerator,
    rows: Tensor,
    columns: Tensor,
    group: list[int],
    seed: int,
    batch_size: int,
) -> Tensor:
    """Images [(rows + 1) (columns + 1), 3, R, R] of a table, on the CPU.

    rows, columns: numbers of samples. The first row and column show these samples, in the order
    nothing, columns, first of rows, ... Every other image has the styles `group` of its column's
    sample, and everything else of its row's. The generator must have styles.
    """
    index = torch.cat([columns, rows])
    inputs = generator.inputs(index, seed)
    w = styles_of(generator, generator.latents(index, seed), inputs)
    count = len(columns)
    # Sample numbers within `index`: whose styles are in `group`, and whose is the rest.
    inner = torch.arange(count).repeat(len(rows), 1)
    outer = count + torch.arange(len(rows))[:, None]
    styles = torch.cat([outer, inner], 1)
    styles = torch.cat([torch.arange(count), styles.flatten()]).to(w.device)
    rest = torch.cat([torch.arange(count), outer.expand(-1, count + 1).flatten()]).to(w.device)
    images = []
    for own, other in zip(rest.split(batch_size), styles.split(batch_size), strict=True):
        mixed = w[own]
        mixed[:, group] = w[other][:, group]
        batch = {name: values[own] for name, values in inputs.items()}
        images.append(rendered(generator, mixed, batch).cpu())
    table = torch.cat(images)
    return torch.cat([torch.full_like(table[:1], -1), table])
