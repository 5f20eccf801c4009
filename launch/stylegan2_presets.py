"""Presets of StyleGAN2: the papers' settings, and settings for few images."""

from __future__ import annotations

from dataclasses import replace

from realness.trainer.augment.configs import AdaptiveConfig
from realness.trainer.config import DataConfig, OptimizerConfig, PenaltyConfig, TrainConfig
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.networks.stylegan2_configs import (
    StyleGAN2DiscriminatorConfig,
    StyleGAN2GeneratorConfig,
)
from realness.trainer.objectives.configs import RealnessConfig, StandardConfig


def stylegan2(resolution: int) -> TrainConfig:
    """StyleGAN2 (CVPR 2020), configuration F: logistic loss, R1 in one of 16 updates.

    Path lengths are regularised with weight 2 in one of 4 updates, as in the published runs; the
    paper's text says one of 8, and a weight that decreases with the resolution. At 1024 these are
    the paper's FFHQ settings, gamma = 10. Up to 256 they are those of Karras et al., "Training
    Generative Adversarial Networks with Limited Data" (NeurIPS 2020), for FFHQ at 256x256: half the
    channels, batches of 64 with groups of 8, gamma = 1, rates of 0.0025, a half-life of 20 kimg.
    """
    small = resolution <= 256
    base, batch = (16384, 64) if small else (32768, 32)
    lr = 2.5e-3 if small else 2e-3
    return TrainConfig(
        batch_size=batch,
        total_kimg=25_000,
        ema_halflife_kimg=20 if small else 10,
        data=DataConfig(resolution=resolution),
        g=StyleGAN2GeneratorConfig(z_dim=512, g_channel_base=base),
        d=StyleGAN2DiscriminatorConfig(d_channel_base=base, minibatch_group=8 if small else 4),
        objective=StandardConfig(),
        penalty=PenaltyConfig(
            r1_gamma=1.0 if small else 10.0,
            penalty_images=16 * batch,
            path_length_weight=2.0,
            path_length_images=4 * batch,
        ),
        optimizer=OptimizerConfig(AdamConfig(beta1=0.0, beta2=0.99), lr_g=lr, lr_d=lr),
    )


def realness_stylegan2(resolution: int) -> TrainConfig:
    """RealnessGAN's objective (51 outcomes) on StyleGAN2's networks, penalties and optimiser.

    This combination is not from a paper; R1 acts on RealnessGAN's score.
    """
    objective = RealnessConfig(num_outcomes=51, g_objective=2, resample="gaussian")
    return replace(stylegan2(resolution), objective=objective)


def small(resolution: int) -> TrainConfig:
    """Some hundreds to 30,000 images on one GPU: StyleGAN2 with adaptive augmentation.

    The settings that the published code of Karras et al., "Training Generative Adversarial Networks
    with Limited Data" (NeurIPS 2020), chooses for one GPU and R pixels a side: batches of 4096 / R
    images, at most 32; half of the channels below 512 pixels; two mapping layers; gamma = 0.0002
    R^2 / batch; a half-life of 10/32 kimg per image of the batch. The length of 5,000 kimg is a
    choice made here.
    """
    batch = min(4096 // resolution, 32)
    lr, base = (2e-3, 32768) if resolution == 1024 else (2.5e-3, 16384)
    return replace(
        stylegan2(resolution),
        batch_size=batch,
        total_kimg=5_000,
        ema_halflife_kimg=batch * 10 / 32,
        g=StyleGAN2GeneratorConfig(z_dim=512, g_channel_base=base, mapping_layers=2),
        d=StyleGAN2DiscriminatorConfig(d_channel_base=base, minibatch_group=min(batch, 4)),
        penalty=PenaltyConfig(
            r1_gamma=0.0002 * resolution**2 / batch,
            penalty_images=16 * batch,
            path_length_weight=2.0,
            path_length_images=4 * batch,
        ),
        optimizer=OptimizerConfig(AdamConfig(beta1=0.0, beta2=0.99), lr_g=lr, lr_d=lr),
        augment=AdaptiveConfig(),
    )
