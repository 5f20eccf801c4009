"""Saving while training continues: what it copies, when it commits, how failures are reported."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from realness.trainer import checkpoint
from realness.trainer.checkpoint import Outcome, Position, Retention, Saver, writer
from realness.trainer.checkpoint.fragments import Fragment, share_of
from realness.trainer.checkpoint.retention import check_free_space, prune
from realness.trainer.config import ConfigError
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.reporting import Reporter
from realness.trainer.run import saving
from realness.trainer.storage.checkpoint_folder import folder_name
from realness.trainer.updates import iteration
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.reporting_runs import captured_console

PATIENCE_SECONDS = 60
WRITE_SECONDS = 5.0
write_share = writer._write_share


def owned(weight: torch.Tensor) -> list[Fragment]:
    return [share_of(Fragment.whole("net/w", weight), rank(), world_size())]


def loaded(folder: Path) -> torch.Tensor:
    weight = torch.full((10,), -1.0)
    checkpoint.load(folder, [Fragment.whole("net/w", weight)])
    return weight


def latest(root: Path) -> str:
    pointer = root / "latest"
    return pointer.read_text().strip() if pointer.exists() else ""


def save_while_rank_1_lags(root: Path) -> dict[str, Any]:
    """Rank 1's thread is delayed; then its disk is full; then saving works again."""
    written, may_write = threading.Event(), threading.Event()

    def held_up(*arguments: Any) -> Any:
        if rank() == 1:
            assert may_write.wait(PATIENCE_SECONDS)
        result = write_share(*arguments)
        written.set()
        return result

    def full(*arguments: Any) -> Any:
        if rank() == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_share(*arguments)

    saver, weight, seen = Saver(root, Retention(3)), torch.arange(10.0), {}
    writer._write_share = held_up
    saver.start(owned(weight), Position(1, {}, "digest"))
    weight.fill_(7)  # training continues
    if rank() == 0:
        assert written.wait(PATIENCE_SECONDS)
    seen["under way"] = (saver.poll(), latest(root), any(gather(saver.is_writing)))
    with pytest.raises(RuntimeError, match="wait for it"):
        saver.start(owned(weight), Position(2, {}, "digest"))
    gather(None)  # rank 1 must not continue before rank 0 has looked
    may_write.set()
    seen["first"] = (saver.wait(), saver.failed, latest(root), loaded(root / folder_name(1)))

    writer._write_share = full
    saver.start(owned(weight), Position(2, {}, "digest"))
    while (outcome := saver.poll()) is None:
        pass
    seen["second"] = (outcome, saver.failed, latest(root), sorted(os.listdir(root)))
    gather(None)  # both ranks must have looked

    writer._write_share = write_share
    saver.start(owned(weight), Position(3, {}, "digest"))
    seen["third"] = (saver.wait(), saver.failed, latest(root), loaded(root / folder_name(3)))
    seen["idle"] = (saver.poll(), saver.wait(), saver.is_writing)
    saver.close()
    return seen


def test_all_ranks_commit_together_or_not_at_all(tmp_path: Path) -> None:
    for seen in run_on_ranks(2, save_while_rank_1_lags, tmp_path):
        assert seen["under way"] == (None, "", True)
        *ended, weight = seen["first"]
        assert ended == [Outcome(1, ""), False, folder_name(1)]
        assert torch.equal(weight, torch.arange(10.0)), "not what training held when it began"
        outcome, failed, pointer, files = seen["second"]
        assert (outcome.images, failed, pointer) == (2, True, folder_name(1))
        assert "rank 1: " in outcome.problem
        assert "No space left on device" in outcome.problem
        assert files == [folder_name(1), "latest"], "the failed attempt left something behind"
        *ended, weight = seen["third"]
        assert ended == [Outcome(3, ""), False, folder_name(3)]
        assert torch.equal(weight, torch.full((10,), 7.0))
        assert seen["idle"] == (None, None, False)


