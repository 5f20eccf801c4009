"""Every system of the papers, with networks and batches small enough for tests."""

from __future__ import annotations

from dataclasses import replace

from realness.launch.presets import PRESETS
from realness.trainer.config import (
    ClassesConfig,
    EngineConfig,
    FakeAsRealConfig,
    PenaltyConfig,
    TrainConfig,
    flatten,
    with_fields,
)
from realness.trainer.networks.configs import DCGANGeneratorConfig
from realness.trainer.networks.light_configs import LightDiscriminatorConfig, LightGeneratorConfig
from realness.trainer.objectives.configs import StandardConfig

BATCH = 8
GROW_KIMG = 0.06
"""A test of 50 iterations, stopped after 25, stops in the second of two transitions."""
CLASSES = ClassesConfig(conditional=True, class_counts=(3, 0, 2, 1))
SCHEDULE_KIMG = 0.3
"""The same test stops in the middle of the schedules, and ends after them."""
FAR = FakeAsRealConfig(far_fakes=4, far_candidates=16)


def small(name: str) -> TrainConfig:
    """The preset `name` with narrow networks and 8 images per iteration."""
    config = PRESETS[name]()
    far = FAR if config.far.far_fakes else config.far
    narrow = dict(g_width=4, z_dim=16, g_max_channels=16, d_width=4, d_max_channels=16)
    settings = flatten(config)
    config = with_fields(config, **{name: narrow[name] for name in narrow if name in settings})
    return replace(config, batch_size=BATCH, far=far, engine=EngineConfig(device="cpu"))


def stylegan2(name: str) -> TrainConfig:
    """A preset of StyleGAN2 at 32x32, narrow, with one layer from z to w."""
    config = small(name)
    return replace(
        config,
        data=replace(config.data, resolution=32),
        g=replace(config.g, g_channel_base=256, w_dim=16, mapping_layers=1),
        d=replace(config.d, d_channel_base=256, minibatch_group=4),
        penalty=replace(config.penalty, penalty_images=2 * BATCH, path_length_images=2 * BATCH),
    )


def systems() -> dict[str, TrainConfig]:
    """Configurations by name: the objectives of all papers, their penalties, and combinations."""
    realness, far = small("cifar10-realness-dcgan"), small("cifar10-far-resnet")
    zero_gp = small("cifar10-0gp-resnet")
    presets = {
        "realness": realness,
        "realness-objective1": small("cifar10-realness1-dcgan"),
        "realness-objective3": small("cifar10-realness3-dcgan"),
        "standard": small("cifar10-standard-dcgan"),
        "lsgan": small("cifar10-lsgan-dcgan"),
        "hinge": small("cifar10-hinge-dcgan"),
        "wgan-gp": small("cifar10-wgan-gp-dcgan"),
        "0gp-sample": zero_gp,
        "far": far,
        "p2gan": small("cifar10-p2gan-dcgan"),
        "p2gan-resnet": small("cifar10-p2gan-resnet"),
        "relativistic-r1-r2": small("cifar10-relativistic-resnet"),
        "r3gan": with_fields(small("cifar10-r3gan"), augment="none"),
        "lecture": small("fashion32-standard-dcgan"),
        "stylegan2": stylegan2("ffhq256-stylegan2"),
    }
    between = PenaltyConfig(gp_weight=10.0, gp_target=0)
    combinations = {
        "realness-emd": replace(realness, objective=replace(realness.objective, divergence="emd")),
        "realness-r1": replace(
            realness, penalty=PenaltyConfig(r1_gamma=1.0, penalty_images=2 * BATCH)
        ),
        "realness-far": replace(
            realness, far=FAR, g=DCGANGeneratorConfig(g_width=4, z_dim=16), penalty=far.penalty
        ),
        "0gp-interpolation": replace(zero_gp, penalty=between),
        "layer-norm-wgan-gp": replace(
            presets["wgan-gp"], d=replace(presets["wgan-gp"].d, d_norm="layer")
        ),
        "p2gan-stylegan2": replace(presets["stylegan2"], objective=presets["p2gan"].objective),
        "realness-augmented": with_fields(
            realness, augment="ada", augment_speed_kimg=0.1, r1_gamma=1.0, penalty_images=2 * BATCH
        ),
        "far-augmented": with_fields(far, augment="fixed", augment_ops="bgcfnx", augment_p=0.5),
        "p2gan-noise-instance": with_fields(
            presets["p2gan"], code_source="noise", g_norm="instance"
        ),
        "p2gan-no-modules": with_fields(presets["p2gan"], posterior_modules=False),
        "p2gan-augmented": with_fields(presets["p2gan"], augment="diffaugment"),
        "light": replace(
            realness,
            g=LightGeneratorConfig(g_width=2, z_dim=16),
            d=LightDiscriminatorConfig(d_width=2, minibatch_group=4),
            penalty=PenaltyConfig(r1_gamma=1.0, penalty_images=2 * BATCH),
        ),
        "realness-growing": with_fields(realness, grow_kimg=GROW_KIMG),
        "stylegan2-growing": with_fields(presets["stylegan2"], grow_kimg=GROW_KIMG),
        "conditional": replace(realness, classes=CLASSES, penalty=between),
        "conditional-stylegan2": replace(presets["stylegan2"], classes=CLASSES),
        "realness-scheduled": with_fields(
            realness,
            schedule_kimg=SCHEDULE_KIMG,
            beta2_final=0.9,
            lr_decay="cosine",
            lr_final=0.2,
            r1_gamma=1.0,
            r1_gamma_final=0.1,
            r2_gamma_final=0.5,
            penalty_images=2 * BATCH,
            ema_halflife_kimg=0.0,
            ema_halflife_final_kimg=0.1,
            ema_rampup=0.0,
            augment="scheduled",
            augment_p=0.5,
        ),
        "saturating": replace(presets["standard"], objective=StandardConfig(saturating=True)),
    }
    return {**presets, **combinations}
