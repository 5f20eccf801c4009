"""Presets of R3GAN: Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline"
(NeurIPS 2024)."""

from __future__ import annotations

from realness.trainer.augment.configs import ScheduledConfig
from realness.trainer.config import (
    DataConfig,
    EngineConfig,
    OptimizerConfig,
    PenaltyConfig,
    TrainConfig,
)
from realness.trainer.config.schedule import ScheduleConfig
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.networks.r3gan_configs import R3GANDiscriminatorConfig, R3GANGeneratorConfig
from realness.trainer.objectives.configs import RelativisticConfig


def _r3gan(
    resolution: int,
    *,
    batch: int,
    total_kimg: float,
    gamma: float,
    augment_p: float,
    ema_halflife_kimg: float,
    schedule_kimg: float = 20_000,
    wide: bool = False,
) -> TrainConfig:
    """R3GAN at `resolution` pixels.

    In the first `schedule_kimg`, by a cosine: the learning rate goes from 2e-4 to 5e-5, beta2 from
    0.9 to 0.99, gamma from `gamma` to a tenth of it, the half-life from 0 to `ema_halflife_kimg`,
    and the probability of augmentation from 0 to `augment_p`. After that they are constant.

    wide: 1,536 channels up to 64 pixels in groups of 32, as for ImageNet; otherwise 768 up to 32
    pixels in groups of 16, halved with each doubling after that.
    """
    width, base, in_group = (1536, 98_304, 32) if wide else (768, 24_576, 16)
    return TrainConfig(
        batch_size=batch,
        total_kimg=total_kimg,
        ema_halflife_kimg=0.0,
        ema_halflife_final_kimg=ema_halflife_kimg,
        ema_rampup=0.0,
        schedule=ScheduleConfig(schedule_kimg=schedule_kimg),
        data=DataConfig(resolution=resolution),
        engine=EngineConfig(precision="bf16", tf32=False),
        g=R3GANGeneratorConfig(
            z_dim=64, g_max_channels=width, g_channel_base=base, g_group_channels=in_group
        ),
        d=R3GANDiscriminatorConfig(
            d_max_channels=width, d_channel_base=base, d_group_channels=in_group
        ),
        objective=RelativisticConfig(),
        penalty=PenaltyConfig(
            r1_gamma=gamma, r1_gamma_final=gamma / 10, r2_gamma=gamma, r2_gamma_final=gamma / 10
        ),
        augment=ScheduledConfig(augment_ops="bgc0.5x", augment_p=augment_p),
        optimizer=OptimizerConfig(
            AdamConfig(beta1=0.0, beta2=0.9, beta2_final=0.99),
            lr_g=2e-4,
            lr_d=2e-4,
            lr_decay="cosine",
            lr_final=0.25,
        ),
    )


def cifar10_r3gan() -> TrainConfig:
    """CIFAR10, without the classes that the paper's networks take: 250 million images."""
    return _r3gan(
        32, batch=512, total_kimg=250_000, gamma=0.05, augment_p=0.55, ema_halflife_kimg=5_000
    )


def ffhq_r3gan(resolution: int) -> TrainConfig:
    """FFHQ at 64x64 or 256x256. The length, 150 million images, is a choice made here.

    At 1024x1024 nothing is published: the widths continue to halve, and gamma is that of 256x256
    times the number of pixels. Nobody has tried either.
    """
    gamma = {64: 2.0, 256: 150.0, 1024: 16 * 150.0}[resolution]
    return _r3gan(
        resolution,
        batch=256,
        total_kimg=150_000,
        gamma=gamma,
        augment_p=0.3,
        ema_halflife_kimg=500,
    )


def imagenet_r3gan(resolution: int) -> TrainConfig:
    """ImageNet at 32x32 or 64x64, without the classes that the paper's networks take."""
    small = resolution == 32
    return _r3gan(
        resolution,
        batch=4096,
        total_kimg=1_000_000,
        gamma=0.5 if small else 1.0,
        augment_p=0.5 if small else 0.4,
        ema_halflife_kimg=50_000,
        schedule_kimg=200_000,
        wide=True,
    )