# --- in the loop


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_only_after_64_images() -> None:
    """The first checkpoint, due after 40 images, is not written unless training continues."""
    reached, update_d = threading.Event(), iteration.update_d

    def train(gan: Any, real: Any, images: int, **named: Any) -> Any:
        if images >= 64:
            reached.set()
        return update_d(gan, real, images, **named)

    def wait_then_write(*arguments: Any) -> Any:
        assert reached.wait(PATIENCE_SECONDS), "training stood still"
        return write_share(*arguments)

    iteration.update_d, writer._write_share = train, wait_then_write


def write_only_when_waited_for() -> None:
    """A checkpoint is written only while the loop waits for it; each write takes 5 s.

    The seconds are those of a clock that only a write advances.
    """
    wait, waits, stands, now = Saver.wait, [False], threading.Event(), [0.0]

    def wait_and_say(self: Saver) -> Any:
        waits[0] = True
        outcome = wait(self)
        waits[0] = False
        stands.clear()
        return outcome

    def monotonic() -> float:
        """The time; a waiting loop reads the clock first, and only then the write ends."""
        seconds = now[0]
        if waits[0]:
            stands.set()
        return seconds

    def slow(*arguments: Any) -> Any:
        assert stands.wait(PATIENCE_SECONDS), "nobody waited"
        now[0] += WRITE_SECONDS
        return write_share(*arguments)

    Saver.wait, writer._write_share = wait_and_say, slow
    checkpoint.saver.time = SimpleNamespace(monotonic=monotonic)  # type: ignore[assignment]


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    lengths = ("--total-kimg", "0.12", "--checkpoint-kimg", "0.04", "--keep-checkpoints", "9")
    data = write_images(tmp_path / "images")
    straight = tiny_arguments(data, tmp_path / "straight", *lengths, "--device", "cpu")
    held_up = tiny_arguments(data, tmp_path / "held-up", *lengths, "--device", "cpu")
    slow = tiny_arguments(data, tmp_path / "slow", *lengths, "--device", "cpu")
    assert run_command(straight) == 0
    assert run_command(held_up, write_only_after_64_images) == 0
    assert run_command(slow, write_only_when_waited_for) == 0
    stalls = {r["images"]: r["checkpoint_stall_s"] for r in records(tmp_path / "slow")}
    # The loop waits at 80 images for the save that began at 40, and logs the wait in the next
    # record. It waits for the other two at its end, after the last record.
    assert {images: stall for images, stall in stalls.items() if stall} == {88: WRITE_SECONDS}

    folders = [tmp_path / name / "checkpoints" for name in ("straight", "held-up", "slow")]
    manifests = [
        {path.name: checkpoint.read_manifest(path) for path in folder.glob("0*")}
        for folder in folders
    ]
    assert sorted(manifests[0]) == [folder_name(40), folder_name(80), folder_name(120)]
    assert manifests[1] == manifests[2] == manifests[0], "a checkpoint holds another state"


