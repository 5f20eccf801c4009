"""Named starting points: the papers' settings, as functions that return a configuration."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from realness.trainer.config import (
    ConfigError,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)

DEFAULT = "ffhq1024-realness-dcgan"


def realness_dcgan(resolution: int) -> TrainConfig:
    """RealnessGAN (ICLR 2020) on its DCGAN: 520,000 iterations of 32 images, 51 outcomes."""
    return TrainConfig(
        batch_size=32,
        total_kimg=16_640,
        data=DataConfig(resolution=resolution),
        g=GeneratorConfig(g_width=32, z_dim=128),
        d=DiscriminatorConfig(d_width=32, d_norm="spectral"),
        objective=ObjectiveConfig(num_outcomes=51, g_objective=2, resample="gaussian"),
        optimizer=OptimizerConfig(lr_g=2e-4, lr_d=2e-4, beta1=0.5, beta2=0.999),
    )


def cifar10_realness_dcgan() -> TrainConfig:
    """CIFAR10 at 32x32 with 3 outcomes (section 4 of the paper)."""
    base = realness_dcgan(32)
    return replace(base, objective=replace(base.objective, num_outcomes=3))


def demo() -> TrainConfig:
    """Small faces on any machine: 64x64, base width 16, minutes on two CPU cores.

    With so few images the number of updates counts: batches of 16 gave at 40 kimg what batches of
    32 gave at 80.
    """
    base = realness_dcgan(64)
    return replace(
        base,
        batch_size=16,
        total_kimg=70,
        ema_halflife_kimg=3,
        log_kimg=1,
        sample_kimg=5,
        checkpoint_kimg=25,
        g=replace(base.g, g_width=16),
        d=replace(base.d, d_width=16),
        data=replace(base.data, decode_threads=1),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    DEFAULT: lambda: realness_dcgan(1024),
    "ffhq256-realness-dcgan": lambda: realness_dcgan(256),
    "celeba256-realness-dcgan": lambda: realness_dcgan(256),
    "cifar10-realness-dcgan": cifar10_realness_dcgan,
    "demo": demo,
}


def preset(name: str) -> TrainConfig:
    """The configuration of a preset. Raises ConfigError with a suggestion for an unknown name."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"--preset={name} is unknown; {hint}there are: {', '.join(PRESETS)}")
    return replace(PRESETS[name](), preset=name)
