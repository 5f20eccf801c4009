"""The methods of the 2-D experiments, each of which is just a configuration of the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from realness.trainer.config import (
    ConfigError,
    EngineConfig,
    FakeAsRealConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PenaltyConfig,
    TrainConfig,
    with_fields,
)
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.networks.configs import DCGANGeneratorConfig
from realness.trainer.objectives.configs import (
    AnchorConfig,
    HingeConfig,
    LSGANConfig,
    RealnessConfig,
    RelativisticConfig,
    StandardConfig,
    WassersteinConfig,
)
from realness.trainer.toy.names import Networks


@dataclass(frozen=True)
class Setting:
    """Settings shared by all methods in a paper's experiments: networks, batch and optimiser.

    bn_std: standard deviation of the first weights of batch normalisation around 1.
    epochs: training points come in shuffled epochs, from one stream for D and G; otherwise each is
    drawn with replacement.
    anchors: form of the realness methods' anchors, None for each method's own. Histograms are drawn
    once per iteration then, and shared by all of its updates.
    """

    networks: Networks
    z_dim: int
    batch_size: int
    optimizer: OptimizerConfig
    bn_std: float = 0.0
    epochs: bool = False
    anchors: Literal["histogram"] | None = None


SETTINGS: dict[Networks, Setting] = {
    "realness": Setting(
        "realness",
        z_dim=32,
        batch_size=100,
        optimizer=OptimizerConfig(AdamConfig(0.8, 0.999), lr_g=1e-4, lr_d=1e-4, k_g=3, k_d=1),
    ),
    "far": Setting(
        "far",
        z_dim=2,
        batch_size=64,
        optimizer=OptimizerConfig(AdamConfig(0.5, 0.999), lr_g=3e-3, lr_d=3e-3),
    ),
    "published": Setting(
        "published",
        z_dim=128,
        batch_size=100,
        optimizer=OptimizerConfig(AdamConfig(0.8, 0.999), lr_g=1e-4, lr_d=1e-4, k_g=3, k_d=1),
        bn_std=0.02,
        epochs=True,
        anchors="histogram",
    ),
}
"""realness: networks and z of RealnessGAN (ICLR 2020), section 4; batch, rates, moments and 3
updates of G per update of D as in its published script. far: networks, batch and rates of "Fake Can
Be Real in GANs", section 6.1 and appendix E, which states no optimiser. published: all that
RealnessGAN's published code does on 2-D points (scripts/run_MixGauss.sh, train_toy.py,
options.py)."""

REALNESS = RealnessConfig(num_outcomes=5, resample="none")
"""RealnessGAN with five outcomes and no resampling, as in the published script of the 2-D
experiment, and with the paper's default objective of G (eq. 19) and skew-normal anchors."""
STANDARD = StandardConfig()


@dataclass(frozen=True)
class Method:
    """The settings in which a method differs from the others.

    far: fraction of the real batch that is replaced by generated samples, FAR-GAN's M0 / N.
    """

    label: str
    objective: ObjectiveConfig
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    far: float = 0.0


METHODS: dict[str, Method] = {
    "std": Method("Std-GAN", STANDARD),
    "std-saturating": Method("Std-GAN, saturating", replace(STANDARD, saturating=True)),
    "lsgan": Method("LSGAN", LSGANConfig()),
    "hinge": Method("HingeGAN", HingeConfig()),
    "wgan-gp": Method("WGAN-GP", WassersteinConfig(), PenaltyConfig(gp_weight=10.0, gp_target=1)),
    "realness": Method("RealnessGAN", REALNESS),
    "realness-1": Method("RealnessGAN, objective 1", replace(REALNESS, g_objective=1)),
    "realness-3": Method("RealnessGAN, objective 3", replace(REALNESS, g_objective=3)),
    "realness-emd": Method("RealnessGAN, EMD", replace(REALNESS, divergence="emd")),
    "realness-resampled": Method("RealnessGAN, resampled", replace(REALNESS, resample="gaussian")),
    "realness-histogram": Method(
        "RealnessGAN, histograms", replace(REALNESS, anchor=AnchorConfig(anchors="histogram"))
    ),
    "relativistic": Method(
        "R3GAN (R1 + R2)", RelativisticConfig(), PenaltyConfig(r1_gamma=1.0, r2_gamma=1.0)
    ),
    "0gp-sample": Method("0GP-sample", STANDARD, PenaltyConfig(r1_gamma=20.0)),
    "0gp-interpolation": Method(
        "0GP-interpolation", STANDARD, PenaltyConfig(gp_weight=10.0, gp_target=0)
    ),
    "far": Method("FAR-GAN", STANDARD, PenaltyConfig(r1_gamma=20.0), far=0.25),
    "realness-0gp": Method("RealnessGAN + 0GP", REALNESS, PenaltyConfig(r1_gamma=20.0)),
    "realness-far": Method("RealnessGAN + FAR", REALNESS, PenaltyConfig(r1_gamma=20.0), far=0.25),
}
"""Weights of penalties are those of the papers: 10 for WGAN-GP and for both zero-centred penalties
(gamma = 2 lambda = 20), M0 = N/4 and M1 = 256 for FAR-GAN. R3GAN tunes gamma for each data set; 1
lies within its range."""


def method_config(
    name: str,
    *,
    networks: Networks = "realness",
    num_outcomes: int | None = None,
    anchor_kl: float | None = None,
    **fields: Any,
) -> TrainConfig:
    """The configuration of method `name` in the setting of one paper.

    num_outcomes and anchor_kl change a realness objective; other keywords are fields of the
    optimiser, by the names of their flags, where None keeps the setting's value.

    Raises:
        ConfigError: for an unknown method, or a value out of range.
    """
    if name not in METHODS:
        raise ConfigError(f"--method={name} is unknown; choose one of {', '.join(METHODS)}")
    method, setting = METHODS[name], SETTINGS[networks]
    objective = method.objective
    if isinstance(objective, RealnessConfig):
        anchor = objective.anchor
        if setting.anchors is not None:
            anchor = replace(anchor, anchors=setting.anchors)
        if anchor_kl is not None:
            if anchor.anchors == "histogram":
                raise ConfigError(
                    f"--anchor-kl={anchor_kl} is for skew-normal anchors; --method={name} with the "
                    f"{networks} networks draws histograms"
                )
            anchor = replace(anchor, anchor_kl=anchor_kl)
        objective = replace(
            objective, num_outcomes=num_outcomes or objective.num_outcomes, anchor=anchor
        )
    elif num_outcomes is not None or anchor_kl is not None:
        raise ConfigError(
            f"--num-outcomes and --anchor-kl belong to the realness methods, not to --method={name}"
        )
    config = TrainConfig(
        preset=f"toy-{name}",
        batch_size=setting.batch_size,
        g=DCGANGeneratorConfig(z_dim=setting.z_dim),
        objective=objective,
        penalty=method.penalty,
        far=FakeAsRealConfig(far_fakes=int(method.far * setting.batch_size), far_candidates=256),
        optimizer=setting.optimizer,
        engine=EngineConfig(device="cpu"),
    )
    return with_fields(config, **{key: value for key, value in fields.items() if value is not None})
