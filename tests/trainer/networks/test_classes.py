"""Conditional networks: the classes that are drawn, and how G and D take them."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realness.trainer.config import ConfigError, check_classes, from_dict, with_fields
from realness.trainer.networks.build import build_discriminator, build_generator
from realness.trainer.networks.classes import ClassDistribution, ClassProjection, one_hot
from realness.trainer.networks.configs import (
    DCGANDiscriminatorConfig,
    DCGANGeneratorConfig,
    ResNetDiscriminatorConfig,
    ResNetGeneratorConfig,
    SNResNetDiscriminatorConfig,
    SNResNetGeneratorConfig,
)
from realness.trainer.networks.inputs import training_inputs
from realness.trainer.networks.light_configs import LightDiscriminatorConfig, LightGeneratorConfig
from realness.trainer.networks.posterior import PosteriorNorm
from realness.trainer.networks.r3gan_configs import R3GANDiscriminatorConfig, R3GANGeneratorConfig
from realness.trainer.networks.stylegan2_configs import (
    StyleGAN2DiscriminatorConfig,
    StyleGAN2GeneratorConfig,
)
from realness.trainer.networks.stylegan2_mapping import MappingNetwork
from realness.trainer.randomness import Stream, batch_draws
from tests.helpers.systems import systems

NUM = 3
GENERATORS = [
    DCGANGeneratorConfig(z_dim=5, g_width=2),
    ResNetGeneratorConfig(z_dim=5, g_width=2, g_max_channels=4),
    SNResNetGeneratorConfig(z_dim=5, g_width=1),
    StyleGAN2GeneratorConfig(z_dim=5, g_channel_base=64, w_dim=6, mapping_layers=1),
    LightGeneratorConfig(z_dim=5, g_width=2, g_max_channels=4),
    R3GANGeneratorConfig(z_dim=5, g_max_channels=8, g_group_channels=8, g_channel_base=256),
]
DISCRIMINATORS = [
    DCGANDiscriminatorConfig(d_width=2),
    DCGANDiscriminatorConfig(d_width=2, d_norm="none"),
    ResNetDiscriminatorConfig(d_width=2, d_max_channels=4),
    SNResNetDiscriminatorConfig(d_width=2),
    SNResNetDiscriminatorConfig(d_width=2, d_norm="none"),
    StyleGAN2DiscriminatorConfig(d_channel_base=64, minibatch_group=1),
    LightDiscriminatorConfig(d_width=2, d_max_channels=4, minibatch_group=1),
    R3GANDiscriminatorConfig(d_max_channels=8, d_group_channels=8, d_channel_base=256),
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# --- the classes of generated images


def test_classes_are_drawn_as_often_as_the_data_has_them() -> None:
    counts = np.array([700, 0, 250, 50, 0])
    classes = ClassDistribution(counts.tolist())
    num = 20_000
    drawn = classes.draw(batch_draws(3, Stream.G_FAKE, 0, num))
    found = np.bincount(drawn.numpy(), minlength=len(counts)) / num
    shares = counts / counts.sum()
    # Five standard deviations of a binomial share.
    assert (abs(found - shares) <= 5 * np.sqrt(shares * (1 - shares) / num)).all()
    assert found[1] == found[4] == 0


def test_a_class_follows_from_the_number_of_the_sample() -> None:
    classes = ClassDistribution([2, 1, 1])
    whole = classes.draw(batch_draws(1, Stream.D_FAKE, 40, 12))
    parts = [classes.draw(batch_draws(1, Stream.D_FAKE, 40, 4, rank=rank)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(classes.draw(batch_draws(1, Stream.G_FAKE, 40, 12)), whole)
    table = np.eye(3, dtype=np.float32)[whole.numpy()]
    assert np.array_equal(classes.condition(batch_draws(1, Stream.D_FAKE, 40, 12)), table)


# --- generators


def draw_inputs(config: Any, generator: nn.Module, condition: Tensor | None) -> tuple[Any, ...]:
    draws = batch_draws(0, Stream.G_FAKE, 0, 4)
    return training_inputs(generator, draws, config.z_dim, condition=condition)


@pytest.mark.parametrize("config", GENERATORS, ids=lambda config: config.name)
def test_images_depend_on_their_own_class_alone(config: Any) -> None:
    generator = build_generator(config, 32, num_classes=NUM).eval()
    images = [
        generator(*draw_inputs(config, generator, one_hot(torch.tensor(classes), NUM)))
        for classes in ([0, 1, 2, 0], [1, 1, 2, 0])
    ]
    changed = (images[0] - images[1]).abs().amax((1, 2, 3))
    assert changed[0] > 1e-5
    assert changed[1:].max() < 1e-6 * images[0].abs().max() + 1e-9


@pytest.mark.parametrize("config", GENERATORS, ids=lambda config: config.name)
def test_a_generator_says_what_is_wrong_with_a_condition(config: Any) -> None:
    generator = build_generator(config, 32, num_classes=NUM)
    for condition in (None, torch.ones(4, NUM + 1)):
        with pytest.raises(ValueError, match=r"has shape|none, expected"):
            generator(*draw_inputs(config, generator, condition))


@pytest.mark.parametrize("config", [GENERATORS[0], GENERATORS[2]], ids=lambda config: config.name)
def test_each_class_has_its_own_batch_normalisation(config: Any) -> None:
    """A batch of one class passes through a G with that class's scales and shifts."""
    generator = build_generator(config, 32, num_classes=NUM).double()
    plain = build_generator(config, 32).double()
    state, chosen = generator.state_dict(), 2
    for name, norm in generator.named_modules():
        if isinstance(norm, PosteriorNorm):
            scale, shift = (norm.posterior.weight[:, chosen] + norm.posterior.bias).chunk(2)
            state |= {f"{name}.weight": scale, f"{name}.bias": shift}
    renamed = {name.replace("normalize.", ""): value for name, value in state.items()}
    plain.load_state_dict({name: renamed[name] for name in plain.state_dict()})
    z = torch.randn(4, config.z_dim, dtype=torch.float64)
    condition = one_hot(torch.full((4,), chosen), NUM).double()
    torch.testing.assert_close(generator(z, condition), plain(z))


