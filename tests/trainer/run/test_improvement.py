"""The best checkpoint is kept, and a run ends when its first metric no longer improves."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from realness.trainer.checkpoint import Retention
from realness.trainer.checkpoint import retention as retention_module
from realness.trainer.checkpoint.retention import check_free_space, point_to_best, prune
from realness.trainer.config import ConfigError, MetricsConfig
from realness.trainer.distributed.exit_codes import EXIT_OK
from realness.trainer.metrics import Score, choose
from realness.trainer.reporting import load_run
from realness.trainer.reporting.page.panels import panels
from realness.trainer.run.improvement import Improvement
from realness.trainer.storage.checkpoint_folder import folder_name, list_checkpoints, read_best
from realness.trainer.storage.scores import Record, append_records, read_records
from tests.helpers import ROOT
from tests.helpers.ranks import (
    finish,
    run_command,
    start_training,
    tiny_arguments,
    write_images,
)
from tests.helpers.reporting_runs import make_run, page_of, records
from tests.helpers.scripted_scores import SCRIPT, kill_at_removal, script_scores


def fill(root: Path, *images: int) -> Path:
    for count in images:
        (root / folder_name(count)).mkdir(parents=True)
    (root / "latest").write_text(folder_name(images[-1]) + "\n")
    return root


def there(root: Path) -> list[int]:
    return [int(path.name) for path in list_checkpoints(root)]


def scores(**values: float) -> list[Score]:
    return [Score(name.replace("_", "-"), value, 9, 9) for name, value in values.items()]


def test_the_best_on_disk_stays_and_is_named(tmp_path: Path) -> None:
    """400 has the best score but was never written; 100 and 300 are equal."""
    root, losses = fill(tmp_path, 100, 200, 300, 500, 600), {100: 2.0, 200: 3.0, 300: 2.0, 400: 1.0}
    prune(root, Retention(1, losses=losses))
    assert there(root) == [100, 600]
    assert read_best(root) == folder_name(100)
    losses[600] = 0.5
    point_to_best(root, Retention(1, losses=losses))
    assert read_best(root) == folder_name(600)
    # Without scores, as in a run that no longer measures, the one that was named stays.
    fill(root, 700, 800)
    prune(root, Retention(1))
    assert there(root) == [600, 800]


def test_a_kill_before_the_deletion_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path, 100, 200, 300)
    (root / "best").write_text(folder_name(100) + "\n")

    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as broken:
        broken.setattr(retention_module, "remove_checkpoint", killed)
        with pytest.raises(SystemExit):
            prune(root, Retention(1, losses={100: 2.0, 200: 1.0}))
    assert there(root) == [100, 200, 300]
    assert read_best(root) == folder_name(200)
    with monkeypatch.context() as full:
        full.setattr(retention_module, "write_best", _full_disk)
        prune(root, Retention(1, losses={100: 2.0, 200: 3.0, 300: 1.0}))
    # The file still names 200, and so that one stays too.
    assert there(root) == [200, 300]


def _full_disk(*_: Any) -> None:
    raise OSError("No space left on device")


def test_space_for_the_best_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 39

    monkeypatch.setattr(retention_module.shutil, "disk_usage", lambda _: Usage)
    check_free_space(tmp_path, 10, Retention(2), 1000)
    with pytest.raises(ConfigError, match="GiB free"):
        check_free_space(tmp_path, 10, Retention(2, losses={}), 1000)


def test_improvement_counts_measurements_since_the_best() -> None:
    run = Improvement("KID, swd", patience=2)
    assert (run.metric, run.best, run.num_since, run.is_over) == ("kid", None, 0, False)
    for images, value in ((10, 0.3), (20, 0.1), (30, 0.1), (40, math.nan)):
        run.add(images, scores(SWD=images, KID_efflite0=value, KID_efflite0_sd=0.01))
    run.add(50, scores(SWD=0.0))  # a measurement without this metric does not count
    assert (run.best, run.num_since, run.is_over) == (20, 2, True)
    assert "--stop-after 0, or a number above 2" in run.describe_end()
    run.cut_back(30)
    assert (run.num_since, run.is_over) == (1, False)
    rising = Improvement("is", patience=0)
    for images, value in ((10, 2.0), (20, 5.0), (30, 4.0)):
        rising.add(images, scores(IS=value))
    assert (rising.best, rising.is_over) == (20, False)


def test_stopping_needs_measurements() -> None:
    with pytest.raises(ConfigError, match="--stop-after=3 needs measurements"):
        MetricsConfig(stop_after=3)
    with pytest.raises(ConfigError, match="--stop-after=-1 must not be negative"):
        MetricsConfig(metrics_kimg=1, stop_after=-1)


def score_of(images: int, value: float) -> Record:
    return Record("", images, images, "SWD", value, 9, 9, "", "", 0, "data", 1.0)


def test_the_report_and_the_commands_use_what_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", records(5, 400))
    append_records(run, [score_of(200, 2.0), score_of(400, 1.0)])
    root = fill(run / "checkpoints", 200, 400)
    assert choose(run, "best") == [root / folder_name(400)]
    assert load_run(run).best is None
    (root / "best").write_text(folder_name(200) + "\n")
    assert choose(run, "best") == [root / folder_name(200)]
    (panel,) = [panel for panel in panels(load_run(run)) if panel.title == "SWD"]
    assert (panel.mark, panel.note.endswith("Dashed: the best checkpoint.")) == (200, True)
    assert "Best checkpoint" in page_of(run).text
    assert 'class="rule mark"' in (run / "report.html").read_text()
    assert load_run(run).state == "running"
    content = json.loads((run / "config.json").read_text())
    content["metrics"]["stop_after"] = 1
    (run / "config.json").write_text(json.dumps(content))
    assert load_run(run).state == "finished"
    (root / "best").write_text("../../elsewhere\n")
    assert choose(run, "best") == [root / folder_name(400)]
    assert load_run(run).best is None


@pytest.mark.slow
def test_a_killed_run_finds_its_best_again_and_stops_on_other_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    arguments = tiny_arguments(
        write_images(tmp_path / "images"), run, "--total-kimg", "0.4", "--metrics-kimg", "0.008",
        "--metrics-images", "8", "--checkpoint-kimg", "0.016", "--keep-checkpoints", "1",
        "--stop-after", "3", "--device", "cpu",
    )  # fmt: skip
    root = run / "checkpoints"
    with pytest.raises(AssertionError, match="ended with -9"):
        run_command(arguments, kill_at_removal)
    assert int(read_best(root)) == min(there(root), key=lambda images: SCRIPT[images])

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    program = ROOT / "tests" / "helpers" / "scripted_scores.py"
    codes, output = finish(start_training(arguments, 2, program=program))
    assert codes == [0, 0], output
    assert "resuming at" in output
    assert output.count("swd has not improved in 3 measurements, since 0.0 kimg") == 1

    # The same command again does nothing more, and more patience continues the run.
    assert run_command(arguments, script_scores) == EXIT_OK
    assert read_best(root) == folder_name(32)
    assert there(root) == [32, 56]
    assert load_run(run).images == max(record.images for record in read_records(run)) == 56
    assert load_run(run).state == "finished"
    more = ["--stop-after", "5", "--total-kimg", "0.064"]
    assert run_command([*arguments, *more], script_scores) == EXIT_OK
    assert there(root) == [32, 64]
