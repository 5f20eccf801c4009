"""Commands that read a run in progress, which removes its checkpoints while they are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from realness.launch import consolidate, evaluate, export, generate
from realness.launch.generate_checks import DISK_BLOCK
from realness.trainer import checkpoint
from realness.trainer.checkpoint import reader
from realness.trainer.checkpoint.choosing import ATTEMPTS, load_chosen
from realness.trainer.config import TrainConfig, with_fields
from realness.trainer.storage.checkpoint_folder import list_checkpoints, write_latest
from tests.helpers.ranks import write_images
from tests.helpers.run_folders import write_run
from tests.helpers.systems import systems


@pytest.fixture
def config() -> TrainConfig:
    return replace(systems()["realness"], preset="custom")


@pytest.fixture
def run(tmp_path: Path, config: TrainConfig) -> Path:
    return write_run(tmp_path / "run", config)


def train_on(run: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Replace the newest checkpoint by the next one while its files are verified, `times` times."""
    verify, left = reader.file_entry, [times]

    def verify_late(path: Path) -> dict[str, int]:
        if left[0]:
            left[0] -= 1
            old = path.parent
            new = old.with_name(f"{int(old.name) + 80:012d}")
            shutil.copytree(old, new)
            write_latest(new.parent, new.name)
            shutil.rmtree(old)
        return verify(path)

    monkeypatch.setattr(reader, "file_entry", verify_late)


def commands(run: Path, out: Path) -> dict[str, Callable[[], int]]:
    """A call of each command that reads checkpoints."""
    small = ["--num", "2", "--device", "cpu"]
    images = str(write_images(out / "images", 8))
    measured = ["--metrics", "swd", "--num-images", "8", "--data", images, "--device", "cpu"]
    return {
        "generate": lambda: generate.main([str(run), str(out / "a"), *small]),
        "export": lambda: export.main([str(run), str(out / "b"), "--formats", ""]),
        "consolidate": lambda: consolidate.main([str(run), str(out / "c")]),
        "evaluate": lambda: evaluate.main([str(run), *measured]),
    }


@pytest.mark.parametrize("name", ["generate", "export", "consolidate", "evaluate"])
def test_the_next_checkpoint_takes_the_place_of_one_that_is_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    call = commands(run, tmp_path)[name]
    train_on(run, monkeypatch, 2)
    assert call() == 0
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["000000000240"]


def test_a_checkpoint_that_was_named_is_not_called_damaged(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_on(run, monkeypatch, 1)
    arguments = [str(run), str(tmp_path / "out"), "--checkpoint", "80", "--device", "cpu"]
    assert generate.main(arguments) == 2
    problem = capsys.readouterr().err
    assert "--checkpoint=80 is not a checkpoint of" in problem
    assert "damaged" not in problem


def test_a_checkpoint_of_the_same_name_is_another_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run / "checkpoints/000000000080"
    verify = reader.file_entry

    def replaced(path: Path) -> dict[str, int]:
        shutil.copytree(folder, run / "copy")
        shutil.rmtree(folder)
        (run / "copy").rename(folder)
        return {**verify(path), "size": 0}

    monkeypatch.setattr(reader, "file_entry", replaced)
    with pytest.raises(checkpoint.CheckpointRemoved, match="was removed while it was read"):
        checkpoint.load(folder, [])
    monkeypatch.setattr(reader, "file_entry", lambda path: {})
    with pytest.raises(checkpoint.CheckpointError, match="is damaged") as caught:
        checkpoint.load(folder, [])
    assert not isinstance(caught.value, checkpoint.CheckpointRemoved)


def test_the_attempts_end() -> None:
    tried: list[Path] = []

    def load(folder: Path) -> Any:
        tried.append(folder)
        raise checkpoint.CheckpointRemoved(str(folder))

    with pytest.raises(checkpoint.CheckpointRemoved):
        load_chosen(lambda: Path("a"), load)
    assert len(tried) == ATTEMPTS


# --- input that is checked first


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--num", "0"], "--num=0 must be at least 1"),
        (["--grid", "-5"], "--grid=-5 must not be negative"),
        (["--interpolate", "-3"], "--interpolate=-3 must not be negative"),
        (["--seed", "-1"], "--seed=-1 must not be negative"),
        (["--seed", str(2**63)], "must be below"),
        (["--num", str(10**12)], f"--num={10**12} needs"),
        (["--num", str(10**8)], f"--num={10**8} needs"),
        (["--interpolate", str(10**9)], f"--interpolate={10**9} needs"),
    ],
)
def test_generate_refuses_what_it_cannot_do_before_it_begins(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    out = tmp_path / "out"
    assert generate.main([str(run), str(out), "--device", "cpu", *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()


def test_few_kept_images_need_little_space(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 images of one block each do not fit on a disk with 8 blocks free; 2 do."""
    usage = shutil.disk_usage(tmp_path)._replace(free=8 * DISK_BLOCK)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    arguments = ["--num", "10", "--grid", "0", "--device", "cpu"]
    assert generate.main([str(run), str(tmp_path / "a"), *arguments]) == 2
    assert generate.main([str(run), str(tmp_path / "b"), *arguments, "--top", "0.2"]) == 0


def test_evaluate_names_the_flag_for_images_that_have_moved(
    tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = str(tmp_path / "moved")
    run = write_run(tmp_path / "run", with_fields(config, data=moved))
    assert evaluate.main([str(run), "--metrics", "swd", "--device", "cpu"]) == 2
    problem = capsys.readouterr().err
    assert moved in problem
    assert "--data" in problem
