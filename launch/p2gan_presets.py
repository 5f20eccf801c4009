"""Presets of the P2GAN paper (CVPR 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from realness.launch.stylegan2_presets import stylegan2
from realness.trainer.config import DataConfig, OptimizerConfig, TrainConfig
from realness.trainer.config.automatic import dcgan_width
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.networks.configs import (
    DCGANDiscriminatorConfig,
    DCGANGeneratorConfig,
    SNResNetDiscriminatorConfig,
    SNResNetGeneratorConfig,
)
from realness.trainer.objectives.configs import P2GANConfig, PosteriorConfig

CIFAR_IMAGES, CELEBA_IMAGES = 50_000, 202_599
"""Images per epoch. CIFAR10 is read, and prepared, without its test batch of 10,000. The paper
trains on all 60,000, so its epochs are 1.2 times as long."""


def p2gan(resolution: int, networks: Literal["dcgan", "sn-resnet"]) -> TrainConfig:
    """P2GAN (section 5.2): least squares between posteriors, Adam (0, 0.999), 2e-4.

    The rates are multiplied by 0.9 every 50 epochs; pretraining takes 10 epochs on CIFAR10 and 2 on
    CelebA. The DCGAN is that of RealnessGAN's presets, as the paper says. The paper does not state
    the length of training, except for 20 epochs in its ablations: 200 epochs of CIFAR10 and 50 of
    CelebA here.
    """
    cifar = resolution == 32
    epoch_kimg = (CIFAR_IMAGES if cifar else CELEBA_IMAGES) / 1000
    if networks == "sn-resnet":
        width, generator, discriminator = 64, SNResNetGeneratorConfig, SNResNetDiscriminatorConfig
    else:
        width = dcgan_width(resolution)
        generator, discriminator = DCGANGeneratorConfig, DCGANDiscriminatorConfig
    return TrainConfig(
        batch_size=32,
        total_kimg=(200 if cifar else 50) * epoch_kimg,
        data=DataConfig(resolution=resolution),
        g=generator(z_dim=64 if cifar else 128, g_width=width),
        d=discriminator(d_width=width, d_norm="spectral"),
        objective=_cifar_objective() if cifar else _celeba_objective(),
        optimizer=OptimizerConfig(
            AdamConfig(beta1=0.0, beta2=0.999),
            lr_decay="step",
            lr_step_kimg=50 * epoch_kimg,
            lr_step_factor=0.9,
        ),
    )


def p2gan_stylegan2(resolution: int) -> TrainConfig:
    """P2GAN on StyleGAN2 for CelebA at 32 or 64 pixels: 7,000 kimg, as in Table 4.

    The paper's networks are StyleGAN's, and Table 4 gives nothing but the length. All else is as in
    StyleGAN2's preset for 256x256; the codes are those of the paper's CelebA. Its baseline is the
    same with `--objective standard`.
    """
    return replace(stylegan2(resolution), total_kimg=7_000, objective=_celeba_objective())


def _cifar_objective() -> P2GANConfig:
    return _objective(code_dim=5, mean=4.0, pretrain_kimg=10 * CIFAR_IMAGES / 1000)


def _celeba_objective() -> P2GANConfig:
    return _objective(code_dim=20, mean=5.0, pretrain_kimg=2 * CELEBA_IMAGES / 1000)


def _objective(*, code_dim: int, mean: float, pretrain_kimg: float) -> P2GANConfig:
    """Priors N(-mean, 1) and N(mean, 9) on codes of `code_dim` dimensions."""
    return P2GANConfig(
        PosteriorConfig(
            posterior_dim=code_dim,
            prior_fake_mean=-mean,
            prior_real_mean=mean,
            pretrain_kimg=pretrain_kimg,
        )
    )
