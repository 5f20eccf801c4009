"""generate.py's tables of mixed styles, its truncation sweep, and its loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realness.launch import generate
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.inference.adjusting import truncated
from realness.trainer.inference.mixing import mixed_images, style_groups
from realness.trainer.inference.trained import load_generator
from realness.trainer.networks.stylegan2_generator import StyleGAN2Generator
from tests.helpers.run_folders import write_run
from tests.helpers.systems import systems

SIDE = 32


def run_of(name: str, folder: Path) -> Path:
    return write_run(folder / name, replace(systems()[name], preset="custom"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of("stylegan2", tmp_path_factory.mktemp("runs"))


def make(run: Path, out: Path, *arguments: str) -> None:
    assert generate.main([str(run), str(out), "--device", "cpu", "--grid", "0", *arguments]) == 0


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def tile(picture: np.ndarray, row: int, column: int, columns: int) -> np.ndarray:
    """An image of a table, which may have a margin on the left."""
    left = picture.shape[1] - (columns - column) * SIDE
    return picture[row * SIDE : (row + 1) * SIDE, left : left + SIDE]


def test_groups_are_those_of_the_paper() -> None:
    """At 1024: 18 styles, of which coarse are 4 to 8, middle 16 to 32, fine 64 to 1024."""
    options: dict[str, Any] = dict(z_dim=4, w_dim=4, mapping_layers=1, channel_base=1024)
    generator = StyleGAN2Generator(**options, max_channels=1, resolution=1024, style_mixing=0.0)
    # One style at 4 (of its convolution), two per larger side, and one more for the last image.
    assert style_groups(generator) == {
        "coarse": [0, 1, 2],
        "middle": [3, 4, 5, 6],
        "fine": list(range(7, 18)),
    }


@pytest.mark.parametrize("name", ["stylegan2", "conditional-stylegan2", "p2gan-stylegan2"])
def test_mixed_images_are_those_of_mixing_regularisation(name: str, tmp_path: Path) -> None:
    """Of 8 styles at 32 pixels, the first 3 are coarse: a crossover at style 3."""
    run = run_of(name, tmp_path)
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], torch.device("cpu"))
    if generator.classes is not None:  # training mixes latents of one class
        generator = generator.of_classes([2])
    rows, columns = torch.tensor([4, 1]), torch.tensor([0, 3, 2])
    module: Any = generator.module
    z = {number: generator.latents(torch.tensor([number]), 0) for number in range(5)}
    crossover = torch.tensor([3])
    for group, numbers in style_groups(module).items():
        table = mixed_images(generator, rows, columns, numbers, 0, batch_size=4)
        table = table.unflatten(0, (3, 4))
        for i, row in enumerate(rows.tolist()):
            inputs = generator.inputs(torch.tensor([row]), 0)
            for j, column in enumerate(columns.tolist()):
                first, second = (column, row) if group == "coarse" else (row, column)
                expected = module(z[first], **inputs, mixing=(z[second], crossover))
                # Other batches sum in another order: rounding of float32 (1e-7) through 8 layers,
                # in values as large as the image's largest.
                most = 1e-5 * expected.abs().max().item()
                torch.testing.assert_close(table[i + 1, j + 1][None], expected, atol=most, rtol=0)
        shown = generator.images(generator.latents(columns, 0), columns, 0)
        most = 1e-5 * shown.abs().max().item()
        torch.testing.assert_close(table[0, 1:], shown, atol=most, rtol=0)
    assert set(style_groups(module)) == {"coarse", "middle"}


def test_tables_show_the_images_that_are_mixed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(run, out, "--num", "6", "--top", "0.9", "--mix", "2,3", "--truncation", "0.7")
    assert sorted(path.name for path in out.glob("mixing-*")) == [
        "mixing-coarse.png",
        "mixing-middle.png",
    ]
    for path in out.glob("mixing-*"):
        picture = pixels(path)
        assert picture.shape[0] == 3 * SIDE
        assert (tile(picture, 0, 0, 4) == 0).all()
        for row in range(2):
            found = tile(picture, row + 1, 0, 4)
            assert np.abs(found - pixels(out / f"{row:06d}.png")).max() <= 1
        for column in range(3):
            found = tile(picture, 0, column + 1, 4)
            assert np.abs(found - pixels(out / f"{column + 2:06d}.png")).max() <= 1


def test_a_sweep_has_a_row_per_value(run: Path, tmp_path: Path) -> None:
    """Rows of 1 and 0.5 are the images without and with --truncation; -1 is w's mirror image."""
    make(run, tmp_path / "plain", "--num", "3", "--truncation-sweep", "1,0.5,-1")
    make(run, tmp_path / "half", "--num", "3", "--truncation", "0.5")
    picture = pixels(tmp_path / "plain" / "truncation.png")
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], torch.device("cpu"))
    module: Any = generator.module
    centre = truncated(generator, 0.5).centre
    assert centre is not None
    index = torch.arange(3)
    w = module.styles(generator.latents(index, 0))
    mirrored = module.synthesize(2 * centre - w, generator.inputs(index, 0)["noise"])
    for column in range(3):
        for row, name in enumerate(("plain", "half")):
            expected = pixels(tmp_path / name / f"{column:06d}.png")
            assert np.abs(tile(picture, row, column, 3) - expected).max() <= 1
        levels = (mirrored[column] * 127.5 + 127.5).clamp(0, 255).permute(1, 2, 0).detach().numpy()
        # Half a level by rounding, and a level for rounding errors of float32.
        assert np.abs(tile(picture, 2, column, 3) - levels).max() <= 1.5


