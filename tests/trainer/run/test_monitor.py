"""Metrics during training: the same on any number of ranks, recorded, and never fatal."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realness.data_pipeline import open_catalog
from realness.trainer.checkpoint import Retention, Saver
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.config import MetricsConfig, TrainConfig, with_fields
from realness.trainer.inference.trained import (
    TrainedGenerator,
    build_empty_generator,
    load_discriminator,
    trained_generator,
)
from realness.trainer.metrics import MeasureFailed
from realness.trainer.metrics import evaluation as evaluation_module
from realness.trainer.reporting import Reporter, load_run
from realness.trainer.reporting.realness import read_realness
from realness.trainer.reporting.tensorboard import tag
from realness.trainer.run import monitor as monitor_module
from realness.trainer.run import outputs as outputs_module
from realness.trainer.run.monitor import Monitor
from realness.trainer.run.outputs import measure_if_due
from realness.trainer.run.state import Run
from realness.trainer.run.throughput import Pace
from realness.trainer.storage.scores import read_records
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.reporting_runs import captured_console
from tests.helpers.systems import small

CPU = torch.device("cpu")
NUM_REAL = 20
NUM_SHOWN = 4  # of tiny_arguments


def config(data: str) -> TrainConfig:
    tiny = small("cifar10-realness-dcgan")
    return replace(
        tiny,
        data=replace(tiny.data, data=data, decoder="threads", decode_threads=1),
        metrics=MetricsConfig(metrics_kimg=1.0, metrics="swd", metrics_images=14),
    )


def scores_on_a_rank(data: str, broken_rank: int = -1) -> dict[str, float]:
    """SWD of a fixed generator, as training measures it; one rank's generator may fail."""
    from realness.trainer.distributed.ranks import rank

    settings = config(data)
    torch.manual_seed(5)
    generator = trained_generator(settings, build_empty_generator(settings, CPU), 80, "digest")
    if rank() == broken_rank:
        generator = Broken(**vars(generator))
    reporter = Reporter(Path(), total_images=1, enabled=False)
    monitor = Monitor(settings, open_catalog(data), CPU)
    try:
        return {score.metric: score.value for score in monitor.scores(generator, reporter)}
    except MeasureFailed as error:
        return {str(error): 0.0}


class Broken(TrainedGenerator):
    def sample(self, index: torch.Tensor, seed: int) -> torch.Tensor:
        raise RuntimeError("out of memory")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), NUM_REAL)


@pytest.mark.slow
def test_two_ranks_give_the_scores_of_one(data: Path) -> None:
    """Batches of 8 and of 4 per rank, the last one short."""
    one = scores_on_a_rank(str(data))
    assert set(one) == {"SWD", "SWD-32", "SWD-16"}
    for scores in run_on_ranks(2, scores_on_a_rank, str(data)):
        assert scores == pytest.approx(one, rel=1e-3)
    # If one rank fails, the other does not wait for it until a timeout.
    for scores in run_on_ranks(2, scores_on_a_rank, str(data), 1):
        assert list(scores) == ["generated images: rank 1: out of memory"]


def train(data: Path, run: Path, *extra: str) -> int:
    arguments = tiny_arguments(data, run, "--total-kimg", "0.032", "--device", "cpu", *extra)
    return run_command(arguments)


METRICS = ("--metrics-kimg", "0.016", "--metrics-images", "12")


