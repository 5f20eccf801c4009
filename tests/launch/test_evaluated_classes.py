"""Classes in `evaluate`: those of the real images, and scores per class."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from realness.data_pipeline import SourceOptions, open_catalog
from realness.launch import evaluate
from realness.launch.evaluated_images import RUN, differing_classes, open_real_images
from realness.trainer import checkpoint
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.config import (
    ClassesConfig,
    ConfigError,
    DataConfig,
    MetricsConfig,
    TrainConfig,
    with_fields,
)
from realness.trainer.inference.trained import build_empty_generator, load_generator
from realness.trainer.metrics import (
    Evaluator,
    MeasurementPlan,
    NetworkFile,
    RealImages,
    compared_classes,
    open_network,
)
from realness.trainer.reporting import Reporter
from realness.trainer.run import monitor as monitor_module
from realness.trainer.storage.run_folder import write_config
from realness.trainer.updates.ema import Ema
from tests.helpers.metric_images import pictures, write_classes, write_colours
from tests.helpers.ranks import run_on_ranks
from tests.launch.test_evaluate import tiny_config
from tests.trainer.metrics.test_scores import scipy_distance

CPU = torch.device("cpu")
COUNTS = {"ant": 60, "bee": 50, "cat": 10}


def run_data(labels: str) -> DataConfig:
    return DataConfig(data="elsewhere", labels=labels, resolution=32)


def test_images_are_labelled_as_those_of_the_run_unless_told_otherwise(tmp_path: Path) -> None:
    source = str(write_classes(tmp_path / "set", {"cat": 2, "dog": 1}))
    settings, catalog = open_real_images(run_data("folders"), source, SourceOptions(labels=RUN))
    assert (settings.labels, list(catalog.class_names)) == ("folders", ["cat", "dog"])
    settings, catalog = open_real_images(run_data("folders"), source, SourceOptions(labels="none"))
    assert (settings.labels, catalog.num_classes) == ("none", 0)
    table = tmp_path / "labels.csv"
    table.write_text("cat/00.png,0\ncat/01.png,1\ndog/00.png,2\n")
    _, catalog = open_real_images(run_data("none"), source, SourceOptions(labels=str(table)))
    assert [catalog.label(number) for number in range(3)] == [0, 1, 2]
    with pytest.raises(ConfigError, match="this choice is the run's: give one for these images"):
        open_real_images(run_data(str(tmp_path / "gone.csv")), source, SourceOptions(labels=RUN))


def test_other_classes_than_the_runs_are_named(tmp_path: Path) -> None:
    source = str(write_classes(tmp_path / "set", {"cat": 3, "dog": 1}))
    _, catalog = open_real_images(run_data("folders"), source, SourceOptions(labels=RUN))
    same = ClassesConfig(True, (6, 2), ("cat", "dog"))
    assert differing_classes(same, catalog) == []
    assert differing_classes(replace(same, class_names=()), catalog) == []
    assert differing_classes(ClassesConfig(), catalog) == []
    (message,) = differing_classes(replace(same, class_counts=(4, 4)), catalog)
    assert "75.0 % of them, and 50.0 % of the run's, are of class cat" in message
    for other in (ClassesConfig(True, (6, 2), ("dog", "cat")), ClassesConfig(True, (8,))):
        (message,) = differing_classes(other, catalog)
        assert "the images have other classes than the run: 2 classes of 1 (dog)" in message
    _, catalog = open_real_images(run_data("none"), source, SourceOptions(labels=RUN))
    (message,) = differing_classes(same, catalog)
    assert message.startswith("the images have no classes")


# --- scores per class


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    data = write_classes(tmp_path_factory.mktemp("set"), COUNTS)
    classes = ClassesConfig(True, tuple(COUNTS.values()), tuple(COUNTS))
    return replace(with_fields(tiny_config(data), labels="folders"), classes=classes)


@pytest.fixture(scope="module")
def run(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of a generator whose images depend on their class."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    write_config(folder, config)
    torch.manual_seed(1)
    module = build_empty_generator(config, CPU)
    for values in module.parameters():
        values.add_(0.3 * torch.randn_like(values))
    state = Ema(module, 1000).owned_state()
    checkpoint.save(folder / "checkpoints", state, checkpoint.Position(80, {}, ""), keep=1)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> NetworkFile:
    return write_colours(tmp_path_factory.mktemp("networks"))


def expected_scores(run: Path, file: NetworkFile) -> list[float]:
    """Of 52 images per class, with SciPy and without the code of the metric."""
    network = open_network("inception", file=file, size=32)
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], CPU)
    real = network.features(pictures(sum(COUNTS.values()))).double().split(list(COUNTS.values()))
    found = []
    for number in (0, 1):
        images = generator.of_classes([number]).sample(torch.arange(52) + 52 * number, seed=0)
        fake = network.features(images).double()
        found.append(scipy_distance(real[number].numpy(), fake.numpy()))
    return found


def scores_on_a_rank(run: str, config: TrainConfig, file: NetworkFile) -> dict[str, float]:
    catalog = open_catalog(config.data.data, SourceOptions(labels="folders"))
    classes = compared_classes(["intra-fid"], config.classes, catalog, 105, 120)
    plan = MeasurementPlan(("intra-fid",), 105, 120, batch_size=16, classes=classes)
    network = open_network("inception", file=file, size=32)
    real = RealImages(catalog, config.data, plan.batch_size, cache=Path(run) / "cache")
    evaluator = Evaluator(plan, real, network, lambda what, done, total: None)
    generator = load_generator(Path(run), choose_checkpoints(Path(run), "latest")[0], CPU)
    return {score.metric: score.value for score in evaluator.scores(generator)}


@pytest.mark.slow
def test_scores_per_class_are_the_same_on_two_ranks(
    run: Path, config: TrainConfig, colours: NetworkFile
) -> None:
    one = scores_on_a_rank(str(run), config, colours)
    for scores in run_on_ranks(2, scores_on_a_rank, str(run), config, colours):
        assert scores == pytest.approx(one, rel=2e-3)


def test_the_command_measures_each_class_and_their_mean(
    run: Path, colours: NetworkFile, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ["--network-file", colours.source, "--network-sha256", colours.sha256]
    wanted = ["--metrics", "fid,intra-fid", "--num-images", "105", "--batch-size", "32"]
    arguments = [str(run), "--device", "cpu", *network, "--network-size", "32", *wanted]
    assert evaluate.main(arguments) == 0
    said = capsys.readouterr()
    assert "leaves out 1 of 3 classes, which have fewer than 50 real images: cat" in said.err
    assert "intra-FD-colours/ant" in said.out
    with (run / "metrics.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    with (run / "metrics_classes.csv").open() as file:
        classes = {row["metric"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"FD-colours", "intra-FD-colours"}
    assert list(classes) == ["intra-FD-colours/ant", "intra-FD-colours/bee"]
    assert [(row["num_images"], row["num_real"]) for row in classes.values()] == [
        ("52", "60"),
        ("52", "50"),
    ]
    values = [float(row["value"]) for row in classes.values()]
    # Images that are rendered in other batches may differ by a grey level in a few pixels.
    assert values == pytest.approx(expected_scores(run, colours), rel=1e-3)
    mean = rows["intra-FD-colours"]
    assert (mean["num_images"], mean["num_real"]) == ("104", "110")
    assert float(mean["value"]) == pytest.approx(sum(values) / 2)


def test_training_records_single_classes_in_their_own_table(
    run: Path,
    config: TrainConfig,
    colours: NetworkFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = open_network("inception", file=colours, size=32)
    monkeypatch.setattr(monitor_module, "open_network", lambda *_, **__: network)
    metrics = MetricsConfig(metrics_kimg=1.0, metrics="intra-fid", metrics_images=100)
    catalog = open_catalog(config.data.data, SourceOptions(labels="folders"))
    monitor = monitor_module.Monitor(replace(config, metrics=metrics), catalog, CPU)
    generator = load_generator(run, choose_checkpoints(run, "latest")[0], CPU)
    reporter = Reporter(tmp_path, total_images=80)
    monitor.measure(lambda: generator, reporter, tmp_path, 80)
    reporter.close()
    assert monitor.improvement.best == 80
    logged = json.loads((tmp_path / "stats.jsonl").read_text())
    assert [key for key in logged if "FD" in key] == ["metric_intra-FD-colours"]
    table = (tmp_path / "metrics_classes.csv").read_text()
    assert table.count("intra-FD-colours/") == 2
    unconditional = replace(config, metrics=metrics, classes=ClassesConfig())
    with pytest.raises(ConfigError, match="trained without --conditional"):
        monitor_module.open_monitor(unconditional, catalog, CPU)
