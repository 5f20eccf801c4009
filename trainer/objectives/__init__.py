"""Objectives: what D and G minimise, as functions of D's outputs.

To add an objective: write its losses as pure functions that cite their equations. Losses on one
score a sample go into the table of `scalar`; others need a class with the methods of `Objective`,
and a builder in the table below. Add the name to `ObjectiveConfig.objective`.
"""

from __future__ import annotations

from collections.abc import Callable

from realness import kernels
from realness.trainer.config import ObjectiveConfig
from realness.trainer.objectives.anchor_source import (
    FixedAnchors,
    HistogramAnchors,
    build_anchors,
)
from realness.trainer.objectives.base import CodeObjective, Objective
from realness.trainer.objectives.p2gan import GaussianPrior, P2GANObjective
from realness.trainer.objectives.realness import RealnessObjective
from realness.trainer.objectives.resampling import (
    GaussianResampling,
    HeadResampling,
    NoResampling,
    Resampling,
)
from realness.trainer.objectives.scalar import (
    SCALAR_OBJECTIVES,
    ScalarObjective,
    non_saturating_g_loss,
    saturating_g_loss,
    standard_d_loss,
)

__all__ = [
    "CodeObjective",
    "FixedAnchors",
    "GaussianPrior",
    "GaussianResampling",
    "HeadResampling",
    "HistogramAnchors",
    "NoResampling",
    "Objective",
    "P2GANObjective",
    "RealnessObjective",
    "ScalarObjective",
    "build_objective",
]


def _resampling(config: ObjectiveConfig, impl: kernels.Impl) -> Resampling:
    if config.resample == "gaussian":
        return GaussianResampling(config.num_outcomes, config.resample_statistics, impl)
    return {"head": HeadResampling, "none": NoResampling}[config.resample](config.num_outcomes)


def _realness(config: ObjectiveConfig, impl: kernels.Impl) -> Objective:
    anchors = build_anchors(config.anchor, config.num_outcomes)
    return RealnessObjective(anchors, _resampling(config, impl), config.g_objective, impl)


def _standard(config: ObjectiveConfig, impl: kernels.Impl) -> Objective:
    g_function = saturating_g_loss if config.saturating else non_saturating_g_loss
    return ScalarObjective(standard_d_loss, g_function)


def _scalar(config: ObjectiveConfig, impl: kernels.Impl) -> Objective:
    return SCALAR_OBJECTIVES[config.objective]


def _p2gan(config: ObjectiveConfig, impl: kernels.Impl) -> Objective:
    posterior = config.posterior
    return P2GANObjective(
        GaussianPrior(posterior.prior_fake_mean, posterior.prior_fake_std),
        GaussianPrior(posterior.prior_real_mean, posterior.prior_real_std),
        posterior.code_weight,
        posterior.posterior_dim,
    )


OBJECTIVES: dict[str, Callable[[ObjectiveConfig, kernels.Impl], Objective]] = {
    "realness": _realness,
    "standard": _standard,
    "p2gan": _p2gan,
    **dict.fromkeys(SCALAR_OBJECTIVES, _scalar),
}


def build_objective(config: ObjectiveConfig, impl: kernels.Impl = "auto") -> Objective:
    """The objective that `config` describes.

    Raises:
        ValueError: if no pair of anchors has the divergence `config.anchor.anchor_kl`.
    """
    return OBJECTIVES[config.objective](config, impl)
