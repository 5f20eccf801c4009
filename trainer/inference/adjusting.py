"""Trained generators that make other images: with truncated styles, or with fixed noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from realness import kernels
from realness.trainer.config import ConfigError
from realness.trainer.inference.trained import TrainedGenerator
from realness.trainer.networks.stylegan2_generator import CENTRE_SAMPLES, StyleGAN2Generator
from realness.trainer.randomness import Draws, Stream

CLASS_CENTRE_SAMPLES = 2_000
"""Latents per class for its centre of W; the sampling error is about 2 %."""


def adjusted(
    generator: TrainedGenerator, psi: float, noise: Literal["random", "fixed"]
) -> TrainedGenerator:
    """The generator with truncated styles, unless psi is 1, and with random or fixed noise.

    Raises ConfigError as `truncated` and `with_fixed_noise` do.
    """
    if psi != 1:
        generator = truncated(generator, psi)
    return with_fixed_noise(generator) if noise == "fixed" else generator


def styled_module(generator: TrainedGenerator, flag: str, remedy: str) -> StyleGAN2Generator:
    """The module of a generator with styles w. Raises ConfigError, with `remedy`, for others."""
    module = generator.module
    if not isinstance(module, StyleGAN2Generator):
        raise ConfigError(
            f"{flag} needs a generator with styles w, but this run's generator is "
            f"{generator.config.g.name}; {remedy}"
        )
    return module


def truncated(generator: TrainedGenerator, psi: float) -> TrainedGenerator:
    """The generator with truncated styles, centre + psi (w - centre).

    Karras et al., CVPR 2019, section 2.1. The centre is the one that a converted model keeps;
    otherwise it is computed, in a conditional run for each class.

    Raises:
        ConfigError: for a generator without styles.
    """
    module = styled_module(generator, f"--truncation={psi}", "leave it at 1")
    if generator.kept is not None and generator.kept.centre is not None:
        return replace(generator, centre=generator.kept.centre, truncation=psi)
    classes = generator.classes
    number = CENTRE_SAMPLES if classes is None else CLASS_CENTRE_SAMPLES
    index = torch.arange(number, device=generator.device)
    draws = Draws(generator.config.seed, Stream.CENTRE, index)
    with kernels.implementation(generator.config.engine.impl):
        if classes is None:
            centre = module.centre(draws)
        else:
            all_classes = (classes.of_one(k, number) for k in range(classes.num_classes))
            centre = torch.stack([module.centre(draws, condition) for condition in all_classes])
    return replace(generator, centre=centre, truncation=psi)


def with_fixed_noise(generator: TrainedGenerator) -> TrainedGenerator:
    """The generator with the fixed noise that came with its weights, for all images.

    Raises:
        ConfigError: if no noise came with them.
    """
    if generator.kept is None or generator.kept.noise is None:
        raise ConfigError(
            "--noise=fixed needs a run that was converted from a model with fixed noise; use "
            "--noise random"
        )
    return replace(generator, noise=generator.kept.noise)