def test_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait, a failure and the recovery are logged; successful saves are not."""
    console, said = captured_console()
    reporter = Reporter(tmp_path, total_images=1000, console=console)
    saver = Saver(tmp_path / "checkpoints", Retention(9))
    gan = SimpleNamespace(owned_state=lambda: owned(torch.ones(3)), num_updates=dict)
    run: Any = SimpleNamespace(saver=saver, reporter=reporter, gan=gan, images=0, snapshots=None)
    run.config, run.catalog = SimpleNamespace(log_kimg=0.5), SimpleNamespace(digest="")

    def save_then_ask(images: int) -> tuple[bool, str]:
        """Whether a retry is due after a save, and the messages since the last call."""
        said.truncate(0)
        run.images = images
        saving.save_checkpoint(run)
        while saver.is_writing:
            pass
        return saving.retry_is_due(run), said.getvalue()

    assert save_then_ask(100) == (False, "")
    with monkeypatch.context() as broken:
        broken.setattr(writer, "save_tensors", no_space)
        for images in (200, 300):
            retry, text = save_then_ask(images)
            assert retry
            assert f"NO CHECKPOINT at 0.{images // 100} kimg: " in text
            assert "No space left on device" in text
            assert "--log-kimg=0.5" in text
    retry, text = save_then_ask(400)
    assert not retry
    assert "the checkpoint at 0.4 kimg is written: saving works again" in text

    monkeypatch.setattr(saving, "WAIT_WORTH_SAYING_SECONDS", 0.0)
    release, wait = threading.Event(), Saver.wait

    def release_and_wait(self: Saver) -> Any:
        release.set()
        outcome = wait(self)
        release.clear()
        return outcome

    def held_up(*arguments: Any) -> Any:
        assert release.wait(PATIENCE_SECONDS)
        return write_share(*arguments)

    monkeypatch.setattr(Saver, "wait", release_and_wait)
    monkeypatch.setattr(writer, "_write_share", held_up)
    run.images = 500
    saving.save_checkpoint(run)
    run.images = 600
    saving.save_checkpoint(run)
    assert "for one checkpoint to be written before the next, at 0.6 kimg" in said.getvalue()
    saving.await_checkpoint(run)
    assert latest(tmp_path / "checkpoints") == folder_name(600)


# --- which checkpoints stay


def kept(root: Path, retention: Retention, *images: int) -> list[int]:
    """The checkpoints that remain when these are saved one after the other."""
    for count in images:
        (root / folder_name(count)).mkdir(parents=True)
        (root / "latest").write_text(folder_name(count) + "\n")
        prune(root, retention)
    assert not list(root.glob(".staging*"))
    return sorted(int(path.name) for path in root.glob("0*"))


def test_the_newest_and_one_of_every_interval_stay(tmp_path: Path) -> None:
    plain, spaced = Retention(2), Retention(2, every_images=100)
    every_30 = range(30, 400, 30)
    assert kept(tmp_path / "a", plain, *every_30) == [360, 390]
    # The first at or after 100, 200 and 300; what lies before the first interval's end goes.
    assert kept(tmp_path / "b", spaced, *every_30) == [120, 210, 300, 360, 390]
    assert kept(tmp_path / "c", spaced, 100, 103, 200, 250, 260) == [100, 200, 250, 260]


def test_what_latest_names_is_never_removed(tmp_path: Path) -> None:
    """Newer checkpoints are left over after a run went back; they are deleted before `latest`."""
    for count in (10, 20, 30, 40):
        (tmp_path / folder_name(count)).mkdir()
    (tmp_path / "latest").write_text(folder_name(20) + "\n")
    prune(tmp_path, Retention(1))
    assert [path.name for path in tmp_path.glob("0*")] == [folder_name(20)]


def test_a_checkpoint_that_cannot_be_removed_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / folder_name(1)).mkdir()
    monkeypatch.setattr(Path, "rename", refuse)
    kept(tmp_path, Retention(1), 2)
    assert f"{folder_name(1)} cannot be removed" in caplog.text
    monkeypatch.undo()
    assert kept(tmp_path, Retention(1), 3) == [3]


def test_free_space_counts_what_will_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Checkpoints of 10 bytes; the newest 2 are kept, and one of every 100 images of 1,000."""
    usage = namedtuple("usage", "free")

    def check(free: int, retention: Retention) -> str:
        caplog.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free))
        check_free_space(tmp_path, 10, retention, 1000)
        return caplog.text

    spaced = Retention(2, every_images=100)
    for retention in (Retention(2), spaced):
        with pytest.raises(ConfigError, match="GiB free"):
            check(29, retention)
    assert check(30, Retention(2)) == ""
    assert "10 more checkpoints" in check(129, spaced)
    assert check(130, spaced) == ""
    for count in (100, 150):
        (tmp_path / "checkpoints" / folder_name(count)).mkdir(parents=True)
    assert check(10, Retention(2)) == ""  # the next one replaces one of the two
    with pytest.raises(ConfigError, match="GiB free"):
        check(19, spaced)  # 100 stays, so 150 is the only one that will be replaced
    assert "9 more checkpoints" in check(109, spaced)
    assert check(110, spaced) == ""
