"""benchmarks/realness_cifar.py: its commands, what it reads from runs, its page, and a tiny run."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from realness.launch.train_arguments import parse
from realness.trainer.config import flatten
from tests.helpers import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("realness_cifar")


def test_arms_are_what_they_are_called(bench: ModuleType) -> None:
    found = {}
    for run in bench.runs(Path("images.zip"), bench.ARMS, 1, 150.0):
        found[run.arm] = flatten(parse(run.command(Path("work"))[2:]).config)
    shared = ("total_kimg", "batch_size", "g_width", "mirror", "lr_g", "beta1", "z_dim", "seed")
    assert len({tuple(settings[name] for name in shared) for settings in found.values()}) == 1
    preset = found[bench.PRESET]
    assert (preset["num_outcomes"], preset["k_g"], preset["mirror"]) == (3, 1, False)
    about = {"preset", "run_dir"}
    changed = {
        arm: {name: settings[name] for name in settings if settings[name] != preset[name]}
        for arm, settings in found.items()
        if arm != bench.STANDARD
    }
    kept = {arm: {k: v for k, v in each.items() if k not in about} for arm, each in changed.items()}
    assert kept == {
        bench.PRESET: {},
        bench.ANCHORS: {"anchor_kl": 11.05},
        bench.AUTHOR: {"k_g": 3, "resample": "none"},
    }


def rows(bench: ModuleType, swd: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """Rows of two seeds, which differ by a tenth; FD is the last SWD."""
    return [
        {
            "arm": arm,
            "weights": weights,
            "seed": seed,
            "kimg": k + 1,
            "SWD": value + seed / 10,
            "FD": value + seed / 10 if k == len(values) - 1 else "",
        }
        for (arm, weights), values in swd.items()
        for seed in (0, 1)
        for k, value in enumerate(values)
    ]


def test_verdicts_are_on_the_second_half(bench: ModuleType, tmp_path: Path) -> None:
    found = rows(
        bench,
        {
            (bench.STANDARD, "raw"): [10, 10, 60, 40],
            (bench.STANDARD, "ema"): [10, 10, 45, 45],
            (bench.PRESET, "raw"): [99, 99, 30, 50],
            (bench.PRESET, "ema"): [99, 99, 30, 31],
            (bench.ANCHORS, "raw"): [99, 99, 30, 49.9],
            (bench.ANCHORS, "ema"): [99, 99, 20, 20],
        },
    )
    text = bench.page(found)
    for line in (
        "**supported**: Table 1, raw weights: RealnessGAN has a smaller lowest SWD than Std-GAN",
        "**supported**: Table 1, raw weights: RealnessGAN has a smaller mean SWD than Std-GAN",
        "**contradicted**: Table 1, raw weights: RealnessGAN has a smaller FD at the end",
        "**supported**: Table 1, ema weights: RealnessGAN has a smaller FD at the end",
        "**open**: Table 2, raw weights: anchors of D_KL 11.05 have a smaller lowest SWD than 3.03",
        "**supported**: Table 2, ema weights: anchors of D_KL 11.05 have a smaller lowest SWD",
        "**supported**: RealnessGAN: the SD of SWD is smaller for the average of G's weights",
        "| Std-GAN | raw | 2 | 4 | 40.0 (40.0 to 40.1) | 50.0 (50.0 to 50.1) | 10.0 (10.0 to 10.0)",
    ):
        assert line in text, line
    bench.draw(tmp_path / "figure.png", bench.panels(found), bench.COLOURS)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > image.height > 200


def test_scores_of_each_kind_of_weights_are_kept_apart(bench: ModuleType, tmp_path: Path) -> None:
    run = bench.runs(Path("z"), [bench.PRESET], 1, 1.0)[0]
    lines = ["ema,SWD,5", "raw,SWD,7", f"raw,{bench.FD},30", "raw,SWD,8"]
    text = "weights,metric,value,images\n" + "".join(f"{line},1000\n" for line in lines)
    (tmp_path / "metrics.csv").write_text(text)
    about = {"arm": bench.PRESET, "seed": 0, "kimg": 1.0}
    assert bench.rows_of(run, "raw", tmp_path) == [
        {**about, "weights": "raw", "SWD": "8", "FD": "30"}
    ]
    assert bench.rows_of(run, "ema", tmp_path) == [
        {**about, "weights": "ema", "SWD": "5", "FD": ""}
    ]
    for words in bench.score_commands(tmp_path, "raw"):
        assert words[words.index("--weights") + 1] == "raw"


@pytest.mark.slow
def test_a_tiny_run(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One arm for two batches; SWD only, because the feature network takes seconds."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for k in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{k}.png")
    for name, value in (("NUM_SAMPLES", 16), ("NUM_REAL", 16), ("NUM_CHECKPOINTS", 2)):
        monkeypatch.setattr(bench, name, value)
    only_swd = bench.score_commands
    monkeypatch.setattr(bench, "score_commands", lambda *words: [only_swd(*words)[0]] * 2)
    monkeypatch.setattr(bench, "FD", "SWD-16")
    words = ["--cifar", str(images), "--arms", "D_KL 11.05", "--kimg", "0.064", "--seeds", "1"]
    words += ["--weights", "raw"]
    words += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert bench.main(words) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "realness_cifar.csv", "realness_cifar.md", "realness_cifar.png",
    ]  # fmt: skip
    again = bench.runs(images, ["D_KL 11.05"], 1, 0.064)[0]
    monkeypatch.setattr(bench.TrainingRun, "train", bench.TrainingRun.folder)
    monkeypatch.setattr(bench, "run_command", lambda *words: pytest.fail("it was scored again"))
    assert len(bench.train_and_score(again, tmp_path / "work", ["raw"])) == 2
