"""File systems without file locks, and file systems that cannot sync folders."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from realness.kernels import build
from realness.launch import prepare, train_ffhq
from realness.trainer.config import ConfigError
from realness.trainer.run import loop
from realness.trainer.storage import run_folder
from realness.trainer.storage.checkpoint_folder import list_checkpoints
from realness.trainer.storage.files import sync_folder
from tests.helpers.ranks import run_command, tiny_arguments, write_images

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]
NO_SYNC = [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", 8)


def failing(number: int) -> Callable[..., None]:
    """A system call that fails with this error."""

    def call(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def without_folder_sync(number: int) -> Callable[[int], None]:
    """os.fsync on a file system that answers with this error for folders."""
    fsync, fail = os.fsync, failing(number)
    return lambda fd: fail() if stat.S_ISDIR(os.fstat(fd).st_mode) else fsync(fd)


# --- no locks


@pytest.mark.parametrize("number", NO_LOCKS)
def test_training_names_the_folder_before_anything_is_built(
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    class Built(Exception):
        pass

    def built(*arguments: object) -> None:
        raise Built

    monkeypatch.setattr(fcntl, "flock", failing(number))
    monkeypatch.setattr(loop, "build_gan", built)
    arguments = [*tiny_arguments(data, tmp_path), "--device", "cpu"]
    assert train_ffhq.main(arguments) == 2
    problem = capsys.readouterr().err
    assert f"{tmp_path}/.lock cannot be locked: {os.strerror(number)}" in problem
    assert "--no-lock" in problem
    with pytest.raises(Built):
        train_ffhq.main([*arguments, "--no-lock"])


def test_a_lock_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ConfigError, match=r"\.lock cannot be written: Is a directory"):
        run_folder.lock_run_folder(tmp_path)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_prepare_names_the_folder_and_goes_on_when_told(
    capsys: pytest.CaptureFixture[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    arguments = [str(data), str(tmp_path / "out"), "--resolution", "32"]
    assert prepare.main(arguments) == 2
    problem = capsys.readouterr().err
    assert f"{tmp_path}/out.partial/lock cannot be locked: {os.strerror(number)}" in problem
    assert "--no-lock" in problem
    assert prepare.main([*arguments, "--no-lock"]) == 0
    assert "8 images" in capsys.readouterr().out


@pytest.mark.parametrize("number", NO_LOCKS)
def test_kernels_are_built_in_private_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Two processes that build at once cannot disturb each other: the second starts in the first's
    compiler call, and its library stays.
    """
    monkeypatch.setenv("REALNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", failing(number))
    plan = build.Plan((), "g++", (), "2.10", False)
    folders: list[Path] = []

    def compile_library(plan: build.Plan, folder: Path, *others: Any) -> Path:
        folders.append(folder)
        folder.mkdir(parents=True)
        if len(folders) == 1:
            build.cached_library(plan)
        (folder / build.LIBRARY_NAME).write_text(str(len(folders)))
        return folder / build.LIBRARY_NAME

    monkeypatch.setattr(build, "compile_library", compile_library)
    library = build.cached_library(plan)
    assert library.read_text() == "2"
    assert len(set(folders)) == 2
    left = {path.name for path in library.parent.iterdir()}
    assert left == {build.LIBRARY_NAME, "librealness.json"}


def test_a_failed_private_build_leaves_only_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))

    def compile_library(plan: build.Plan, folder: Path, *others: Any) -> Path:
        folder.mkdir(parents=True)
        raise build.BuildError("broken")

    monkeypatch.setattr(build, "compile_library", compile_library)
    plan = build.Plan((), "g++", (), "2.10", False)
    with pytest.raises(build.BuildError, match="broken"):
        build.cached_library(plan)
    assert [path.name for path in (tmp_path / plan.key).iterdir()] == ["failed.txt"]


# --- folders that cannot be synced


def break_folder_sync(log: Path) -> None:
    os.fsync = without_folder_sync(errno.EINVAL)
    logging.getLogger("realness.trainer").addHandler(logging.FileHandler(log))


@pytest.mark.slow
def test_training_says_it_once_and_writes_its_checkpoints(data: Path, tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    arguments = tiny_arguments(data, run, "--device", "cpu", "--total-kimg", "0.016")
    assert run_command(arguments, partial(break_folder_sync, log)) == 0
    (said,) = [line for line in log.read_text().splitlines() if "a power cut may cost" in line]
    assert str(run) in said
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["000000000016"]
    assert (run / "checkpoints/latest").read_text() == "000000000016\n"


@pytest.mark.parametrize("number", NO_SYNC)
def test_folders_that_cannot_be_synced_are_taken_as_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    assert sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", without_folder_sync(number))
    assert not sync_folder(tmp_path)


@pytest.mark.parametrize("number", NO_SYNC)
def test_prepare_says_it_once(
    caplog: pytest.LogCaptureFixture,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(os, "fsync", without_folder_sync(number))
    assert prepare.main([str(data), str(tmp_path / "out"), "--resolution", "32"]) == 0
    (said,) = [line for line in caplog.messages if "power cut" in line]
    assert str(tmp_path / "out") in said


def test_a_failing_disk_is_not_taken_for_such_a_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    with pytest.raises(ConfigError, match="cannot be synced: Input/output error"):
        run_folder.warn_of_power_cuts(tmp_path)
