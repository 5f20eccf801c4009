"""Pivotal tuning: a generator whose weights are trained to make given images at found latents.

Roich et al., "Pivotal Tuning for Latent-based Editing of Real Images" (ACM Transactions on Graphics
2022), section 3.2: the latents and the noise stay fixed, and all weights that they reach move by
Adam with a learning rate of 3e-4. The term that keeps the rest of the space in place (section 3.3)
is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from realness import kernels
from realness.trainer.inference.inversion import Distance
from realness.trainer.inference.latents import GeneratorOfLatents, synthesized

TUNING_LR = 3e-4


def tuned(
    generator: GeneratorOfLatents,
    batches: Sequence[tuple[Tensor, Distance]],
    steps: int,
    advance: Callable[[], None] = lambda: None,
) -> GeneratorOfLatents:
    """A copy of the generator, trained to minimise the mean distance of its images.

    batches: numbers of samples [B], with the distance of their images from their targets.
    `advance` is called after every batch of every step.
    """
    module = copy.deepcopy(generator.module).requires_grad_()
    copied = replace(generator, module=module)
    adam = torch.optim.Adam(module.parameters(), lr=TUNING_LR)
    total = sum(len(index) for index, _ in batches)
    with kernels.implementation(generator.config.engine.impl):
        for _ in range(steps):
            adam.zero_grad()
            for index, distance in batches:
                latents, inputs = copied.latents(index, 0), copied.inputs(index, 0)
                if copied.renders_styles:
                    images = synthesized(copied, latents, inputs)
                else:
                    images = module(latents, **inputs)
                (distance(images).sum() / total).backward()
                advance()
            adam.step()
    module.requires_grad_(requires_grad=False)
    return copied


@torch.no_grad()
def measured(generator: GeneratorOfLatents, index: Tensor, distance: Distance) -> Tensor:
    """The distances [B] of the images of the samples `index` [B], on the CPU."""
    return distance(generator.images(generator.latents(index, 0), index, 0)).cpu()