def losses(run: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [(line["images"], line["loss_d"], line["loss_g"]) for line in lines if "loss_d" in line]


def assert_realness_is_what_d_says(run: Path) -> None:
    """The recorded distribution of real images is that of the checkpoint's D on reals.png."""
    (moment,) = read_realness(run / "realness.jsonl")
    discriminator = load_discriminator(run, choose_checkpoints(run, "latest")[0], CPU)
    grid = torch.from_numpy(np.array(Image.open(run / "samples" / "reals.png")))
    tiles = grid.unfold(0, 32, 32).unfold(1, 32, 32).flatten(0, 1)
    images = tiles[:NUM_SHOWN] / 127.5 - 1
    expected = discriminator.module(images).softmax(1).mean(0)
    assert moment.images == 32
    assert moment.real == pytest.approx(expected.tolist(), rel=1e-4)
    assert moment.real != pytest.approx(moment.fake, rel=1e-3)
    index = np.arange(len(moment.a1))
    assert np.dot(moment.a1, index) > np.dot(moment.a0, index)


@pytest.mark.slow
def test_scores_are_recorded_and_change_nothing(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "plain") == 0
    assert train(data, tmp_path / "run", *METRICS) == 0
    run = tmp_path / "run"
    assert losses(run) == losses(tmp_path / "plain")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["images"], row["metric"]) for row in rows] == [
        (images, metric) for images in ("16", "32") for metric in ("SWD", "SWD-32", "SWD-16")
    ]
    assert {(row["num_images"], row["num_real"], row["seed"]) for row in rows} == {
        ("12", "12", "0")
    }
    stats = load_run(run)
    assert stats.values("metric_SWD") == pytest.approx(
        [float(rows[0]["value"]), float(rows[3]["value"])]
    )
    assert min(stats.values("metrics_s")) > 0
    assert "SWD" in (run / "report.html").read_text()
    assert_realness_is_what_d_says(run)


def test_a_failure_costs_the_scores_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(str(data))
    console, said = captured_console()
    reporter = Reporter(tmp_path, total_images=1000, console=console)
    catalog = open_catalog(str(data))
    ema = SimpleNamespace(module=build_empty_generator(settings, CPU))
    gan: Any = SimpleNamespace(ema=ema)
    monitor = Monitor(settings, catalog, CPU)
    saver = Saver(tmp_path / "checkpoints", Retention(1))
    run = Run(settings, tmp_path, catalog, gan, saver, reporter, 500, monitor)
    pace = Pace(catalog, [])

    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no memory for patches")

    with monkeypatch.context() as broken:
        broken.setattr(evaluation_module, "sliced_wasserstein", fail)
        measure_if_due(run, pace, stopping=False, complete=True)
    assert "NO METRICS at 0.5 kimg (RuntimeError: no memory for patches)" in said.getvalue()
    with monkeypatch.context() as full:
        full.setattr(run, "config", with_fields(settings, metrics_weights="raw"))
        full.setattr(outputs_module.copy, "deepcopy", fail)
        measure_if_due(run, pace, stopping=False, complete=True)
    assert "(MeasureFailed: a copy of G: no memory for patches)" in said.getvalue()
    measure_if_due(run, pace, stopping=True, complete=False)
    assert not (tmp_path / "metrics.csv").exists()
    run.images = 600
    measure_if_due(run, pace, stopping=False, complete=True)
    assert {record.images for record in read_records(tmp_path)} == {600}
    assert "0.6 kimg: SWD" in said.getvalue()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (MetricsConfig(metrics_kimg=1, metrics="lpips"), "unknown"),
        (MetricsConfig(metrics_kimg=1, metrics="pr", metrics_images=3), "3 generated images are"),
        (MetricsConfig(metrics_kimg=1, metrics="is", metrics_network="efflite0"), "metrics=is"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_the_start(
    data: Path, metrics: MetricsConfig, message: str
) -> None:
    wrong = replace(config(str(data)), metrics=metrics)
    with pytest.raises(ValueError, match=message):
        monitor_module.open_monitor(wrong, open_catalog(str(data)), CPU)


def test_nothing_is_opened_where_nothing_is_measured(data: Path) -> None:
    off = replace(config(str(data)), metrics=MetricsConfig(metrics="lpips"))
    assert monitor_module.open_monitor(off, open_catalog(str(data)), CPU) is None


def test_time_for_metrics_is_no_training_time(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    clock = [100.0]
    monkeypatch.setattr("realness.trainer.run.throughput.time.monotonic", lambda: clock[0])
    pace = Pace(open_catalog(str(data)), [])
    pace.add(80)
    clock[0] += 10
    pace.exclude(8)
    first = pace.read(400)
    assert (first["img_per_s"], first["eta_s"], first["elapsed_s"]) == (40.0, 10.0, 10.0)
    pace.add(80)
    clock[0] += 8
    assert pace.read(320)["img_per_s"] == 10.0


def test_tensorboard_has_them_in_a_section_of_their_own() -> None:
    assert tag("metric_SWD-32") == "metrics/SWD-32"
