"""Every system trains on real faces and resumes bit for bit, through the training command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from realness.launch import fetch_faces, prepare
from realness.launch.presets import PRESETS
from realness.trainer.config import TrainConfig, flag, flatten
from realness.trainer.config.fields import leaves
from realness.trainer.distributed.exit_codes import EXIT_OK
from tests.helpers.ranks import run_command
from tests.helpers.systems import BATCH, SCHEDULE_KIMG, systems

pytestmark = pytest.mark.slow

STEPS, HALF = 50, 25


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 photographs of 40 people, 32x32."""
    root = tmp_path_factory.mktemp("faces")
    assert fetch_faces.main([str(root / "orl")]) == 0
    packed = root / "packed"
    size = ("--resolution", "32", "--labels", "folders")
    assert prepare.main([str(root / "orl"), str(packed), *size]) == 0
    return packed


def flags(config: TrainConfig) -> list[str]:
    """The command line that gives `config`, whatever the preset."""
    line: list[str] = []
    known = leaves(TrainConfig)
    for name, value in flatten(config).items():
        if not known[name].is_flag:
            continue
        if isinstance(value, bool):
            line.append(flag(name) if value else flag(f"no_{name}"))
        elif value not in ("", None, ()) and name != "preset":
            line += [flag(name), str(value)]
    return line


def command(config: TrainConfig, data: Path, run_dir: Path, steps: int) -> list[str]:
    kimg = BATCH / 1000
    pretraining = ("--pretrain-kimg", str(HALF * kimg / 2)) if config.objective.codes else ()
    return [
        *flags(config),
        *("--data", str(data), "--run-dir", str(run_dir), "--decode-threads", "1"),
        *("--total-kimg", str(steps * kimg), "--log-kimg", str(kimg), "--num-samples", "4"),
        *("--sample-kimg", "1", *pretraining),
    ]


def records(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def files(run_dir: Path) -> dict[str, Any]:
    """Sizes and checksums of the newest checkpoint."""
    name = (run_dir / "checkpoints" / "latest").read_text().strip()
    return json.loads((run_dir / "checkpoints" / name / "checkpoint.json").read_text())["files"]


def assert_schedules(history: list[dict[str, float]]) -> None:
    """The records hold R3GAN's formula, v0 + (1 - (1 + cos(pi t / T)) / 2) (v1 - v0)."""
    ends = {"beta2": (0.999, 0.9), "r1_gamma": (1, 0.1), "r2_gamma": (0, 0.5)}
    ends |= {"ema_halflife_kimg": (0, 0.1), "augment_p": (0, 0.5), "lr_g": (2e-4, 0.4e-4)}
    # The last two are those of the interval's updates, which start before its images.
    before = {"augment_p", "lr_g"}
    for record in history:
        for key, (v0, v1) in ends.items():
            images = record["images"] - BATCH * (key in before)
            share = 1 - (1 + math.cos(math.pi * min(1, images / (1000 * SCHEDULE_KIMG)))) / 2
            assert record[key] == pytest.approx(v0 + share * (v1 - v0), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", systems())
def test_fifty_steps_and_a_resume(name: str, faces: Path, tmp_path: Path) -> None:
    config = systems()[name]
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    for run_dir, steps in ((straight, STEPS), (halved, HALF), (halved, STEPS)):
        assert run_command(command(config, faces, run_dir, steps)) == EXIT_OK
    history = records(straight)
    assert len(history) == STEPS
    losses = [record[key] for record in history for key in ("loss_d", "loss_g")]
    assert all(math.isfinite(loss) for loss in losses)
    last = history[-10:]
    assert sum(r["score_real"] for r in last) > sum(r["score_fake"] for r in last)
    assert files(halved) == files(straight)
    if name == "realness-scheduled":
        assert_schedules(history)
    resumed = records(halved)
    for key in ("images", "loss_d", "loss_g"):
        assert [r[key] for r in resumed] == [r[key] for r in history]


def distinct_presets() -> list[str]:
    """One preset for each pair of networks with each optimiser; the largest of R3GAN's, which
    differ in numbers that the tests of presets count."""
    kinds = {}
    for name, build in PRESETS.items():
        config = build()
        kinds[config.data.resolution, config.g, config.d, config.optimizer] = name
    return [n for n in kinds.values() if "r3gan" not in n or n == "ffhq1024-r3gan"]


@pytest.mark.parametrize("name", distinct_presets())
def test_presets_can_be_built(name: str) -> None:
    assert run_command(["--preset", name, "--device", "cpu", "--dry-run"]) == EXIT_OK
