"""The two sets of weights that a checkpoint has of G: the moving average and G itself."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from realness.launch import evaluate, export, generate
from realness.trainer import checkpoint
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.export import load
from realness.trainer.inference.trained import load_generator
from realness.trainer.metrics import choose
from realness.trainer.storage.run_folder import write_config
from realness.trainer.storage.scores import (
    Record,
    append_records,
    describe,
    read_records,
    summarise,
)
from realness.trainer.updates.build import build_networks
from tests.helpers.ranks import run_command, tiny_arguments, write_images
from tests.helpers.systems import systems

CPU = torch.device("cpu")
INDEX = torch.arange(3)
KINDS = ("ema", "raw")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 16)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    """A run whose moving average and whose G have nothing in common."""
    config = systems()["realness"]
    config = replace(config, preset="custom", data=replace(config.data, data=str(data)))
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, config)
    fragments = []
    for seed, name in enumerate(("EMA.model", "G.model")):
        generator, discriminator, _ = build_networks(replace(config, seed=seed))
        fragments += replicated(name, generator.float().state_dict())
    fragments += replicated("D.model", discriminator.state_dict())
    checkpoint.save(folder / "checkpoints", fragments, checkpoint.Position(80, {}, ""), keep=9)
    return folder


def expected(run: Path, seed: int) -> torch.Tensor:
    """The samples INDEX of the generator that was made with `seed`."""
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], CPU)
    module = build_networks(replace(generator.config, seed=seed))[0].float().eval()
    return replace(generator, module=module).sample(INDEX, 7)


def test_each_is_loaded_drawn_from_and_exported(run: Path, tmp_path: Path) -> None:
    folder = choose_checkpoints(run, "latest")[0]
    for seed, weights in enumerate(KINDS):
        generator = load_generator(run, folder, CPU, weights)
        assert generator.weights == weights
        assert torch.equal(generator.sample(INDEX, 7), expected(run, seed))
        images = tmp_path / f"images-{weights}"
        drawn = [str(run), str(images), "--num", "3", "--seed", "7", "--weights", weights]
        assert generate.main([*drawn, "--device", "cpu"]) == 0
        out = tmp_path / f"out-{weights}"
        assert export.main([str(run), str(out), "--formats", "", "--weights", weights]) == 0
        again = load(out).generator
        assert again.weights == weights
        assert torch.equal(again.sample(INDEX, 7), expected(run, seed))
        assert ("raw weights" in (out / "README.md").read_text()) == (weights == "raw")
    names = [(tmp_path / f"images-{weights}" / "000000.png").read_bytes() for weights in KINDS]
    assert names[0] != names[1]


def scores(run: Path, weights: str, images: int = 80) -> dict[str, float]:
    return {
        record.metric: record.value
        for record in read_records(run)
        if (record.weights, record.images) == (weights, images)
    }


def measure(run: Path, *flags: str) -> None:
    fixed = ("--metrics", "swd", "--num-images", "12", "--device", "cpu", "--batch-size", "8")
    assert evaluate.main([str(run), *fixed, *flags]) == 0


def test_scores_of_one_are_not_mixed_with_those_of_the_other(run: Path) -> None:
    for weights in KINDS:
        measure(run, "--weights", weights)
    ema, raw = (scores(run, weights) for weights in KINDS)
    assert ema.keys() == raw.keys()
    assert ema != raw
    # The best of the moving average is not a row of G itself, however good that is.
    append_records(run, [replace(read_records(run)[-1], value=0.0)])
    measure(run, "--weights", "ema", "--checkpoint", "best")
    assert scores(run, "ema") == ema
    assert choose(run, "best")[0].name == "000000000080"


def test_scores_of_earlier_versions_stay(tmp_path: Path) -> None:
    """Their tables have no column of weights: they are of the moving average."""
    row = Record("t", 80, 10, "SWD", 12.25, 64, 64, "", "", 0, "digest", 1.0)
    path = append_records(tmp_path, [row])
    with path.open(newline="") as file:
        old = [line[:-1] for line in csv.reader(file)]
    assert "weights" not in old[0]
    path.write_text("".join(",".join(line) + "\n" for line in old))
    assert read_records(tmp_path) == [row]
    raw = replace(row, images=160, weights="raw")
    append_records(tmp_path, [raw])
    append_records(tmp_path, [replace(raw, images=240)])
    assert read_records(tmp_path) == [row, raw, replace(raw, images=240)]
    assert [summary.count for summary in summarise(read_records(tmp_path))] == [1, 2]
    assert (describe(row), describe(raw)) == (
        "64 generated, 64 real",
        "64 generated, 64 real, raw weights",
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0", "3"])
def test_training_scores_g_itself(data: Path, tmp_path: Path, stage: str) -> None:
    """The scores of the last iteration are those of the checkpoint's G, gathered at ZeRO 3."""
    run = tmp_path / "run"
    flags = ["--metrics-kimg", "0.016", "--metrics-images", "12", "--metrics-weights", "raw"]
    flags += ["--total-kimg", "0.032", "--zero-g", stage, "--device", "cpu"]
    assert run_command(tiny_arguments(data, run, *flags)) == 0
    measured = scores(run, "raw", 32)
    assert set(measured) == {"SWD", "SWD-32", "SWD-16"}
    for weights in KINDS:
        measure(run, "--weights", weights, "--from-iteration", "1")
        if weights == "raw":
            # With the score of the middle of training: both are in the summary over training.
            summary = (run / "metrics_summary.csv").read_text().splitlines()
            assert {line.split(",")[5] for line in summary[1:]} == {"2"}
    # The batches differ: rounding of the images to grey levels turns over a few of them.
    assert measured == pytest.approx(scores(run, "raw", 32), rel=1e-3)
    assert measured != pytest.approx(scores(run, "ema", 32), rel=1e-3)
