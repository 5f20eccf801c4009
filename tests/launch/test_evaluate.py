"""Measuring a run: its command, its scores, its record; on one rank and on two."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from realness.data_pipeline import open_catalog
from realness.launch.presets import preset
from realness.trainer import checkpoint
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.config import ConfigError, TrainConfig, with_fields
from realness.trainer.inference.trained import load_generator
from realness.trainer.metrics import (
    Evaluator,
    MeasurementPlan,
    NetworkFile,
    RealImages,
    best_record,
    check_metrics,
    choose,
    frechet_distance,
    kernel_distance,
    open_network,
    precision_recall,
)
from realness.trainer.metrics.frechet import GaussianMoments
from realness.trainer.metrics.show import write_figure
from realness.trainer.networks.build import build_generator
from realness.trainer.storage.run_folder import write_config
from realness.trainer.storage.scores import Record, append_records, read_records, summarise
from realness.trainer.updates.ema import Ema
from tests.helpers import ROOT
from tests.helpers.metric_images import pictures, write_colours
from tests.helpers.ranks import run_on_ranks

EVALUATE = ROOT / "launch" / "evaluate.py"
NUM_REAL = 20


def tiny_config(data: Path) -> TrainConfig:
    config = preset("cifar10-realness-dcgan")
    return replace(
        config,
        batch_size=8,
        g=replace(config.g, g_width=4, z_dim=16),
        data=replace(config.data, data=str(data), decoder="threads", decode_threads=1),
    )


def write_run(folder: Path, config: TrainConfig, seeds: dict[int, int]) -> Path:
    """A run folder with a checkpoint of a fresh generator for each {images seen: seed}."""
    folder.mkdir()
    write_config(folder, config)
    digest = open_catalog(config.data.data).digest
    for images, seed in seeds.items():
        torch.manual_seed(seed)
        ema = Ema(build_generator(config.g, config.data.resolution), 1000)
        position = checkpoint.Position(images, {}, digest)
        checkpoint.save(folder / "checkpoints", ema.owned_state(), position, keep=9)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reals")
    for number, image in enumerate(pictures(NUM_REAL).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return write_run(folder, tiny_config(data), {80: 1, 160: 2, 240: 3})


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> NetworkFile:
    return write_colours(tmp_path_factory.mktemp("networks"))


# --- the generator


def test_the_generator_is_the_moving_average_of_the_checkpoint(run: Path) -> None:
    folder = choose_checkpoints(run, "160")[0]
    generator = load_generator(run, folder, torch.device("cpu"))
    torch.manual_seed(2)
    expected = build_generator(generator.config.g, 32).float().eval()
    z = generator.latents(torch.arange(4), seed=7)
    torch.testing.assert_close(generator.images(z, torch.arange(4), 7), expected(z))
    assert (generator.images_seen, generator.iteration) == (160, 20)


def test_a_sample_depends_on_its_number_and_the_seed_only(run: Path) -> None:
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], torch.device("cpu"))
    whole = generator.sample(torch.arange(6), seed=7)
    assert whole.dtype == torch.uint8
    alone = torch.cat([generator.sample(torch.tensor([n]), seed=7) for n in range(6)])
    assert (whole.int() - alone.int()).abs().max() <= 1
    assert not torch.equal(whole, generator.sample(torch.arange(6), seed=8))


def test_p2gan_samples_with_codes(data: Path, tmp_path: Path) -> None:
    config = preset("cifar10-realness-dcgan")
    config = with_fields(tiny_config(data), objective="p2gan")
    from realness.trainer.objectives.base import build_objective

    code_dim = build_objective(config.objective).code_dim
    module = build_generator(config.g, 32, code_dim=code_dim)
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, config)
    state = Ema(module, 1000).owned_state()
    checkpoint.save(folder / "checkpoints", state, checkpoint.Position(8, {}, ""), keep=1)
    generator = load_generator(folder, choose_checkpoints(folder, "8")[0], torch.device("cpu"))
    z = generator.latents(torch.zeros(2, dtype=torch.int64), seed=0)
    images = generator.images(z, torch.tensor([0, 1]), seed=0)
    assert torch.equal(z[0], z[1])
    assert not torch.equal(images[0], images[1])


def test_choosing_checkpoints(run: Path, tmp_path: Path) -> None:
    names = [path.name for path in choose_checkpoints(run, "all")]
    assert names == [f"{images:012d}" for images in (80, 160, 240)]
    assert choose_checkpoints(run, "latest")[0].name == f"{240:012d}"
    with pytest.raises(ConfigError, match="80, 160, 240"):
        choose_checkpoints(run, "100")
    with pytest.raises(ConfigError, match="no checkpoint"):
        choose_checkpoints(tmp_path, "latest")


# --- the scores


def measure(
    run: Path, file: NetworkFile, metrics: str, cache: Path, num_images: int = 26
) -> tuple[dict[str, float], list[str]]:
    """Scores by name, and the stages that ran."""
    catalog = open_catalog(str(read_config_data(run)))
    plan = MeasurementPlan(check_metrics(metrics), num_images, NUM_REAL, batch_size=6, seed=3)
    stages: list[str] = []
    evaluator = Evaluator(
        plan,
        RealImages(catalog, tiny_config(Path()).data, plan.batch_size, cache=cache),
        open_network("inception", file=file, size=32),
        lambda what, done, total: stages.append(what),
    )
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], torch.device("cpu"))
    return {score.metric: score.value for score in evaluator.scores(generator)}, stages


def read_config_data(run: Path) -> Path:
    from realness.trainer.storage.run_folder import read_config

    return Path(read_config(run).data.data)


def test_scores_equal_those_computed_by_hand(
    run: Path, colours: NetworkFile, tmp_path: Path
) -> None:
    scores, _ = measure(run, colours, "fid,kid,pr", tmp_path)
    network = open_network("inception", file=colours, size=32)
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], torch.device("cpu"))
    fake = network.features(generator.sample(torch.arange(26), seed=3))
    real = network.features(pictures(NUM_REAL))
    moments = []
    for rows in (real, fake):
        moments.append(GaussianMoments(12))
        moments[-1].add(rows)
    assert scores["FD-colours"] == pytest.approx(frechet_distance(*moments), rel=1e-3)
    assert (scores["precision-colours"], scores["recall-colours"]) == precision_recall(real, fake)
    # Subsets of real images depend on their order; the estimate over all of them does not.
    assert scores["KID-colours"] == pytest.approx(
        kernel_distance(real, fake, seed=0)[0], abs=4 * scores["KID-colours-sd"] / 10
    )
    assert "FID" not in scores


def test_the_reference_is_computed_once(run: Path, colours: NetworkFile, tmp_path: Path) -> None:
    first, stages = measure(run, colours, "fid,kid", tmp_path)
    assert "real features" in stages
    again, stages = measure(run, colours, "fid,kid", tmp_path)
    assert "real features" not in stages
    assert again == pytest.approx(first, rel=1e-9)
    (kept,) = (tmp_path / "references").iterdir()
    kept.write_bytes(b"damaged")
    anew, stages = measure(run, colours, "fid,kid", tmp_path)
    assert anew == pytest.approx(first, rel=1e-9)
    assert stages == ["generated images"] * 5 + ["real features"] * 4


def test_path_length_is_positive_and_named_after_the_network(
    run: Path, colours: NetworkFile, tmp_path: Path
) -> None:
    scores, _ = measure(run, colours, "ppl", tmp_path, num_images=8)
    assert list(scores) == ["PPL-colours"]
    assert 0 < scores["PPL-colours"] < 1e3


def on_a_rank(run: str, file: NetworkFile, cache: str) -> dict[str, float]:
    return measure(Path(run), file, "swd,fid,kid,pr,ppl", Path(cache), num_images=14)[0]


@pytest.mark.slow
def test_two_ranks_give_the_scores_of_one(run: Path, colours: NetworkFile, tmp_path: Path) -> None:
    """14 images in batches of 6 leave the second rank 2 and then none."""
    one = on_a_rank(str(run), colours, str(tmp_path / "one"))
    for scores in run_on_ranks(2, on_a_rank, str(run), colours, str(tmp_path / "two")):
        assert scores == pytest.approx(one, rel=2e-3, abs=1e-9)


def test_a_wrong_plan_is_refused(run: Path, colours: NetworkFile, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown \\['lpips'\\]"):
        MeasurementPlan(check_metrics("swd,lpips"), 10, 10, 2)
    with pytest.raises(ValueError, match="3 generated images are too few"):
        MeasurementPlan(("pr",), 3, 10, 2)
    with pytest.raises(ValueError, match="defined for the Inception"):
        measure(run, colours, "is", tmp_path)


# --- the record


def record(images: int, value: float, metric: str = "SWD", seed: int = 0) -> Record:
    return Record("t", images, images // 8, metric, value, 20, 20, "", "", seed, "abc", 1.0)


def test_the_summary_is_that_of_the_papers_table(tmp_path: Path) -> None:
    values = {80: 9.0, 160: 4.0, 240: 1.0, 320: 7.0}
    append_records(tmp_path, [record(images, value) for images, value in values.items()])
    append_records(tmp_path, [record(320, 5.5), record(240, 3.0, "FID")])
    found = {item.metric: item for item in summarise(read_records(tmp_path), from_iteration=20)}
    swd = found["SWD"]
    assert (swd.least, swd.greatest, swd.count) == (1.0, 5.5, 3)
    assert (swd.mean, swd.deviation) == pytest.approx((3.5, 1.8708287), rel=1e-6)
    assert found["FID"].count == 1
    assert summarise(read_records(tmp_path), from_iteration=41) == []


def test_a_foreign_row_is_named(tmp_path: Path) -> None:
    path = append_records(tmp_path, [record(8, 1.0)])
    path.write_text(path.read_text() + "spam,eggs\n")
    with pytest.raises(ValueError, match="spam"):
        read_records(tmp_path)


# --- the command


def command(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = f"import runpy, sys; {code}; sys.argv = sys.argv[1:]; "
    return subprocess.run(
        [
            *(sys.executable, "-c", start + "runpy.run_path(sys.argv[0], run_name='__main__')"),
            *(str(EVALUATE), *arguments, "--device", "cpu", "--batch-size", "8"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_command_needs_neither_deepspeed_nor_a_network_for_swd(
    data: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", tiny_config(data), {80: 1, 160: 2, 240: 3})
    shard = next(choose_checkpoints(run, "160")[0].glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    done = command(
        *(str(run), "--metrics", "swd", "--checkpoint", "all", "--num-images", "12"),
        code="sys.modules['deepspeed'] = None",
    )
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stderr
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["images"], row["metric"]) for row in rows] == [
        (images, metric) for images in ("80", "240") for metric in ("SWD", "SWD-32", "SWD-16")
    ]
    mean = (float(rows[1]["value"]) + float(rows[2]["value"])) / 2
    assert float(rows[0]["value"]) == pytest.approx(mean)
    assert "Over training" in done.stdout
    assert f"{float(rows[0]['value']):.5g}" in done.stdout


def load_command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_command", EVALUATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "lpips"), "unknown ['lpips']"),
        (("--metrics", "intra-fid"), "trained without --conditional; leave intra-fid out"),
        (("--checkpoint", "7"), "80, 160, 240"),
        (("--data", "nowhere"), "nowhere"),
        (("--source-kind", "tar"), "is for --data, which is not given"),
        (("--follow-links",), "is for --data, which is not given"),
        (("--labels", "auto"), "--labels auto is for --data, which is not given"),
        (("--network-file", "net.pt"), "net.pt cannot be read"),
        (("--network-file", "net.pt", "--network-sha256", "12"), "64 hexadecimal digits"),
    ],
)
def test_wrong_input_ends_with_code_2(
    run: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = load_command()
    assert evaluate.main([str(run), "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "metrics.csv").exists()


# --- the best checkpoint, the summary's file and the figure


def test_the_best_is_chosen_by_the_newest_settings(run: Path, tmp_path: Path) -> None:
    rows = [record(80, 1.0, "SWD-32"), record(80, 5.0), record(160, 2.0), record(240, 4.0)]
    assert best_of(rows, "swd") == 160
    assert best_of([*rows, record(160, 9.0)], "swd") == 240
    fewer = [replace(item, num_images=8) for item in (record(80, 0.7), record(240, 0.8))]
    assert best_of([*rows, *fewer], "swd") == 80
    assert (
        best_of([record(80, 5.0, "IS"), record(160, 7.0, "IS"), record(80, 9.0, "IS-sd")], "is")
        == 160
    )
    offline = [record(80, 0.5, "KID-efflite0"), record(160, 0.1, "KID-efflite0-sd")]
    assert best_of(offline, "kid") == 80
    of_class = record(160, 0.1, "intra-FD-efflite0/cat")
    by_class = [record(images, images, "intra-FD-efflite0") for images in (80, 160)]
    assert best_of([*by_class, of_class], "intra-fid") == 80
    assert best_record([*rows, of_class, *by_class], "fid") is None


def best_of(rows: list[Record], metric: str) -> int:
    best = best_record(rows, metric)
    assert best is not None
    return best.images


def test_best_is_a_checkpoint_that_is_still_there(data: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_config(data), {80: 1, 160: 2})
    with pytest.raises(ConfigError, match="measure them first"):
        choose(run, "best")
    append_records(run, [record(40, 0.1), record(80, 3.0), record(160, 2.0)])
    assert [path.name for path in choose(run, "best")] == [f"{160:012d}"]
    append_records(run, [record(40, 1.0, "FID"), record(80, 2.0, "FID")])
    assert [path.name for path in choose(run, "best")] == [f"{80:012d}"]
    assert choose(run, "latest") == choose_checkpoints(run, "latest")


@pytest.mark.slow
def test_the_command_finds_the_best_and_draws_the_curve(
    data: Path, tmp_path: Path, colours: NetworkFile, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", tiny_config(data), {80: 1, 160: 2, 240: 3})
    evaluate = load_command()
    start = [str(run), "--device", "cpu", "--num-images", "12", "--batch-size", "8"]
    assert evaluate.main([*start, "--metrics", "swd", "--checkpoint", "160"]) == 0
    network = ["--network-file", colours.source, "--network-sha256", colours.sha256]
    network += ["--network-size", "32", "--metrics", "swd,kid"]
    assert evaluate.main([*start, "--checkpoint", "best", *network]) == 0
    rows = read_records(run)
    swd = {row.images: row.value for row in rows if row.metric == "SWD"}
    assert [row.images for row in rows if row.metric == "SWD"] == [160, 80, 240]
    best = min(swd, key=lambda images: swd[images])
    assert [row.images for row in rows if row.metric == "KID-colours"] == [best]
    assert f"after {best} images" in capsys.readouterr().err
    with (run / "metrics_summary.csv").open() as file:
        (summary,) = [row for row in csv.DictReader(file) if row["metric"] == "SWD"]
    assert float(summary["min"]) == min(swd.values())
    assert float(summary["mean"]) == pytest.approx(sum(swd.values()) / 3)
    assert (summary["checkpoints"], summary["from_iteration"]) == ("3", "0")
    with Image.open(run / "metrics.png") as figure:
        assert min(figure.size) > 300


def test_the_figure_shows_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.axes

    drawn: list[tuple[str, list[float], list[float], list[float] | None]] = []

    def note(
        self: object, x: list[float], y: list[float], bars: list[float] | None, **style: str
    ) -> None:
        drawn.append((style["label"], x, y, bars))

    monkeypatch.setattr(matplotlib.axes.Axes, "errorbar", note)
    rows = [record(2000, 3.0), record(1000, 5.0), record(2000, 4.0)]
    rows += [record(1000, 0.5, "KID"), record(1000, 0.1, "KID-sd")]
    write_figure(rows, tmp_path)
    assert drawn == [("SWD", [1.0, 2.0], [5.0, 4.0], None), ("KID", [1.0], [0.5], [0.1])]