def test_a_loop_returns_to_the_first_image(run: Path, tmp_path: Path) -> None:
    strips = {}
    for easing in ("linear", "smooth"):
        out = tmp_path / easing
        make(run, out, "--num", "3", "--interpolate", "5", "--loop", "--easing", easing)
        strips[easing] = pixels(out / "interpolation.png")
        assert strips[easing].shape == (3 * SIDE, 5 * SIDE, 3)
        for row, first in enumerate((0, 1, 2)):
            for column, number in ((0, first), (4, (first + 1) % 3)):
                found = tile(strips[easing], row, column, 5)
                assert np.abs(found - pixels(out / f"{number:06d}.png")).max() <= 1
    # Halfway they meet; a quarter of the way smooth has come less far.
    both = [tile(strips[name], 0, 2, 5) for name in strips]
    assert np.abs(both[0] - both[1]).max() <= 1
    start = tile(strips["linear"], 0, 0, 5)
    gone = {name: np.square(tile(strips[name], 0, 1, 5) - start).sum() for name in strips}
    assert gone["smooth"] < gone["linear"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mix", "2"], "--mix=2 must be the numbers of rows and columns"),
        (["--mix", "2,x"], "--mix=2,x must be the numbers"),
        (["--mix", "0,2"], "--mix=0,2 must be the numbers"),
        (["--mix", "2,3", "--num", "4"], "--mix=2,3 needs 5 images, and there are 4"),
        (["--mix", "200,200", "--num", "400"], "makes pictures of more than 33,554,432 pixels"),
        (["--truncation-sweep", "1,"], "--truncation-sweep=1, must be numbers from -1 to 1"),
        (["--truncation-sweep", "2"], "--truncation-sweep=2 must be numbers from -1 to 1"),
        (["--loop"], "--loop needs --interpolate"),
    ],
)
def test_wrong_input_is_refused(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    few = ["--device", "cpu", *arguments]
    assert generate.main([str(run), str(tmp_path / "out"), *few]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_generators_without_styles_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run_of("realness", tmp_path)
    for arguments in (["--mix", "1,1"], ["--truncation-sweep", "1,0"]):
        assert generate.main([str(plain), str(tmp_path / "out"), *arguments]) == 2
        flag = "=".join(arguments)
        assert f"{flag} needs a generator with styles w" in capsys.readouterr().err
