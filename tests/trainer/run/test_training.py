"""The training command as its users run it: real processes, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from tests.helpers import ROOT
from tests.helpers.ranks import (
    TIMEOUT_SECONDS,
    TRAIN,
    finish,
    free_port,
    start_training,
    tiny_arguments,
    wait_for,
    write_images,
)

pytestmark = pytest.mark.slow

DEEPSPEED = Path(sys.executable).with_name("deepspeed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[tuple[float, ...]]:
    return [(r["images"], r["loss_d"], r["loss_g"], r["score_real"]) for r in records(run_dir)]


def last_files(run_dir: Path) -> dict[str, Any]:
    """Sizes and checksums of the newest checkpoint's files."""
    name = (run_dir / "checkpoints" / "latest").read_text().strip()
    return json.loads((run_dir / "checkpoints" / name / "checkpoint.json").read_text())["files"]


def test_sigkill_and_rerun_equal_a_straight_run_bit_for_bit(data: Path, tmp_path: Path) -> None:
    lengths = ("--total-kimg", "0.64", "--checkpoint-kimg", "0.04", "--sample-kimg", "0.32")
    straight = tiny_arguments(data, tmp_path / "straight", *lengths, "--r1-gamma", "1")
    codes, output = finish(start_training(straight, 2))
    assert codes == [0, 0], output

    killed = tiny_arguments(data, tmp_path / "killed", *lengths, "--r1-gamma", "1")
    ranks = start_training(killed, 2, log=tmp_path / "killed.log")
    wait_for(tmp_path / "killed" / "checkpoints" / "latest", ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    codes, _ = finish(ranks)
    assert codes == [-9, -9]

    codes, output = finish(start_training(killed, 2))
    assert codes == [0, 0], output
    assert "resuming at" in output
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")
    assert last_files(tmp_path / "killed") == last_files(tmp_path / "straight")
    sample = "samples/000000000640.png"
    assert (tmp_path / "killed" / sample).read_bytes() == (
        tmp_path / "straight" / sample
    ).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_one_rank_saves_and_stops_all(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = tiny_arguments(data, tmp_path / "run", "--total-kimg", "80")
    ranks = start_training(arguments, 2, log=tmp_path / "log")
    wait_for(tmp_path / "run" / "stats.jsonl", ranks)
    ranks[1].send_signal(number)
    codes, _ = finish(ranks)
    assert codes == [75, 75], (tmp_path / "log").read_text()
    seen = records(tmp_path / "run")[-1]["images"]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == f"{seen:012d}"


def deepspeed(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    launcher = [str(DEEPSPEED), "--num_gpus", "2", "--master_port", str(free_port())]
    return subprocess.Popen(
        [*launcher, str(TRAIN), "--device", "cpu", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        cwd=ROOT,
        text=True,
        **options,
    )


def test_deepspeed_and_plain_python_give_the_same_losses(data: Path, tmp_path: Path) -> None:
    """Ten iterations of a small DCGAN; rounding grows through Adam, so the bound is 0.2%."""
    size = write_images(tmp_path / "images64", 40, 64)
    command = ["--preset", "ffhq256-realness-dcgan", "--resolution", "64", "--batch-size", "8"]
    command += ["--g-width", "16", "--d-width", "16", "--data", str(size)]
    command += ["--total-kimg", "0.08", "--log-kimg", "0.008", "--num-samples", "4"]
    shared_memory = abandoned_files()
    launched = deepspeed([*command, "--run-dir", str(tmp_path / "two")], stdout=subprocess.PIPE)
    output, _ = launched.communicate(timeout=TIMEOUT_SECONDS)
    assert launched.returncode == 0, output
    codes, output = finish(start_training([*command, "--run-dir", str(tmp_path / "one")], 1))
    assert codes == [0], output
    assert f"samples: {tmp_path / 'one' / 'samples'}, a new grid every" in output
    two, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(one) == 10
    for left, right in zip(two, one, strict=True):
        assert left == pytest.approx(right, rel=2e-3, abs=2e-4)
    assert_none_abandoned(shared_memory)


def abandoned_files() -> set[str]:
    """Files in shared memory that no process maps.

    This leaves out files that other tests, or another run of the suite, are using.
    """
    found = set(os.listdir("/dev/shm"))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            found -= {Path(mapped.path).name for mapped in process.memory_maps()}
            found -= {Path(opened.path).name for opened in process.open_files()}
    return found


def assert_none_abandoned(before: set[str]) -> None:
    """Check that no file is added to shared memory since `before`, allowing for other runs."""
    deadline = time.monotonic() + 60
    while (left := abandoned_files() - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def training_processes(marker: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(marker in word for word in process.info["cmdline"] or [])
    ]


@pytest.mark.parametrize("victim", ["launcher", "rank"])
def test_nothing_survives_a_killed_launcher_or_rank(
    data: Path, tmp_path: Path, victim: str
) -> None:
    shared_memory = abandoned_files()
    run_dir = tmp_path / "run"
    arguments = tiny_arguments(data, run_dir, "--total-kimg", "800")
    launcher = deepspeed(arguments, stdout=(tmp_path / "log").open("w"), stderr=subprocess.STDOUT)
    wait_for(run_dir / "stats.jsonl", [launcher])
    if victim == "launcher":
        launcher.kill()
    else:
        ranks = training_processes(str(run_dir))
        next(rank for rank in ranks if "--local_rank=1" in rank.info["cmdline"]).kill()
    launcher.wait(timeout=TIMEOUT_SECONDS)
    deadline = time.monotonic() + 90
    while training_processes(str(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not training_processes(str(run_dir)), (tmp_path / "log").read_text()
    assert_none_abandoned(shared_memory)
    if victim == "launcher":
        assert (run_dir / "checkpoints" / "latest").exists(), "the orphaned ranks saved nothing"


def refused(arguments: list[str], world_size: int = 1) -> str:
    """The single message of a command that must end with code 2 on all ranks."""
    codes, output = finish(start_training(arguments, world_size))
    assert codes == [2] * world_size, output
    assert "Traceback" not in output
    assert output.count("error: ") == 1, output
    return output.partition("error: ")[2]


def test_wrong_input_is_refused_on_all_ranks_with_one_message(data: Path, tmp_path: Path) -> None:
    arguments = tiny_arguments(data, tmp_path / "run")
    assert "not divisible by the 3 ranks" in refused(arguments, 3)
    assert not (tmp_path / "run").exists()


def test_another_configuration_in_the_run_folder_is_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = tiny_arguments(data, run, "--total-kimg", "0.016")
    codes, output = finish(start_training(short, 1))
    assert codes == [0], output
    message = refused([*short, "--lr-g", "0.1", "--seed", "3"])
    assert "--lr-g: the run has 0.0002, this command has 0.1" in message
    assert "--seed" in message
    assert "--accept-config-change" in message

    more = [*short, "--total-kimg", "0.032", "--lr-g", "0.1", "--accept-config-change"]
    codes, output = finish(start_training(more, 1))
    assert codes == [0], output
    assert records(run)[-1]["lr_g"] == 0.1

    other = write_images(tmp_path / "other", 30)
    message = refused([*more, "--data", str(other), "--no-accept-config-change"])
    assert "not the set of images" in message


def test_a_corrupt_image_is_named_replaced_and_counted(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 16)
    (folder / "003.png").write_bytes((folder / "003.png").read_bytes()[:-40])
    arguments = tiny_arguments(folder, tmp_path / "run", "--total-kimg", "0.064")
    codes, output = finish(start_training(arguments, 1))
    assert codes == [0], output
    assert "003.png" in output
    assert records(tmp_path / "run")[-1]["bad_images"] > 0
    codes, output = finish(
        start_training([*arguments, "--total-kimg", "0.096", "--max-bad-images", "0"], 1)
    )
    assert codes != [0]
    assert "max_bad_images" in output


def test_a_corrupt_checkpoint_falls_back_to_the_previous_one(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = tiny_arguments(data, run, "--total-kimg", "0.032", "--checkpoint-kimg", "0.016")
    codes, output = finish(start_training(arguments, 1))
    assert codes == [0], output
    newest = run / "checkpoints" / f"{32:012d}" / "rank-00000-of-00001.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    codes, output = finish(start_training(arguments, 1))
    assert codes == [0], output
    assert "is damaged and is passed over" in output
    assert "resuming at 0.0 kimg" in output


def test_dry_run_on_two_ranks_tells_the_plan_and_who_reads_what(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "parts", Conversion(32), parts=4)
    arguments = tiny_arguments(tmp_path / "parts", tmp_path / "run", "--dry-run")
    codes, output = finish(start_training(arguments, 2))
    assert codes == [0, 0], output
    for expected in ("--lr-g 0.0002", "G: ", "GiB  total", '"stage": 1', "iterations"):
        assert expected in output
    parts = [line.strip() for line in output.splitlines() if " is read by " in line]
    assert parts == [f"part {part} is read by rank {part // 2}" for part in range(4)]
