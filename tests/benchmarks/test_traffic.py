"""benchmarks/traffic.py: counts against numbers derived by hand, and the budget of the presets."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import replace
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from realness.launch.presets import preset
from realness.trainer.config import TrainConfig, with_fields
from realness.trainer.engines.plain_engine import EngineWithoutOptimizer
from realness.trainer.planning.flops import count_flops
from realness.trainer.randomness import Stream
from realness.trainer.updates.build import Blueprint, build_networks
from realness.trainer.updates.gan import Gan
from tests.helpers import ROOT
from tests.helpers.plain_gan import tiny
from tests.trainer.updates.test_traffic import COLLECTIVES

BATCH, WIDTH, OUTCOMES = 8, 4, 5


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("traffic")


def in_bf16(config: TrainConfig) -> TrainConfig:
    return with_fields(config, precision="bf16")


def without_r1() -> TrainConfig:
    config = in_bf16(tiny(BATCH))
    return replace(config, penalty=replace(config.penalty, r1_gamma=0.0))


def test_operators_by_hand(bench: ModuleType) -> None:
    with FakeTensorMode(), bench.Counting() as counting:
        x = torch.empty(2, 3, 8, 8, requires_grad=True)
        weight = torch.empty(4, 3, 3, 3, requires_grad=True)
        y = F.conv2d(x, weight, padding=1)
        y.view(2, -1).t()
        forward = counting.take()
        y.backward(torch.empty_like(y))
        backward = counting.take()
        a = torch.empty(6)
        a.add_(1)
        a.zero_()
        (a.expand(5, 6) + a).sum()
        rest = counting.take()
    num_x, num_y, num_weight, flops = 2 * 3 * 64, 2 * 4 * 64, 4 * 27, 2 * 2 * 4 * 64 * 27
    assert forward.calls == {("convolution", 4 * (num_x + num_y + num_weight), flops): 1}
    assert backward.calls == {
        ("convolution backward, data", 4 * (num_y + num_weight + num_x), flops): 1,
        ("convolution backward, weight", 4 * (num_y + num_x + num_weight), flops): 1,
    }
    assert rest.calls == {
        ("add_", 2 * 24, 0): 1,
        ("zero_", 24, 0): 1,
        ("add", 24 + 24 + 5 * 24, 0): 1,
        ("sum", 5 * 24 + 4, 0): 1,
    }


def convolutions(side: int, channels: list[int], batch: int) -> tuple[int, int]:
    """Bytes in bf16 and operations of D's convolutions, 4x4 with stride 2, from `side` down."""
    num_bytes = flops = 0
    for below, above in itertools.pairwise(channels):
        half = side // 2
        values = batch * (below * side**2 + above * half**2) + 16 * below * above
        num_bytes += 2 * values
        flops += 2 * batch * above * half**2 * 16 * below
        side = half
    return num_bytes, flops


def test_a_small_update_by_hand(bench: ModuleType) -> None:
    """RealnessGAN's DCGAN at 32 pixels: G has layers at 4, 8, 16 and 32 pixels, D mirrors it."""
    config = without_r1()
    d = bench.count(config).parts["D"]
    operators = dict(d.by_operator())
    channels = [3, WIDTH, 2 * WIDTH, 4 * WIDTH]
    # G without gradients makes the fakes: a 1x1 input to 4x4 pixels, and the mirror of D.
    first = 2 * (BATCH * (16 + 16 * 4 * WIDTH) + 16 * 16 * 4 * WIDTH)
    # D on real images and fakes, down to 4x4 pixels, then its head.
    num_bytes = first + convolutions(32, channels, BATCH)[0] + convolutions(32, channels, 16)[0]
    head = 2 * (16 * (4 * WIDTH * 16 + OUTCOMES) + 4 * WIDTH * 16 * OUTCOMES)
    assert operators["convolution"].num_bytes == num_bytes
    assert operators["mm"].num_bytes >= head
    weights = Blueprint.of(config).d.num_weights
    # Adam reads weight, gradient and two moments, and writes all but the gradient.
    num_tensors = 3 + 2
    steps = num_tensors * 2 * 4
    assert operators["_fused_adam_"].num_bytes == pytest.approx(28 * weights + steps, abs=64)
    assert d.launches > 50
    assert d.num_collectives == 0


def test_operations_are_those_that_planning_counts(bench: ModuleType) -> None:
    counts = bench.count(in_bf16(tiny(BATCH)))
    expected = count_flops(tiny(BATCH))
    assert counts.iteration.flops == pytest.approx(BATCH * expected.iteration)
    assert counts.parts["D with penalties"].flops == pytest.approx(BATCH * expected.d_penalised)


def test_ranks_share_the_work(bench: ModuleType) -> None:
    one, two = (bench.count(without_r1(), ranks) for ranks in (1, 2))
    assert two.iteration.flops == pytest.approx(one.iteration.flops / 2)
    weights = sum(getattr(Blueprint.of(without_r1()), name).num_weights for name in "gd")
    assert 4 * weights < sum(two.iteration.sent.values()) < 4 * weights * 1.25
    assert one.iteration.num_collectives == 0
    assert {name: two.parts[name].num_collectives for name in COLLECTIVES} == COLLECTIVES


def test_images_are_normalised_in_one_pass(bench: ModuleType) -> None:
    """Each byte read once, each float written once.

    The factor's rounding, 2^-24 of up to 2, and the result's, 2^-24 of up to 1, may add up.
    """
    config = without_r1()
    objective, device = build_networks(config)[2], torch.device("cpu")
    none = EngineWithoutOptimizer(torch.nn.Identity())
    gan = Gan(config, device, objective, none, none)
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    images = images.contiguous(memory_format=torch.channels_last)
    with bench.Counting() as counting:
        seen = gan.normalise(images, Stream.D_REAL, 0)
        moved = counting.take().num_bytes
    expected = images.double() / 127.5 - 1
    torch.testing.assert_close(seen.double(), expected, atol=3 * 2**-24, rtol=0)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert moved == pytest.approx(5 * images.numel(), abs=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gigabytes", "teraflops"),
    [("ffhq1024-realness-dcgan", 119, 12.9), ("ffhq1024-stylegan2", 970, 63.8)],
)
def test_the_budget_of_the_presets(
    bench: ModuleType, name: str, gigabytes: float, teraflops: float
) -> None:
    """An iteration of 32 images in bf16. The figures may only fall: lower the bounds then."""
    iteration = bench.count(in_bf16(preset(name))).iteration
    assert 0.97 * gigabytes < iteration.num_bytes / 1e9 < gigabytes
    assert 0.99 * teraflops < iteration.flops / 1e12 < teraflops
