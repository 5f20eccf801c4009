"""generate.py: images of a run's moving average, the same whatever the batching."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from realness.launch import generate
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.inference.adjusting import truncated
from realness.trainer.inference.trained import load_discriminator, load_generator
from realness.trainer.inference.video import write_animation
from tests.helpers.run_folders import write_run
from tests.helpers.systems import systems

NUM = 10


@pytest.fixture(scope="module", params=["realness", "p2gan", "p2gan-stylegan2"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(systems()[request.param], preset="custom")
    return write_run(tmp_path_factory.mktemp("runs") / "run", config)


def make(run: Path, out: Path, *arguments: str) -> list[dict[str, str]]:
    assert generate.main([str(run), str(out), "--device", "cpu", *arguments]) == 0
    with (out / "images.csv").open() as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_images_do_not_depend_on_the_batch(run: Path, tmp_path: Path) -> None:
    rows = make(run, tmp_path / "a", "--num", str(NUM), "--grid", "4")
    assert make(run, tmp_path / "b", "--num", str(NUM), "--batch-size", "4") != []
    for number, row in enumerate(rows):
        assert (row["file"], row["index"]) == (f"{number:06d}.png", str(number))
        one, other = (pixels(tmp_path / name / row["file"]) for name in "ab")
        assert np.abs(one - other).max() <= 1
    assert pixels(tmp_path / "a" / "grid.png").shape == (64, 64, 3)
    other_seed = make(run, tmp_path / "c", "--num", "1", "--seed", "1")[0]["file"]
    assert (pixels(tmp_path / "c" / other_seed) != pixels(tmp_path / "a" / other_seed)).any()


def test_the_most_realistic_come_first(run: Path, tmp_path: Path) -> None:
    everything = make(run, tmp_path / "all", "--num", str(NUM))
    top = make(run, tmp_path / "top", "--num", str(NUM), "--top", "0.3")
    ranked = sorted(everything, key=lambda row: -float(row["score"]))
    assert [row["index"] for row in top] == [row["index"] for row in ranked[:3]]
    for row, original in zip(top, ranked, strict=False):
        one = pixels(tmp_path / "top" / row["file"])
        assert np.abs(one - pixels(tmp_path / "all" / original["file"])).max() <= 1


def test_interpolations_begin_and_end_at_samples(run: Path, tmp_path: Path) -> None:
    make(run, tmp_path / "out", "--num", "3", "--interpolate", "5")
    strip = pixels(tmp_path / "out" / "interpolation.png")
    assert strip.shape == (2 * 32, 5 * 32, 3)
    for pair in range(2):
        row = strip[32 * pair : 32 * (pair + 1)]
        for column, number in ((0, pair), (4, pair + 1)):
            end = row[:, 32 * column : 32 * (column + 1)]
            assert np.abs(end - pixels(tmp_path / "out" / f"{number:06d}.png")).max() <= 1
    with Image.open(tmp_path / "out" / "interpolation.gif") as animation:
        assert getattr(animation, "n_frames", 1) > 2


def decoded(path: Path) -> list[np.ndarray]:
    """The frames of a film [H, W, 3], which must last 80 ms each."""
    with av.open(path) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.duration == pytest.approx(len(frames) * 80_000, rel=0.05)
    return frames


def test_a_film_has_the_steps_of_the_strip(run: Path, tmp_path: Path) -> None:
    make(run, tmp_path / "out", "--num", "3", "--interpolate", "5", "--animation", "mp4")
    assert len(decoded(tmp_path / "out" / "interpolation.mp4")) == 10
    assert (tmp_path / "out" / "interpolation.png").exists()
    assert not (tmp_path / "out" / "interpolation.gif").exists()


def test_a_film_shows_its_frames_in_order(tmp_path: Path) -> None:
    ramp = np.linspace(0, 100, 32)[None, :, None]
    made = [np.broadcast_to(ramp + 12 * n, (32, 32, 3)).astype(np.uint8) for n in range(12)]
    write_animation(map(Image.fromarray, made), tmp_path / "film.mp4", frame_ms=80)
    shown = decoded(tmp_path / "film.mp4")
    assert len(shown) == len(made)
    for frame, expected in zip(shown, made, strict=True):
        assert np.abs(frame.astype(int) - expected).mean() < 4


def test_a_missing_extra_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "av" else found(name)
    )
    arguments = [str(run), str(tmp_path / "out"), "--interpolate", "2", "--animation", "mp4"]
    assert generate.main(arguments) == 2
    assert '".[video]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num", "0"], "--num=0"),
        (["--top", "2"], "--top=2.0"),
        (["--checkpoint", "81"], "--checkpoint=81"),
        (["--checkpoint", "all"], "name one checkpoint"),
    ],
)
def test_wrong_input_is_refused(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert generate.main([str(run), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_truncation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At psi = 0 latents do not matter, at 1 the images are those without it."""
    styled = write_run(tmp_path / "styled", replace(systems()["stylegan2"], preset="custom"))
    folder = choose_checkpoints(styled, "latest")[0]
    generator = load_generator(styled, folder, torch.device("cpu"))
    index = torch.arange(4)
    latents, noise = generator.latents(index, 0), generator.inputs(index, 0)
    everything = truncated(generator, 0.0).render(latents, noise)
    torch.testing.assert_close(everything, truncated(generator, 0.0).render(-latents, noise))
    assert not torch.allclose(everything, generator.render(latents, noise), atol=0.1)
    torch.testing.assert_close(
        truncated(generator, 1.0).render(latents, noise), generator.render(latents, noise)
    )
    make(styled, tmp_path / "half", "--num", "4", "--truncation", "0.5")
    half = truncated(generator, 0.5).sample(index, 0).permute(0, 2, 3, 1).numpy().astype(int)
    for number in range(4):
        assert np.abs(half[number] - pixels(tmp_path / "half" / f"{number:06d}.png")).max() <= 1
    plain = write_run(tmp_path / "plain", replace(systems()["realness"], preset="custom"))
    for run, arguments, message in (
        (plain, ["--truncation", "0.5"], "--truncation=0.5 needs a generator with styles w"),
        (styled, ["--batch-size", "6"], "--batch-size=6 is not divisible by the 4 images"),
        (styled, ["--truncation", "2"], "--truncation=2.0 must lie in [0, 1]"),
    ):
        assert generate.main([str(run), str(tmp_path / "out"), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_full_folder_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert generate.main([str(run), str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_a_flipped_bit_is_found(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shard = next((copy / "checkpoints").rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert generate.main([str(copy), str(tmp_path / "out")]) == 2


def test_no_gradients_are_kept(run: Path) -> None:
    folder = choose_checkpoints(run, "latest")[0]
    generator = load_generator(run, folder, torch.device("cpu"))
    discriminator = load_discriminator(run, folder, torch.device("cpu"))
    index = torch.arange(2)
    images = generator.images(generator.latents(index, 0), index, 0)
    assert not images.requires_grad
    assert discriminator.score(images).shape == (2,)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classes named a to d, of which b has no images."""
    config = systems()["conditional-stylegan2"]
    classes = replace(config.classes, class_names=("a", "b", "c", "d"))
    config = replace(config, preset="custom", classes=classes)
    return write_run(tmp_path_factory.mktemp("runs") / "conditional", config)


def test_chosen_classes(conditional: Path, tmp_path: Path) -> None:
    """Of two images with the same number, only the class differs; a row of the grid per class."""
    rows = make(conditional, tmp_path / "two", "--num", "4", "--classes", "3,a")
    assert [row["class"] for row in rows] == ["d", "a"] * 4
    assert [row["index"] for row in rows] == [str(number // 2) for number in range(8)]
    alone = make(conditional, tmp_path / "one", "--num", "4", "--classes", "a", "--grid", "1")
    for number, row in enumerate(alone):
        same = tmp_path / "two" / rows[2 * number + 1]["file"]
        assert np.abs(pixels(tmp_path / "one" / row["file"]) - pixels(same)).max() <= 1
        other = tmp_path / "two" / rows[2 * number]["file"]
        assert (pixels(same) != pixels(other)).any()
    grid = pixels(tmp_path / "two" / "grid.png")
    assert grid.shape[0] == 2 * 32
    for number in range(8):
        row, column = number % 2, number // 2
        left = grid.shape[1] - (4 - column) * 32
        tile = grid[row * 32 : (row + 1) * 32, left : left + 32]
        assert np.abs(tile - pixels(tmp_path / "two" / f"{number:06d}.png")).max() <= 1


def test_classes_are_drawn_as_the_data_has_them(
    conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--num", "8", "--interpolate", "3", "--truncation", "0.5")
    drawn = make(conditional, tmp_path / "drawn", *options)
    folder = choose_checkpoints(conditional, "latest")[0]
    generator = load_generator(conditional, folder, torch.device("cpu"))
    numbers = generator.class_numbers(torch.arange(8), 0).tolist()
    assert [row["class"] for row in drawn] == ["abcd"[number] for number in numbers]
    assert "b" not in {row["class"] for row in drawn}
    for wrong, message in (("4", "no class '4'; use 0 to 3 or a, b, c, d"), ("x", "no class 'x'")):
        arguments = [str(conditional), str(tmp_path / "out"), "--classes", wrong]
        assert generate.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_each_class_has_its_own_centre(conditional: Path) -> None:
    """At psi = 0 an image depends on its class, and not on its latent."""
    folder = choose_checkpoints(conditional, "latest")[0]
    generator = truncated(load_generator(conditional, folder, torch.device("cpu")), 0.0)
    both = generator.of_classes([0, 2])
    index = torch.arange(4)
    latents, inputs = both.latents(index, 0), both.inputs(index, 0)
    inputs["noise"] = torch.zeros_like(inputs["noise"])
    images = both.render(latents, inputs)
    torch.testing.assert_close(images[:2], images[2:])
    assert (images[0] - images[1]).abs().max() > 1e-5


def test_classes_need_a_conditional_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main([str(run), str(tmp_path / "out"), "--classes", "1"]) == 2
    assert "--classes=1 needs a run that was trained with --conditional" in capsys.readouterr().err
