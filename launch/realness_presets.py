"""Presets of the RealnessGAN paper (Xiangli et al., ICLR 2020): its DCGAN and its baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from realness.trainer.config import (
    DataConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PenaltyConfig,
    TrainConfig,
    with_fields,
)
from realness.trainer.config.automatic import dcgan_width
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.networks.configs import DCGANDiscriminatorConfig, DCGANGeneratorConfig
from realness.trainer.objectives.configs import (
    AnchorConfig,
    HingeConfig,
    LSGANConfig,
    RealnessConfig,
    StandardConfig,
    WassersteinConfig,
)

HEADLINE_KL = 11.05
"""D_KL(A1 || A0) of Table 2's row that Table 1 repeats for CelebA (FID 23.51, 81.30, 30.82, 7.61).
The paper does not state the divergence on FFHQ; 11.05 is the best one of Table 2."""


def realness_dcgan(
    resolution: int, *, num_outcomes: int = 51, anchor_kl: float | None = HEADLINE_KL
) -> TrainConfig:
    """RealnessGAN on its DCGAN: 520,000 iterations of 32 images, 51 outcomes (section 4).

    The anchors are those of Table 1: skews in the ratio 5:-5, scaled to D_KL = 11.05. With
    `anchor_kl` None the skews are +-5 themselves, which is D_KL = 5.11 with 51 outcomes.

    The networks are Radford et al.'s with 1,024 channels at 4x4, up to 256x256. Above that the base
    width stays at 32, as in the published code, whose D at 1024x1024 has 189M parameters.
    """
    width = max(32, dcgan_width(resolution))
    objective = RealnessConfig(
        num_outcomes=num_outcomes,
        g_objective=2,
        resample="gaussian",
        anchor=AnchorConfig(anchor_kl=anchor_kl),
    )
    return TrainConfig(
        batch_size=32,
        total_kimg=16_640,
        data=DataConfig(resolution=resolution),
        g=DCGANGeneratorConfig(g_width=width, z_dim=128),
        d=DCGANDiscriminatorConfig(d_width=width, d_norm="spectral"),
        objective=objective,
        optimizer=OptimizerConfig(AdamConfig(beta1=0.5, beta2=0.999), lr_g=2e-4, lr_d=2e-4),
    )


def cifar10_realness_dcgan(g_objective: int = 2) -> TrainConfig:
    """CIFAR10 as in section 4: 3 outcomes, one update of G per update of D, with resampling.

    The paper's Table 3 compares G's objectives. It does not state the anchors; skews of +-5 have
    D_KL = 3.03 with 3 outcomes.
    """
    base = realness_dcgan(32, num_outcomes=3, anchor_kl=None)
    return with_fields(base, g_objective=g_objective)


def cifar10_realness_author() -> TrainConfig:
    """CIFAR10 as the paper's author trained it: three updates of G per update of D, no resampling.

    So he wrote in issue 7 of the published code, kam1107/RealnessGAN; section 4 says one update,
    with resampling (`cifar10_realness_dcgan`). All else is as there.
    """
    return with_fields(cifar10_realness_dcgan(), k_g=3, resample="none")


def baseline_dcgan(resolution: int, objective: ObjectiveConfig) -> TrainConfig:
    """A baseline of the RealnessGAN paper: the same DCGAN and optimiser with another objective."""
    return replace(realness_dcgan(resolution), objective=objective)


def wgan_gp_dcgan(resolution: int) -> TrainConfig:
    """WGAN-GP as in the RealnessGAN paper: five D updates per G update, Adam (0.5, 0.9), 1e-4.

    The penalty's weight of 10 is from Gulrajani et al. D keeps spectral normalisation, because the
    RealnessGAN paper states it for every D.
    """
    return replace(
        baseline_dcgan(resolution, WassersteinConfig()),
        optimizer=OptimizerConfig(AdamConfig(beta1=0.5, beta2=0.9), lr_g=1e-4, lr_d=1e-4, k_d=5),
        penalty=PenaltyConfig(gp_weight=10.0, gp_target=1),
    )


def baselines(data: str, resolution: int) -> dict[str, Callable[[], TrainConfig]]:
    """The paper's baselines by the names of their presets."""
    return {
        f"{data}-standard-dcgan": lambda: baseline_dcgan(resolution, StandardConfig()),
        f"{data}-lsgan-dcgan": lambda: baseline_dcgan(resolution, LSGANConfig()),
        f"{data}-hinge-dcgan": lambda: baseline_dcgan(resolution, HingeConfig()),
        f"{data}-wgan-gp-dcgan": lambda: wgan_gp_dcgan(resolution),
    }
