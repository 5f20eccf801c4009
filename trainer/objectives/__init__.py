"""Objectives: the losses of D and G, as functions of D's outputs.

To add an objective: write its losses as pure functions that cite their equations. If D outputs one
score per sample, add the losses to the table in `scalar`; otherwise write a class with the methods
of `Objective`, and add a builder to the table below. Add the name to `ObjectiveConfig.objective`.
"""

from __future__ import annotations

from collections.abc import Callable

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


Builder = Callable[[ObjectiveConfig, int], Objective]


def _resampling(config: ObjectiveConfig, members: int) -> Resampling:
    if config.resample == "gaussian":
        return GaussianResampling(config.num_outcomes, config.resample_statistics, members)
    return {"head": HeadResampling, "none": NoResampling}[config.resample](config.num_outcomes)


def _realness(config: ObjectiveConfig, members: int) -> Objective:
    return RealnessObjective(
        build_anchors(config.anchor, config.num_outcomes),
        _resampling(config, members),
        config.g_objective,
        config.divergence,
    )


def _standard(config: ObjectiveConfig, members: int) -> Objective:
    g_function = saturating_g_loss if config.saturating else non_saturating_g_loss
    return ScalarObjective(standard_d_loss, g_function)


def _scalar(config: ObjectiveConfig, members: int) -> Objective:
    return SCALAR_OBJECTIVES[config.objective]


def _p2gan(config: ObjectiveConfig, members: int) -> Objective:
    posterior = config.posterior
    return P2GANObjective(
        GaussianPrior(posterior.prior_fake_mean, posterior.prior_fake_std),
        GaussianPrior(posterior.prior_real_mean, posterior.prior_real_std),
        posterior.code_weight,
        posterior.posterior_dim,
    )


OBJECTIVES: dict[str, Builder] = {
    "realness": _realness,
    "standard": _standard,
    "p2gan": _p2gan,
    **dict.fromkeys(SCALAR_OBJECTIVES, _scalar),
}


def build_objective(config: ObjectiveConfig, members: int = 1) -> Objective:
    """Build the objective that `config` describes.

    With `members` > 1, D is an ensemble of independent networks with interleaved rows: row r of its
    output belongs to member r % members. Losses are then means over the rows of all members.

    Raises:
        ValueError: if no pair of anchors has the divergence `config.anchor.anchor_kl`.
    """
    return OBJECTIVES[config.objective](config, members)
