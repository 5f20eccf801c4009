"""ADA's colour transforms against formulas in float64 and scipy's rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from realness.trainer.augment import color
from realness.trainer.augment.affine import compose_all
from realness.trainer.augment.augmentation import Augmentation
from tests.helpers.augmenting import as_share_of, draws_of, number, random_images

COUNT = 20_000
U = torch.tensor([0.01, 0.3, 0.55, 0.8, 0.99])
N = torch.tensor([-2.5, -0.4, 0.0, 0.7, 3.1])
AXIS = np.ones(3) / math.sqrt(3)


def expected(name: str, rgb: np.ndarray, value: float) -> np.ndarray:
    grey = rgb.mean()
    if name == "brightness":
        return rgb + 0.2 * value
    if name == "contrast":
        return rgb * 2 ** (0.5 * value)
    if name == "luma_flip":
        return rgb - 2 * grey if value >= 0.5 else rgb
    if name == "hue":
        return Rotation.from_rotvec(math.pi * (2 * value - 1) * AXIS).apply(rgb)
    return grey + 2**value * (rgb - grey)


def mapped(matrix: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    return matrix[:, :3] @ rgb + matrix[:, 3]


@pytest.mark.parametrize("name", ["brightness", "contrast", "luma_flip", "hue", "saturation"])
def test_a_transform_is_its_formula(name: str) -> None:
    random = np.random.default_rng(0)
    draws = U if name in ("luma_flip", "hue") else N
    matrices: Tensor = getattr(color, name)(draws)
    for value, matrix in zip(draws.double().tolist(), matrices.double().numpy(), strict=True):
        rgb = random.uniform(-1, 1, 3)
        # Factors of up to 2^3.1, and a few roundings in float32.
        np.testing.assert_allclose(
            mapped(matrix, rgb), expected(name, rgb, value), atol=16 * 2.0**-22
        )


def test_a_batch_of_images_goes_through_all_in_order() -> None:
    draws, images = draws_of(6), random_images(6, 3, 5, 5, dtype=torch.float64)
    found = Augmentation.of("c")(images, draws, number(1.0))
    values = images.numpy()
    for factor in color.color(draws, number(1.0)):
        matrices = factor.double().numpy()
        values = np.einsum("bij,bjhw->bihw", matrices[:, :, :3], values)
        values += matrices[:, :, 3, None, None]
    scale = np.abs(values).max()
    np.testing.assert_allclose(found.numpy(), values, atol=scale * 2.0**-20)


def test_transforms_that_change_nothing_are_the_identity_to_the_bit() -> None:
    zero, half = torch.zeros(1), torch.full((1,), 0.5)
    maps = [
        color.brightness(zero),
        color.contrast(zero),
        color.luma_flip(zero + 0.25),
        color.hue(half),
        color.saturation(zero),
    ]
    for matrix in (*maps, compose_all(maps)):
        assert torch.equal(matrix, torch.eye(3, 4)[None])


def test_amounts_have_their_distributions() -> None:
    brightness, contrast, flip, hue, saturation = color.color(draws_of(COUNT), number(1.0))
    across = np.array([2.0, -1, -1])
    turned = hue[:, :, :3].double().numpy() @ across
    angle = np.arctan2(turned @ np.cross(AXIS, across), turned @ across)
    log_saturation = torch.log2(saturation[:, 0, 0] - saturation[:, 0, 1])
    for values, law in [
        (brightness[:, 0, 3].numpy(), stats.norm(scale=0.2)),
        (torch.log2(contrast[:, 1, 1]).numpy(), stats.norm(scale=0.5)),
        (angle, stats.uniform(-math.pi, 2 * math.pi)),
        (log_saturation.numpy(), stats.norm(scale=1.0)),
    ]:
        assert stats.kstest(values, law.cdf).pvalue > 1e-9
    assert as_share_of(COUNT, int((flip[:, 0, 1] != 0).sum()), 0.5)


@pytest.mark.parametrize(("ops", "factor"), [("c", 1.0), ("c0.5", 0.5)])
def test_each_transform_happens_with_probability_p(ops: str, factor: float) -> None:
    p = 0.3
    chance = p * dict(Augmentation.of(ops).groups)["c"]
    maps = color.color(draws_of(COUNT), number(chance))
    changed = torch.stack([(m != torch.eye(3, 4)).flatten(1).any(1) for m in maps], 1)
    for column in range(5):
        probability = p * factor * (0.5 if column == 2 else 1.0)
        assert as_share_of(COUNT, int(changed[:, column].sum()), probability), column