def test_the_mapping_network_takes_a_unit_embedding_beside_z() -> None:
    mapping = MappingNetwork(4, 6, 1, NUM).double()
    z, condition = torch.randn(5, 4).double(), one_hot(torch.tensor([0, 1, 2, 2, 1]), NUM).double()
    assert mapping.embedding is not None
    embedded = condition @ mapping.embedding.weight.T / math.sqrt(NUM) + mapping.embedding.bias
    x = torch.cat([v / v.square().mean(1, keepdim=True).sqrt() for v in (z, embedded)], 1)
    layer = cast(Any, mapping.layers)[0]
    y = 0.01 * (x @ layer.weight.T / math.sqrt(x.shape[1]) + layer.bias)
    expected = math.sqrt(2) * torch.where(y > 0, y, 0.2 * y)
    torch.testing.assert_close(mapping(z, condition), expected, rtol=1e-6, atol=1e-9)


# --- discriminators


@pytest.mark.parametrize("config", DISCRIMINATORS, ids=lambda c: f"{c.name}-{c.d_norm}")
def test_every_output_depends_on_the_class(config: Any) -> None:
    discriminator = build_discriminator(config, 32, 5, num_classes=NUM)
    images = torch.randn(4, 3, 32, 32)
    first, second = (
        discriminator(images, one_hot(torch.tensor(classes), NUM))
        for classes in ([0, 1, 2, 0], [1, 1, 2, 0])
    )
    assert first.shape == (4, 5)
    assert (first - second)[0].abs().min() > 0
    torch.testing.assert_close(first[1:], second[1:])
    with pytest.raises(ValueError, match=r"the condition \(classes\) has shape None"):
        discriminator(images)
    with pytest.raises(ValueError, match="expected None"):
        build_discriminator(config, 32, 5)(images, torch.ones(4, NUM))


def test_the_projection_is_equation_3_for_each_output() -> None:
    projection = ClassProjection(NUM, 7, 5).double()
    features, classes = torch.randn(4, 7).double(), [0, 2, 1, 2]
    table = projection.embedding.weight.detach().numpy().reshape(5, 7, NUM)
    found = projection(features, one_hot(torch.tensor(classes), NUM)).detach().numpy()
    for row, label in enumerate(classes):
        for output in range(5):
            expected = table[output, :, label] @ features[row].numpy()
            np.testing.assert_allclose(found[row, output], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "config", [c for c in DISCRIMINATORS if c.d_norm == "none"], ids=lambda config: config.name
)
def test_with_one_class_it_is_an_unconditional_discriminator(config: Any) -> None:
    """One whose head has the embedding added, or is weighed with it in StyleGAN2."""
    outputs = 5
    discriminator = build_discriminator(config, 32, outputs, num_classes=1).double()
    plain = build_discriminator(config, 32, outputs).double()
    state, module = discriminator.state_dict(), cast(Any, discriminator)
    ones = torch.ones(4, 1).double()
    if config.name == "r3gan":
        rows = state["head"].unflatten(0, (outputs, -1))
        state["head"] = torch.einsum("kcf,c->kf", rows, module.embedding[0])
    elif config.name == "stylegan2":
        dim = module.class_dim
        vector = module.class_mapping(None, ones)[0] / math.sqrt(dim)
        for name in ("weight", "bias"):
            rows = state[f"head.{name}"].unflatten(0, (outputs, dim))
            state[f"head.{name}"] = torch.einsum("kc...,c->k...", rows, vector)
    else:
        added = module.projection.embedding.weight[:, 0].view(outputs, -1, 1)
        pixels = state["head.weight"].unflatten(1, (added.shape[1], -1))
        state["head.weight"] = (pixels + added).flatten(1)
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    images = torch.randn(4, 3, 32, 32).double()
    torch.testing.assert_close(discriminator(images, ones), plain(images))


# --- the configuration


def test_what_cannot_be_conditional_is_refused() -> None:
    p2gan, far = systems()["p2gan"], systems()["far"]
    with pytest.raises(ConfigError, match="--conditional does not combine with --objective=p2gan"):
        with_fields(p2gan, conditional=True)
    with pytest.raises(ConfigError, match="--conditional does not combine with --far-fakes=4"):
        with_fields(far, conditional=True)
    config = with_fields(systems()["standard"], conditional=True)
    with pytest.raises(ConfigError, match="takes the number of classes from the images"):
        _ = config.classes.num_classes
    with pytest.raises(ConfigError, match="class_counts must be numbers of images"):
        from_dict({"classes": {"conditional": True, "class_counts": [0, 0]}})


def test_data_without_classes_is_refused() -> None:
    note = "the labels in dataset.json are ignored: they are lists of 25 numbers"
    with pytest.raises(ConfigError, match=r"--data=d has none \(the labels in dataset.json are"):
        check_classes([], 9, "d", ["a note", note])
    with pytest.raises(ConfigError, match="2 of the 9 images in --data=d have no class"):
        check_classes([3, 4], 9, "d", [])
    check_classes([9], 9, "d", [])
