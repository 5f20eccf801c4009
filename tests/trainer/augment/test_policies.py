"""DiffAugment's policies against loops over the images in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realness.trainer.augment import policies
from realness.trainer.augment.augmentation import Augmentation
from realness.trainer.augment.ops import POLICY_NAMES
from realness.trainer.randomness import Purpose
from tests.helpers.augmenting import as_share_of, draws_of, number, random_images


def test_the_names_are_those_of_the_functions() -> None:
    assert tuple(policies.POLICIES) == POLICY_NAMES


def test_color_is_brightness_then_saturation_then_contrast() -> None:
    images, draws = random_images(5, 3, 6, 7, dtype=torch.float64), draws_of(5)
    found = policies.color(images, draws, number(1.0)).numpy()
    u = draws.uniform(Purpose.POLICY_COLOR, 4).double().numpy()
    for image, (_, bright, saturated, contrasted) in enumerate(u):
        x = images[image].numpy() + bright - 0.5
        grey = x.mean(0)
        x = grey + 2 * saturated * (x - grey)
        x = x.mean() + (contrasted + 0.5) * (x - x.mean())
        np.testing.assert_allclose(found[image], x, atol=1e-6)  # u - 0.5 is rounded to float32


@pytest.mark.parametrize("size", [(16, 24), (13, 20)])
def test_translation_shifts_in_zeros(size: tuple[int, int]) -> None:
    height, width = size
    count = 3000
    # All pixels differ and none is 0, so the shift can be read from the image.
    pixels = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    images = pixels.expand(count, 3, -1, -1)
    found = policies.translation(images, draws_of(count), number(1.0))
    reach_y, reach_x = int(height / 8 + 0.5), int(width / 8 + 0.5)
    middle = found[:, 0, height // 2, width // 2].long() - 1
    y, x = height // 2 - middle // width, width // 2 - middle % width
    for image in range(0, count, 50):
        dy, dx = int(y[image]), int(x[image])
        zeros = np.zeros((height + 2 * reach_y, width + 2 * reach_x))
        zeros[reach_y : reach_y + height, reach_x : reach_x + width] = pixels[0, 0]
        expected = zeros[reach_y - dy :, reach_x - dx :][:height, :width]
        assert np.array_equal(found[image, 2].numpy(), expected)
    for shift, reach in ((y, reach_y), (x, reach_x)):
        for pixels_moved in range(-reach, reach + 1):
            hits = int((shift == pixels_moved).sum())
            assert as_share_of(count, hits, 1 / (2 * reach + 1))


@pytest.mark.parametrize("size", [(12, 16), (9, 15), (6, 10)])
def test_cutout_is_a_square_around_a_uniform_centre(size: tuple[int, int]) -> None:
    count = 3000
    found = policies.cutout(torch.ones(count, 3, *size), draws_of(count), number(1.0)) == 0
    assert torch.equal(found.all(1), found.any(1))
    rows, columns = found[:, 0].any(2), found[:, 0].any(1)
    assert torch.equal(found[:, 0], rows[:, :, None] & columns[:, None, :])
    for covered, length in ((rows, size[0]), (columns, size[1])):
        side = int(length / 2 + 0.5)
        centres = range(length + 1 - side % 2)
        for pixel in range(length):
            hits = sum(0 <= pixel - (centre - side // 2) < side for centre in centres)
            assert as_share_of(count, int(covered[:, pixel].sum()), hits / len(centres))


def test_policies_are_applied_in_the_order_of_the_text() -> None:
    images, draws, one = random_images(6, 3, 8, 8), draws_of(6), number(1.0)
    by_hand = policies.cutout(policies.color(images, draws, one), draws, one)
    assert torch.equal(Augmentation.of("color,cutout")(images, draws, one), by_hand)
    other = policies.color(policies.cutout(images, draws, one), draws, one)
    assert torch.equal(Augmentation.of("cutout,color")(images, draws, one), other)
    assert not torch.equal(by_hand, other)
