"""Presets: the papers' settings, as functions that return a configuration.

Names have the form <data>-<system>-<networks>. Epochs and iterations stated by a paper are
converted to thousands of images; where a paper leaves a setting open, the docstring states the
choice made here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from realness.launch.p2gan_presets import p2gan, p2gan_stylegan2
from realness.launch.r3gan_presets import cifar10_r3gan, ffhq_r3gan, imagenet_r3gan
from realness.launch.realness_presets import (
    baseline_dcgan,
    baselines,
    cifar10_realness_author,
    cifar10_realness_dcgan,
    realness_dcgan,
)
from realness.launch.stylegan2_presets import realness_stylegan2, small, stylegan2
from realness.trainer.augment.configs import DiffAugmentConfig
from realness.trainer.config import (
    ConfigError,
    DataConfig,
    EngineConfig,
    FakeAsRealConfig,
    OptimizerConfig,
    PenaltyConfig,
    TrainConfig,
)
from realness.trainer.engines.optimizer_configs import AdamConfig, RMSPropConfig
from realness.trainer.networks.configs import (
    DCGANDiscriminatorConfig,
    DCGANGeneratorConfig,
    ResNetDiscriminatorConfig,
    ResNetGeneratorConfig,
)
from realness.trainer.networks.light_configs import LightDiscriminatorConfig, LightGeneratorConfig
from realness.trainer.objectives.configs import (
    RealnessConfig,
    RelativisticConfig,
    StandardConfig,
)

DEFAULT = "ffhq1024-realness-dcgan"


def zero_gp_resnet(resolution: int = 32) -> TrainConfig:
    """GAN-0GP-sample, FAR-GAN's baseline: standard GAN, lambda = 10 on real images (gamma = 20).

    ResNets of tables 5 to 8; RMSProp on CIFAR (500,000 iterations of 64 images), Adam with two
    rates on ImageNet (600,000); moving average with decay 0.999 per iteration, converted to a
    half-life in images.
    """
    cifar = resolution == 32
    width, most, blocks = (64, 512, 1) if cifar else (64, 1024, 2)
    rmsprop = OptimizerConfig(RMSPropConfig(), lr_g=1e-4, lr_d=1e-4)
    adam = OptimizerConfig(AdamConfig(beta1=0.0, beta2=0.9), lr_g=1e-4, lr_d=3e-4)
    return TrainConfig(
        batch_size=64,
        total_kimg=32_000 if cifar else 38_400,
        ema_halflife_kimg=round(0.064 * math.log(0.5) / math.log(0.999), 2),
        ema_rampup=0.0,
        data=DataConfig(resolution=resolution, dequantize=True),
        g=ResNetGeneratorConfig(
            z_dim=128 if cifar else 256,
            g_width=width,
            g_max_channels=most,
            g_blocks=blocks,
        ),
        d=ResNetDiscriminatorConfig(
            d_width=width,
            d_max_channels=most,
            d_blocks=blocks,
        ),
        objective=StandardConfig(),
        penalty=PenaltyConfig(r1_gamma=20.0),
        optimizer=rmsprop if cifar else adam,
    )


def far_resnet(resolution: int = 32) -> TrainConfig:
    """FAR-GAN: half of the real batch is the 32 lowest-scored of 256 newly generated images."""
    far = FakeAsRealConfig(far_fakes=32, far_candidates=256)
    return replace(zero_gp_resnet(resolution), far=far)


def relativistic_resnet(resolution: int) -> TrainConfig:
    """The relativistic pairing loss with R1 and R2 (Huang et al., "The GAN is dead", 2024).

    The loss and the penalties are R3GAN's, but the networks are the ResNets of FAR-GAN.
    """
    return replace(
        zero_gp_resnet(resolution),
        objective=RelativisticConfig(),
        penalty=PenaltyConfig(r1_gamma=1.0, r2_gamma=1.0),
        optimizer=OptimizerConfig(AdamConfig(beta1=0.0, beta2=0.99), lr_g=2e-4, lr_d=2e-4),
    )


def lecture_dcgan(activation: Literal["lrelu", "relu"] = "lrelu") -> TrainConfig:
    """The DCGAN of the lecture notes (section 6): LeakyReLU in both, no normalisation in D.

    For Fashion-MNIST, enlarged to 32x32. With ReLU in both it is the other side of Fig. 18. The
    notes state no width; 32 makes it small. Learning rates and batch size are typical of DCGANs.
    """
    base = baseline_dcgan(32, StandardConfig())
    return replace(
        base,
        batch_size=64,
        total_kimg=3_000,
        data=replace(base.data, mirror=False),
        g=DCGANGeneratorConfig(g_width=32, z_dim=128, g_activation=activation),
        d=DCGANDiscriminatorConfig(d_width=32, d_norm="none", d_activation=activation),
    )


def demo() -> TrainConfig:
    """Faces from 400 photographs: 64x64 without colour, in less than ten minutes on two CPU cores.

    RealnessGAN's objective without resampling on the light networks. Settings were chosen by trials
    on these photographs: with few images the number of updates matters, hence the small batch.
    """
    batch, total_kimg = 8, 56.0
    return TrainConfig(
        batch_size=batch,
        total_kimg=total_kimg,
        ema_halflife_kimg=3,
        log_kimg=1,
        sample_kimg=2,
        checkpoint_kimg=28,
        data=DataConfig(resolution=64, decode_threads=1),
        engine=EngineConfig(zero_g=0, zero_d=0),
        g=LightGeneratorConfig(g_width=8, z_dim=128, g_grey=True),
        d=LightDiscriminatorConfig(d_width=8),
        objective=RealnessConfig(num_outcomes=51, g_objective=2, resample="none"),
        penalty=PenaltyConfig(r1_gamma=0.1, penalty_images=8 * batch),
        augment=DiffAugmentConfig(augment_ops="color,translation"),
        optimizer=OptimizerConfig(
            AdamConfig(beta1=0.0, beta2=0.99),
            lr_g=1.5e-3,
            lr_d=1.5e-3,
            lr_decay="linear",
            lr_decay_start_kimg=0.6 * total_kimg,
            lr_final=0.02,
        ),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    DEFAULT: lambda: realness_dcgan(1024),
    "ffhq256-realness-dcgan": lambda: realness_dcgan(256),
    "celeba256-realness-dcgan": lambda: realness_dcgan(256),
    **baselines("celeba256", 256),
    "cifar10-realness-dcgan": cifar10_realness_dcgan,
    "cifar10-realness-author-dcgan": cifar10_realness_author,
    "cifar10-realness1-dcgan": lambda: cifar10_realness_dcgan(1),
    "cifar10-realness3-dcgan": lambda: cifar10_realness_dcgan(3),
    **baselines("cifar10", 32),
    "cifar10-0gp-resnet": zero_gp_resnet,
    "cifar10-far-resnet": far_resnet,
    "cifar100-0gp-resnet": zero_gp_resnet,
    "cifar100-far-resnet": far_resnet,
    "imagenet64-0gp-resnet": lambda: zero_gp_resnet(64),
    "imagenet64-far-resnet": lambda: far_resnet(64),
    "cifar10-p2gan-resnet": lambda: p2gan(32, "sn-resnet"),
    "cifar10-p2gan-dcgan": lambda: p2gan(32, "dcgan"),
    "celeba64-p2gan-resnet": lambda: p2gan(64, "sn-resnet"),
    "celeba32-p2gan-stylegan2": lambda: p2gan_stylegan2(32),
    "celeba64-p2gan-stylegan2": lambda: p2gan_stylegan2(64),
    "cifar10-relativistic-resnet": lambda: relativistic_resnet(32),
    "cifar10-r3gan": cifar10_r3gan,
    "ffhq64-r3gan": lambda: ffhq_r3gan(64),
    "ffhq256-r3gan": lambda: ffhq_r3gan(256),
    "ffhq1024-r3gan": lambda: ffhq_r3gan(1024),
    "imagenet32-r3gan": lambda: imagenet_r3gan(32),
    "imagenet64-r3gan": lambda: imagenet_r3gan(64),
    "fashion32-standard-dcgan": lecture_dcgan,
    "fashion32-standard-relu-dcgan": lambda: lecture_dcgan("relu"),
    "ffhq1024-stylegan2": lambda: stylegan2(1024),
    "ffhq256-stylegan2": lambda: stylegan2(256),
    "ffhq1024-realness-stylegan2": lambda: realness_stylegan2(1024),
    "ffhq256-realness-stylegan2": lambda: realness_stylegan2(256),
    "small-64": lambda: small(64),
    "small-256": lambda: small(256),
    "small-1024": lambda: small(1024),
    "demo": demo,
}


def preset(name: str) -> TrainConfig:
    """The configuration of a preset. For an unknown name, raises ConfigError with a suggestion."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"--preset={name} is unknown; {hint}available: {', '.join(PRESETS)}")
    return replace(PRESETS[name](), preset=name)
