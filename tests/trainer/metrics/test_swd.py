"""The sliced Wasserstein distance against independent NumPy and SciPy code."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from torch import Tensor

from realness.trainer.metrics.swd import (
    PatchSet,
    directions,
    laplacian_pyramid,
    patch_corners,
    pyramid_resolutions,
    sliced_wasserstein,
)
from realness.trainer.randomness import Draws, Stream
from tests.helpers.metric_images import blurred, noisy, pictures
from tests.helpers.ranks import run_on_ranks

SEED = 5


def patch_set(images: Tensor, stream: Stream, batch: int = 16) -> PatchSet:
    patches = PatchSet(images.shape[-1], SEED, stream)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        patches.add(part, torch.arange(start, start + len(part)))
    return patches


def distance(real: Tensor, fake: Tensor, fake_stream: Stream = Stream.EVALUATED) -> float:
    sets = patch_set(real, Stream.REFERENCE), patch_set(fake, fake_stream)
    return sliced_wasserstein(*sets, seed=SEED).mean


# --- in NumPy, float64


def numpy_pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Levels of an image [3, R, R] by SciPy's convolution."""
    row = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(row, row)[None]
    levels = [image.astype(np.float64)]
    while levels[-1].shape[-1] > 16:
        fine = levels[-1]
        coarse = scipy.ndimage.convolve(fine, kernel, mode="mirror")[:, ::2, ::2]
        sparse = np.zeros_like(fine)
        sparse[:, ::2, ::2] = coarse
        levels[-1] = fine - scipy.ndimage.convolve(sparse, 4 * kernel, mode="mirror")
        levels.append(coarse)
    return levels


def numpy_patches(images: np.ndarray, stream: Stream) -> list[np.ndarray]:
    """Normalised patches [n, 147] of each level, at the positions that the implementation draws."""
    size = images.shape[-1]
    corners = patch_corners(Draws(SEED, stream, torch.arange(len(images))), size)
    pyramids = [numpy_pyramid(image) for image in images]
    levels = []
    for number in range(len(corners)):
        cut = [
            pyramid[number][:, y : y + 7, x : x + 7].transpose(1, 2, 0)
            for pyramid, places in zip(pyramids, corners[number].tolist(), strict=True)
            for y, x in places
        ]
        stacked = np.stack(cut)
        stacked = (stacked - stacked.mean((0, 1, 2))) / stacked.std((0, 1, 2))
        levels.append(stacked.reshape(len(stacked), 147))
    return levels


def test_equals_an_independent_computation() -> None:
    real = pictures(12, 64)
    fake = noisy(pictures(12, 64, seed=9), 20.0)
    ours = sliced_wasserstein(
        patch_set(real, Stream.REFERENCE, 5), patch_set(fake, Stream.EVALUATED, 12), seed=SEED
    )
    assert list(ours.levels) == [64, 32, 16]
    onto = directions(SEED).double().numpy()
    theirs = [
        1000
        * np.mean(
            [scipy.stats.wasserstein_distance(a @ axis, b @ axis) for axis in onto.T],
            dtype=np.float64,
        )
        for a, b in zip(
            numpy_patches(real.numpy(), Stream.REFERENCE),
            numpy_patches(fake.numpy(), Stream.EVALUATED),
            strict=True,
        )
    ]
    assert list(ours.levels.values()) == pytest.approx(theirs, rel=1e-4)
    assert ours.mean == pytest.approx(np.mean(theirs), rel=1e-4)


def test_the_pyramid_is_lossless() -> None:
    """The finest level plus everything coarser, enlarged by SciPy, is the image again."""
    image = pictures(1, 32)[0].double()
    fine, coarse = (level[0].numpy() for level in laplacian_pyramid(image[None]))
    row = np.array([1, 4, 6, 4, 1]) / 16
    sparse = np.zeros_like(fine)
    sparse[:, ::2, ::2] = coarse
    enlarged = scipy.ndimage.convolve(sparse, 4 * np.outer(row, row)[None], mode="mirror")
    np.testing.assert_allclose(fine + enlarged, image.numpy(), atol=1e-10)


# --- properties


