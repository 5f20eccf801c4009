"""Path-length regularisation: against a brute-force Jacobian, and its place in G's update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from realness.trainer.config import ConfigError, OptimizerConfig, PenaltyConfig, TrainConfig
from realness.trainer.engines.optimizer_configs import AdamConfig
from realness.trainer.engines.optimizers import lazily_corrected
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator
from realness.trainer.planning.memory import estimate_memory
from realness.trainer.randomness import Purpose, Stream, batch_draws
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.path_length import path_length_penalty, path_lengths
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_g
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import BATCH, systems


def configuration(**penalty: Any) -> TrainConfig:
    config = systems()["stylegan2"]
    return replace(config, penalty=replace(config.penalty, **penalty))


def brute_force(generator: StyleGAN2Generator, config: TrainConfig, average: float) -> Tensor:
    """The penalty from J itself, column by column as central differences of images."""
    draws = batch_draws(config.seed, Stream.PATH, 0, BATCH)[::2]
    z = draws.normal(Purpose.LATENT, config.g.z_dim).double()
    noise = generator.draw_noise(draws).double()
    mixed, crossover = generator.draw_mixing(draws)
    y = draws.normal(Purpose.PATH, 3 * 32 * 32).double() / 32
    shape, lengths = (generator.num_styles, generator.w_dim), []
    directions = torch.eye(shape[0] * shape[1], dtype=torch.float64).view(-1, *shape)
    for row in range(len(z)):
        rows = [row] * len(directions)

        def images(step: float, rows: list[int] = rows) -> Tensor:
            inputs = (z[rows], noise[rows], None, 1.0, (mixed[rows].double(), crossover[rows]))
            return generator(*inputs, offset=step * directions).flatten(1)

        columns = (images(1e-6) - images(-1e-6)) / 2e-6
        lengths.append((columns @ y[row]).view(shape).square().sum(1).mean().sqrt())
    return (torch.stack(lengths) - average).square().mean()


def test_the_penalty_is_that_of_the_jacobian() -> None:
    config = configuration()
    generator, _, _ = build_networks(config)
    assert isinstance(generator, StyleGAN2Generator)
    generator.double()
    generator.path_length_mean.fill_(0.05)
    with torch.no_grad():
        expected = brute_force(generator, config, 0.05)
    gan: Any = _Doubles(config, generator)
    draws = batch_draws(config.seed, Stream.PATH, 0, BATCH)
    value, stats = path_length_penalty(gan, draws, 0, None, draws)
    assert stats["path_penalty"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert value.item() == pytest.approx(2 * expected.item(), rel=1e-5)


class _Doubles:
    """The parts of a `Gan` that the penalty needs, in float64."""

    def __init__(self, config: TrainConfig, generator: StyleGAN2Generator) -> None:
        self.config, self.g = config, self
        self.module = generator

    def inputs(self, draws: Any, *_: Any) -> tuple[Any, ...]:
        generator = self.module
        mixed, crossover = generator.draw_mixing(draws)
        z = draws.normal(Purpose.LATENT, self.config.g.z_dim).double()
        return z, generator.draw_noise(draws).double(), None, 1.0, (mixed.double(), crossover)


def test_its_gradient_by_central_differences() -> None:
    """In one number of every parameter on the way from z to the image."""
    config = replace(configuration(), g=replace(configuration().g, g_channel_base=64))
    generator = cast(StyleGAN2Generator, build_networks(config)[0]).double()
    gan: Any = _Doubles(config, generator)
    draws = batch_draws(config.seed, Stream.PATH, 0, 4)
    path_length_penalty(gan, draws, 0, None, draws)[0].backward()
    for name, weight in generator.named_parameters():
        if weight.grad is None or (name.endswith("bias") and "affine" not in name):
            continue  # biases of leaky ReLUs move no slope but at kinks
        place, values = (0,) * weight.dim(), []
        start = weight.detach()[place].item()
        step = 1e-6 * (100 if "mapping" in name else 1)
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] = start + sign * step
            values.append(path_length_penalty(gan, draws, 0, None, draws)[0].item())
        with torch.no_grad():
            weight[place] = start
        numeric = (values[0] - values[1]) / (2 * step)
        assert weight.grad[place].item() == pytest.approx(numeric, rel=1e-3, abs=1e-8), name


def test_lengths_of_a_linear_generator() -> None:
    """G(w) = A w in every layer: J^T y = A^T y."""
    torch.manual_seed(0)
    a = torch.randn(3 * 4 * 4, 5, dtype=torch.float64)
    w = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    images = (w.sum(1) @ a.t()).view(2, 3, 4, 4)
    y = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(path_lengths(images, w, y), (y.flatten(1) @ a).norm(dim=1))


def updates(config: TrainConfig) -> list[tuple[float, dict[str, float]]]:
    """The moving average and the statistics after each of four G updates."""
    gan = build_gan(config, torch.device("cpu"))
    seen = []
    for step in range(4):
        stats = update_g(gan, None, step * BATCH)
        average = cast(Any, gan.g.module).path_length_mean.item()
        seen.append((average, {name: value.item() for name, value in stats.items()}))
    gan.ema.update(gan.g.module, BATCH, 4 * BATCH)
    assert cast(Any, gan.ema.module).path_length_mean.item() == seen[-1][0]
    gan.close()
    return seen


@pytest.mark.slow
def test_the_average_follows_lazily_on_any_number_of_ranks_and_passes() -> None:
    """Every other update; two ranks, and two passes per rank, agree with one."""
    config = configuration()
    [seen] = run_on_ranks(1, updates, config)
    average = 0.0
    for step, (now, stats) in enumerate(seen):
        assert ("path_length" in stats) == (step % 2 == 0)
        if step % 2 == 0:
            average += 0.01 * (stats["path_length"] - average)
        assert now == pytest.approx(average, rel=1e-5)
    assert average > 0
    passes = replace(config.engine, micro_batch=2, zero_g=3, zero_d=3)
    # Smaller groups fit two passes on each of two ranks.
    grouped = replace(config, d=replace(config.d, minibatch_group=2))
    [in_one] = run_on_ranks(1, updates, grouped)
    ranks = run_on_ranks(2, updates, replace(grouped, engine=passes))
    assert [now for now, _ in ranks[0]] == [now for now, _ in ranks[1]]
    for (now, _), (expected, _) in zip(ranks[0], in_one, strict=True):
        assert now == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="--generator=dcgan has none"):
        TrainConfig(penalty=PenaltyConfig(path_length_weight=2.0))
    config = configuration(path_length_shrink=8)
    config.check_ranks(1)
    with pytest.raises(ConfigError, match="--path-length-shrink=8 does not divide the 4 images"):
        config.check_ranks(2)


def test_memory_counts_path_lengths() -> None:
    key = "activations of the G step"
    without, half, whole = (
        estimate_memory(configuration(**fields), 1)[key]
        for fields in (
            {"path_length_weight": 0.0},
            {"path_length_shrink": 2},
            {"path_length_shrink": 1},
        )
    )
    assert without < half < whole


def test_lazy_correction() -> None:
    """c = k / (k + 1): 16/17 for R1 in one of 16 updates ([2], appendix B)."""
    config = OptimizerConfig(AdamConfig(0.5, 0.99), lazy_correction=True)
    corrected, lr = lazily_corrected(config, 0.002, 16)
    assert lr == pytest.approx(0.002 * 16 / 17)
    assert isinstance(corrected.algorithm, AdamConfig)
    assert corrected.algorithm.beta1 == pytest.approx(0.5 ** (16 / 17))
    assert corrected.algorithm.beta2 == pytest.approx(0.99 ** (16 / 17))
    for unchanged in ((config, 0.0), (config, 1.0), (replace(config, lazy_correction=False), 16)):
        assert lazily_corrected(unchanged[0], 0.002, unchanged[1]) == (unchanged[0], 0.002)


def rates(config: TrainConfig) -> tuple[float, float]:
    gan = build_gan(config, torch.device("cpu"))
    found = gan.g.lr, gan.d.lr
    gan.close()
    return found


def test_each_network_has_its_own_correction() -> None:
    config = configuration(penalty_images=4 * BATCH, path_length_images=2 * BATCH)
    config = replace(config, optimizer=replace(config.optimizer, lazy_correction=True))
    [(g, d)] = run_on_ranks(1, rates, config)
    assert g == pytest.approx(config.optimizer.lr_g * 2 / 3)
    assert d == pytest.approx(config.optimizer.lr_d * 4 / 5)
