"""ADA's geometric transforms against complex numbers, matrices in float64, and torch's flips."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from realness.trainer.augment import geometry
from realness.trainer.augment.affine import compose_all
from realness.trainer.augment.augmentation import Augmentation
from tests.helpers.augmenting import as_share_of, draws_of, number, random_images

COUNT = 20_000
SIZE = (48, 64)
LOWEST_P_VALUE = 1e-9
U = torch.tensor([0.01, 0.3, 0.55, 0.8, 0.99])
N = torch.tensor([-2.5, -0.4, 0.0, 0.7, 3.1])


def original_positions(inverse: Tensor, moved: np.ndarray) -> np.ndarray:
    """The positions, as complex numbers x + iy, from which pixels come to `moved`."""
    rows = inverse.double().numpy()
    x = rows[:, 0, 0] * np.real(moved) + rows[:, 0, 1] * np.imag(moved) + rows[:, 0, 2]
    y = rows[:, 1, 0] * np.real(moved) + rows[:, 1, 1] * np.imag(moved) + rows[:, 1, 2]
    return x + 1j * y


def moved_forward(name: str, z: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """A factor for U or N, and where the transform of that name moves the positions z."""
    u, n = U.double().numpy(), N.double().numpy()
    height, width = SIZE
    if name == "x_flip":
        return geometry.x_flip(U), np.where(u < 0.5, z, -z.conj())
    if name == "quarter_turn":
        # Anticlockwise on the screen is clockwise in coordinates with y down.
        return geometry.quarter_turn(U), z * np.exp(-0.5j * math.pi * np.floor(4 * u))
    if name == "integer_translation":
        x, y = np.rint((2 * u - 1) / 8 * width), np.rint((2 * u[::-1] - 1) / 8 * height)
        both = torch.stack([U, U.flip(0)], 1)
        return geometry.integer_translation(both, SIZE), z + x + 1j * y
    if name == "isotropic_scale":
        return geometry.isotropic_scale(N), z * 2 ** (0.2 * n)
    if name == "rotation":
        return geometry.rotation(U), z * np.exp(1j * math.pi * (2 * u - 1))
    if name == "anisotropic_scale":
        s = 2 ** (0.2 * n)
        return geometry.anisotropic_scale(N), np.real(z) * s + 1j * np.imag(z) / s
    both = torch.stack([N, N.flip(0)], 1)
    shift = n * 0.125 * width + 1j * n[::-1] * 0.125 * height
    return geometry.fractional_translation(both, SIZE), z + shift


NAMES = (
    "x_flip",
    "quarter_turn",
    "integer_translation",
    "isotropic_scale",
    "rotation",
    "anisotropic_scale",
    "fractional_translation",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_undoes_its_transform(name: str) -> None:
    random = np.random.default_rng(0)
    z = random.uniform(-32, 32, len(U)) + 1j * random.uniform(-24, 24, len(U))
    inverse, moved = moved_forward(name, z)
    # Positions up to 40 pixels, and angles up to pi in float32: a few units in the last place.
    np.testing.assert_allclose(original_positions(inverse, moved), z, atol=40 * 2.0**-21)


def test_the_whole_inverse_is_that_of_the_transforms_in_order() -> None:
    one, draws = number(1.0), draws_of(7)
    factors = [*geometry.blit(draws, one, SIZE), *geometry.geom(draws, one, SIZE)]
    whole = np.eye(3)[None].repeat(7, 0)
    for factor in factors:
        square = np.eye(3)[None].repeat(7, 0)
        square[:, :2] = factor.double().numpy()
        whole = np.linalg.inv(square) @ whole  # the next transform is applied to the result
    found = compose_all(factors).double().numpy()
    np.testing.assert_allclose(found, np.linalg.inv(whole)[:, :2], atol=2.0**-15, rtol=2.0**-19)


def test_flips_and_turns_are_exact_on_images() -> None:
    images = random_images(8, 3, 6, 6)
    draws = draws_of(8)
    found = Augmentation.of("b")(images, draws, number(1.0))
    flip, turn = (factor for factor in geometry.blit(draws, number(1.0), (6, 6))[:2])
    # Sides of 6 pixels: translations by at most 0.75 pixels, rounded to whole ones.
    shift = geometry.blit(draws, number(1.0), (6, 6))[2][:, :, 2]
    assert shift.abs().max() == 1
    seen = set()
    for row in range(8):
        expected = images[row].flip(2) if flip[row, 0, 0] < 0 else images[row]
        quarters = round(math.atan2(turn[row, 1, 0], turn[row, 0, 0]) / (math.pi / 2)) % 4
        expected = torch.rot90(expected, quarters, (1, 2))
        # Output position = input position + shift, so the interior is a slice.
        x, y = (-shift[row]).int().tolist()
        inner = torch.roll(expected, (y, x), (1, 2))[:, 1:-1, 1:-1]
        assert torch.equal(found[row, :, 1:-1, 1:-1], inner)
        seen.add(quarters)
    assert len(seen) > 2


def test_amounts_have_their_distributions() -> None:
    one, draws = number(1.0), draws_of(COUNT)
    flip, turn, shift = geometry.blit(draws, one, SIZE)
    scale, before, stretch, after, move = geometry.geom(draws, one, SIZE)
    log_scale = -torch.log2(scale[:, 0, 0])
    ratio = torch.log2(stretch[:, 1, 1])
    height, width = SIZE
    for values, law in [
        (log_scale, stats.norm(scale=0.2)),
        (ratio, stats.norm(scale=0.2)),
        (move[:, 0, 2], stats.norm(scale=width / 8)),
        (move[:, 1, 2], stats.norm(scale=height / 8)),
        *(
            (torch.atan2(angle[:, 0, 1], angle[:, 0, 0]), stats.uniform(-math.pi, 2 * math.pi))
            for angle in (before, after)
        ),
    ]:
        assert stats.kstest(values.numpy(), law.cdf).pvalue > LOWEST_P_VALUE
    assert as_share_of(COUNT, int((flip[:, 0, 0] < 0).sum()), 0.5)
    for column, row, value in [(0, 0, 1), (0, 0, -1), (0, 1, 1), (0, 1, -1)]:
        assert as_share_of(COUNT, int((turn[:, column, row] == value).sum()), 0.25)
    # Uniform on +-8 pixels, rounded: both ends have half the share of the others.
    for pixels, probability in [(8, 1 / 32), (3, 1 / 16), (0, 1 / 16), (-8, 1 / 32)]:
        assert as_share_of(COUNT, int((shift[:, 0, 2] == pixels).sum()), probability)
    together = np.corrcoef(torch.stack([log_scale, ratio, move[:, 0, 2], move[:, 1, 2]]).numpy())
    assert np.abs(together - np.eye(4)).max() < 6 / math.sqrt(COUNT)


@pytest.mark.parametrize("p", [0.05, 0.4, 1.0])
def test_each_transform_happens_with_probability_p(p: float) -> None:
    draws = draws_of(COUNT)
    factors = geometry.blit(draws, number(p), SIZE) + geometry.geom(draws, number(p), SIZE)
    eye = torch.eye(2, 3)
    changed = torch.stack([(factor != eye).flatten(1).any(1) for factor in factors], 1)
    # Some draws of a transform leave the image as it is: half of the flips, a quarter of the turns,
    # and translations of less than half a pixel, of 8 on both sides of 64 and 6 on those of 48.
    effective = [1 / 2, 3 / 4, 1 - 1 / 16 / 12, 1, None, 1, None, 1]
    for column, share in enumerate(effective):
        probability = 1 - math.sqrt(1 - p) if share is None else p * share
        assert as_share_of(COUNT, int(changed[:, column].sum()), probability), column
    assert as_share_of(COUNT, int((changed[:, 4] | changed[:, 6]).sum()), p)
    both = int((changed[:, 3] & changed[:, 5]).sum())
    assert as_share_of(COUNT, both, p * p)