def test_the_same_patches_are_at_distance_zero() -> None:
    images = pictures(8)
    assert distance(images, images, Stream.REFERENCE) == 0


def test_the_same_images_are_near_and_others_are_not() -> None:
    images = pictures(32)
    same, similar = distance(images, images), distance(images, pictures(32, seed=3))
    assert 0 < same < similar / 2
    assert similar < distance(images, noisy(images, 60.0))


def test_worse_corruption_is_further() -> None:
    images = pictures(32)
    by_noise = [distance(images, noisy(images, sigma)) for sigma in (0.0, 10.0, 30.0, 90.0)]
    assert by_noise == sorted(by_noise)
    blur = [distance(images, blurred(images)), distance(images, blurred(blurred(images)))]
    assert 2 * by_noise[0] < blur[0] < blur[1]


def test_noise_is_seen_at_the_finest_level_first() -> None:
    images = pictures(24, 64)
    sets = patch_set(images, Stream.REFERENCE), patch_set(noisy(images, 25.0), Stream.EVALUATED)
    levels = list(sliced_wasserstein(*sets, seed=SEED).levels.values())
    assert levels[0] > 2 * levels[1] > 2 * levels[2]


def test_images_of_one_colour_are_as_far_as_a_point_is_from_a_normalised_set() -> None:
    images = pictures(24)
    grey = torch.full_like(images, 77)
    value = distance(images, grey)
    projected = patch_set(images, Stream.REFERENCE)
    expected = np.mean(
        [(projected.level(n) @ directions(SEED)).abs().mean().item() for n in range(2)]
    )
    assert value == pytest.approx(1000 * expected, rel=1e-5)


def test_patches_lie_inside_and_everywhere() -> None:
    draws = Draws(SEED, Stream.EVALUATED, torch.arange(200))
    for corners, size in zip(patch_corners(draws, 64), (64, 32, 16), strict=True):
        assert corners.shape == (200, 128, 2)
        assert set(corners.unique().tolist()) == set(range(size - 6))


def test_does_not_depend_on_the_batches_or_their_order() -> None:
    real, fake = pictures(20), pictures(20, seed=4)
    reference = patch_set(real, Stream.REFERENCE, 20)
    whole = sliced_wasserstein(reference, patch_set(fake, Stream.EVALUATED, 20), seed=SEED)
    backwards = PatchSet(32, SEED, Stream.EVALUATED)
    for start in (17, 0):
        index = torch.arange(start, 20 if start else 17)
        backwards.add(fake[index], index)
    again = sliced_wasserstein(reference, backwards, seed=SEED)
    assert again.levels == pytest.approx(whole.levels, rel=1e-6)


def on_a_rank(count: int) -> dict[int, float]:
    from realness.trainer.distributed.ranks import rank, world_size

    sets = []
    for seed, stream in ((0, Stream.REFERENCE), (4, Stream.EVALUATED)):
        mine = torch.arange(rank(), count, world_size())
        patches = PatchSet(32, SEED, stream)
        patches.add(pictures(count, seed=seed)[mine], mine)
        sets.append(patches)
    return sliced_wasserstein(sets[0], sets[1], seed=SEED).levels


@pytest.mark.slow
def test_two_ranks_agree_with_one() -> None:
    one = on_a_rank(15)
    for levels in run_on_ranks(2, on_a_rank, 15):
        assert levels == pytest.approx(one, rel=1e-5)


# --- errors


@pytest.mark.parametrize("resolution", [8, 24, 100])
def test_a_resolution_without_pyramid_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"resolution={resolution}"):
        pyramid_resolutions(resolution)


def test_wrong_images_and_unequal_sets_are_refused() -> None:
    patches = PatchSet(32, SEED, Stream.REFERENCE)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        patches.add(pictures(2).float(), torch.arange(2))
    with pytest.raises(ValueError, match=r"\[B, 3, 32, 32\]"):
        patches.add(pictures(2, 64), torch.arange(2))
    with pytest.raises(ValueError, match="0 real images"):
        sliced_wasserstein(patches, patch_set(pictures(2), Stream.EVALUATED), seed=SEED)
