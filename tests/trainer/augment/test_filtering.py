"""ADA's filter, noise and cutout against closed forms, scipy and distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from realness.trainer.augment.corruption import cutout, noise
from realness.trainer.augment.filtering import (
    SPECTRUM,
    SYM2,
    band_gains,
    octave_bands,
    random_filter,
    reflect_pad,
)
from realness.trainer.randomness import Purpose
from tests.helpers.augmenting import as_share_of, draws_of, number, random_images


def low_pass(frequency: np.ndarray) -> np.ndarray:
    """|H(w)|^2 / 2 of Daubechies' filter with two vanishing moments: ch. 6 of "Ten Lectures"."""
    sine = np.sin(frequency / 2) ** 2
    return (1 - sine) ** 2 * (1 + 2 * sine)


def test_sym2_has_its_closed_form() -> None:
    root = math.sqrt(3)
    closed = np.array([1 - root, 3 - root, 3 + root, 1 + root]) / (4 * math.sqrt(2))
    np.testing.assert_allclose(SYM2, closed, rtol=1e-9)


def test_bands_are_octaves_that_sum_to_the_identity() -> None:
    bands = octave_bands()
    assert bands.shape == (4, 43)
    delta = np.zeros(43)
    delta[21] = 1
    np.testing.assert_allclose(bands.sum(0), delta, atol=1e-9)
    np.testing.assert_allclose(bands, bands[:, ::-1], atol=1e-15)
    frequency = np.linspace(0, math.pi, 50)
    response = bands @ np.cos(np.arange(-21, 22)[:, None] * frequency)
    first, second, third = (low_pass(frequency * 2**octave) for octave in range(3))
    expected = [first * second * third, first * second * (1 - third), first * (1 - second)]
    np.testing.assert_allclose(response, [*expected, 1 - first], atol=1e-8)


def test_gains_keep_the_power_of_a_typical_image() -> None:
    n = torch.tensor([[0.5, -1.0, 2.0, 6.8], [-6.8, 1.0, 3.0, 0.1], [1.0, 1.0, 1.0, 1.0]])
    applied = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    expected = np.ones((3, 4))
    for image in range(3):
        for band in range(4):
            if applied[image, band]:
                gains = np.ones(4)
                gains[band] = 2.0 ** n[image, band].item()
                expected[image] *= gains / math.sqrt(np.dot(SPECTRUM, gains**2))
    np.testing.assert_allclose(band_gains(n, applied).numpy(), expected, rtol=2.0**-18)
    only = band_gains(n, applied)[1].double().numpy()
    assert np.dot(SPECTRUM, only**2) == pytest.approx(1, rel=2.0**-18)


@pytest.mark.parametrize("margin", [0, 1, 4, 5, 21])
def test_padding_is_a_reflection_at_any_margin(margin: int) -> None:
    images = random_images(1, 2, 3, 5)
    expected = np.pad(images.numpy(), [(0, 0)] * 3 + [(margin, margin)], mode="reflect")
    assert np.array_equal(reflect_pad(images, margin).numpy(), expected)


@pytest.mark.parametrize("shape", [(6, 3, 40, 56), (6, 3, 5, 4)])
def test_the_filter_is_scipys(shape: tuple[int, ...]) -> None:
    images, draws, p = random_images(*shape, dtype=torch.float64), draws_of(6), number(0.5)
    found = random_filter(images, draws, p).numpy()
    applied = draws.uniform(Purpose.FILTER, 4) < p
    assert 0 < applied.sum() < applied.numel()
    gains = band_gains(draws.normal(Purpose.FILTER_NORMAL, 4), applied)
    taps = gains.double().numpy() @ octave_bands()
    for image in range(6):
        expected = images[image].numpy()
        for axis in (1, 2):
            expected = ndimage.convolve1d(expected, taps[image], axis=axis, mode="mirror")
        # The taps are rounded to float32; a row's taps sum to at most about 3 in magnitude.
        atol = np.abs(taps[image]).sum() ** 2 * 2.0**-21
        np.testing.assert_allclose(found[image], expected, atol=atol)


def test_noise_is_normal_with_a_half_normal_deviation() -> None:
    images = random_images(1, 3, 16, 16).expand(500, -1, -1, -1)
    added = (noise(images, draws_of(500), number(1.0)) - images).flatten(1).double().numpy()
    sigma = added.std(1)
    # A deviation from 768 values is off by 2.6 per cent, far less than what the test resolves.
    assert stats.kstest(sigma, stats.halfnorm(scale=0.1).cdf).pvalue > 1e-9
    assert stats.kstest((added / sigma[:, None]).ravel()[::7], stats.norm.cdf).pvalue > 1e-9


def test_cutout_is_half_of_each_side_anywhere() -> None:
    count, height, width = 4000, 12, 16
    holes = cutout(torch.ones(count, 3, height, width), draws_of(count), number(1.0)) == 0
    assert torch.equal(holes.all(1), holes.any(1))
    rows, columns = holes[:, 0].any(2), holes[:, 0].any(1)
    assert torch.equal(holes[:, 0], rows[:, :, None] & columns[:, None, :])
    for covered, size in ((rows, height), (columns, width)):
        assert covered.sum(1).max() == size // 2
        assert covered.sum(1).min() >= size // 4
        for pixel in range(size):
            middle = (pixel + 0.5) / size
            probability = min(1, middle + 0.25) - max(0, middle - 0.25)
            assert as_share_of(count, int(covered[:, pixel].sum()), probability)
    crossed = np.corrcoef(rows[:, 0].float().numpy(), columns[:, 0].float().numpy())[0, 1]
    assert abs(crossed) < 6 / math.sqrt(count)


@pytest.mark.parametrize("change", [random_filter, noise, cutout])
def test_each_happens_with_its_probability(change) -> None:
    p, count = 0.3, 4000
    images = random_images(1, 3, 4, 4).expand(count, -1, -1, -1)
    changed = (change(images, draws_of(count), number(p)) != images).flatten(1).any(1)
    probability = 1 - (1 - p) ** 4 if change is random_filter else p
    assert as_share_of(count, int(changed.sum()), probability)
