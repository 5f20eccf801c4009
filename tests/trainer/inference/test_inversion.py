"""Inversion: the schedule, the penalty on noise, and searches for a generator's own images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.config import ConfigError
from realness.trainer.inference.inversion import (
    LONGEST,
    Distance,
    InversionSettings,
    Inverted,
    Space,
    invert,
    joined,
    noise_structure,
    rate,
)
from realness.trainer.inference.latents import with_latents
from realness.trainer.inference.trained import TrainedGenerator, load_generator
from tests.helpers.run_folders import write_run
from tests.helpers.systems import systems

CPU = torch.device("cpu")
INDEX = torch.arange(2)


def generator_of(name: str, folder: Path) -> TrainedGenerator:
    run = write_run(folder / "run", replace(systems()[name], preset="custom"))
    return load_generator(run, choose_checkpoints(run, "latest")[0], CPU)


def distance_to_samples(generator: TrainedGenerator, index: torch.Tensor) -> Distance:
    """The mean squared difference from the generator's own samples of seed 7."""
    targets = generator.images(generator.latents(index, 7), index, 7)
    return lambda images: (images - targets).square().mean((1, 2, 3))


def test_the_learning_rate_is_that_of_the_paper() -> None:
    """Of 1,000 steps: linear over the first 50, a cosine over the last 250."""
    assert [rate(step / 1000) for step in (0, 25, 50, 400, 750)] == pytest.approx([0, 0.5, 1, 1, 1])
    assert rate(0.875) == pytest.approx(0.5)
    assert rate(0.999) == pytest.approx(0.5 - 0.5 * np.cos(np.pi / 250))


def test_noise_structure_is_the_sum_over_shifts_and_sizes() -> None:
    """By loops over pixels, in float64; a map of 4x4 has no pyramid, one of 16x16 has one level."""
    maps = [torch.randn(2, side, side, dtype=torch.float64) for side in (4, 16)]
    expected = np.zeros(2)
    for row in range(2):
        fine = maps[1][row].numpy()
        coarse = 2 * fine.reshape(8, 2, 8, 2).mean((1, 3))
        for n in (maps[0][row].numpy(), fine, coarse):
            side = len(n)
            places = [(y, x) for y in range(side) for x in range(side)]
            across = sum(n[y, x] * n[y, x - 1] for y, x in places) / side**2
            down = sum(n[y, x] * n[y - 1, x] for y, x in places) / side**2
            expected[row] += across**2 + down**2
    np.testing.assert_allclose(noise_structure(maps).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("stylegan2", "w"),
        ("stylegan2", "w+"),
        ("stylegan2", "z"),
        ("conditional-stylegan2", "w"),
        ("p2gan-stylegan2", "w+"),
        ("realness", "z"),
    ],
)
def test_own_images_come_nearer(name: str, space: Space, tmp_path: Path) -> None:
    """Nearer than the centre of W, or than the nearest of 64 draws, where the search starts."""
    generator = generator_of(name, tmp_path)
    if generator.classes is not None:
        generator = generator.of_classes([2])
    distance = distance_to_samples(generator, INDEX)
    found = invert(generator, distance, INDEX, InversionSettings(space, steps=40))
    assert (found.after < found.before).all()
    given = with_latents(generator, found.latents)
    images = given.images(given.latents(INDEX, 0), INDEX, 0)
    assert torch.equal(distance(images), found.after)
    if space == "z":
        longest = generator.config.g.z_dim**0.5 + LONGEST
        # Rounding of a norm of 16 to 64 squares: far below 1e-5.
        assert (found.latents.main.norm(dim=1) <= longest * (1 + 1e-5)).all()
    if generator.classes is not None:
        assert given.class_numbers(INDEX, 0).tolist() == [2, 2]


def test_noise_is_searched_for_and_keeps_its_moments(tmp_path: Path) -> None:
    generator = generator_of("stylegan2", tmp_path)
    distance = distance_to_samples(generator, INDEX)
    noise = {}
    for optimised in (True, False):
        settings = InversionSettings(steps=3, optimise_noise=optimised)
        found = invert(generator, distance, INDEX, settings).latents.noise
        assert found is not None
        noise[optimised] = found
    first = noise[True][:, :16]
    torch.testing.assert_close(first.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(first.square().mean(1), torch.ones(2))
    assert not torch.allclose(noise[True], noise[False], atol=0.05)


def test_the_seed_decides(tmp_path: Path) -> None:
    """Equal for equal seeds, and other draws for other seeds and other numbers of images."""
    generator = generator_of("stylegan2", tmp_path)
    distance = distance_to_samples(generator, INDEX)

    def search(index: torch.Tensor, seed: int) -> Inverted:
        return invert(generator, distance, index, InversionSettings(steps=2, seed=seed))

    first = search(INDEX, 0)
    assert torch.equal(first.latents.main, search(INDEX, 0).latents.main)
    assert not torch.equal(first.latents.main, search(INDEX, 1).latents.main)
    assert not torch.equal(first.latents.main, search(INDEX + 1, 0).latents.main)
    both = joined([first, first])
    assert len(both.latents) == len(both.before) == 4


def test_styles_need_a_generator_with_styles(tmp_path: Path) -> None:
    generator = generator_of("realness", tmp_path)
    with pytest.raises(ConfigError, match="--space=w needs a generator with styles w"):
        invert(generator, lambda images: images.sum((1, 2, 3)), INDEX, InversionSettings())
