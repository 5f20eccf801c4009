"""Checkpoints: between any numbers of ranks, kills at any time, detection of damage."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from realness.trainer import checkpoint
from realness.trainer.checkpoint import CheckpointError, Position, writer
from realness.trainer.checkpoint.fragments import Fragment, replicated, share_of
from realness.trainer.distributed.ranks import rank, world_size
from tests.helpers.ranks import RankDied, run_on_ranks

SHAPES = {"a": (7, 3), "scalar": (), "b": (1000,)}


def tensors(images: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(images)
    values = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {**values, "count": torch.tensor(images)}


def owned(images: int) -> list[Fragment]:
    return [share_of(item, rank(), world_size()) for item in replicated("net", tensors(images))]


def save(root: Path, images: int, keep: int = 3) -> None:
    checkpoint.save(root, owned(images), Position(images, {"G": 5}, "digest"), keep=keep)


def restore(root: Path) -> tuple[int | None, bool, list[str]]:
    """(images of the restored checkpoint, whether the tensors match it, messages)."""
    messages: list[str] = []
    target = {name: torch.zeros_like(value) for name, value in tensors(0).items()}
    position = checkpoint.restore(root, replicated("net", target), messages.append)
    if position is None:
        return None, False, messages
    assert position.num_updates == {"G": 5}
    expected = tensors(position.images)
    return position.images, all(torch.equal(target[k], expected[k]) for k in expected), messages


@pytest.mark.slow
@pytest.mark.parametrize(("writers", "readers"), [(3, 2), (2, 4)])
def test_any_number_of_ranks_reads_what_any_other_wrote(
    tmp_path: Path, writers: int, readers: int
) -> None:
    run_on_ranks(writers, save, tmp_path, 100)
    assert len(list(tmp_path.glob("*/rank-*.safetensors"))) == writers
    assert run_on_ranks(readers, restore, tmp_path) == [(100, True, [])] * readers


def test_a_stretch_that_crosses_files_is_put_together(tmp_path: Path) -> None:
    run_on_ranks(3, save, tmp_path, 7)
    part = torch.zeros(500)
    folder = tmp_path / f"{7:012d}"
    manifest = checkpoint.read_manifest(folder)
    checkpoint.read_tensors(folder, manifest, [Fragment("net/b", 250, part, 1000)])
    assert torch.equal(part, tensors(7)["b"][250:750])


def test_the_newest_are_kept_and_nothing_is_staged(tmp_path: Path) -> None:
    for images in (1, 2, 3, 4):
        save(tmp_path, images, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{3:012d}", f"{4:012d}", "latest"]
    assert (tmp_path / "latest").read_text().strip() == f"{4:012d}"


def test_shares_are_as_readable_as_other_new_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save(tmp_path, 1)
    finally:
        os.umask(before)
    (share,) = tmp_path.glob("*/rank-*.safetensors")
    assert share.stat().st_mode & 0o777 == 0o644


def test_an_empty_folder_is_a_new_run(tmp_path: Path) -> None:
    assert restore(tmp_path / "checkpoints") == (None, False, [])


def kill_during(root: Path, function: str, before: bool, victim: int) -> None:
    """Die by SIGKILL at `function` of the second save (on one rank)."""
    save(root, 1)
    original = getattr(writer, function)

    def deadly(*arguments: Any) -> Any:
        if before and rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments)
        if rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(writer, function, deadly)
    save(root, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "before", "victim", "survivor"),
    [
        ("_write_share", True, 1, 1),  # one rank never writes its share
        ("file_entry", True, 0, 1),  # files are written, but no manifest is
        ("_commit", True, 0, 1),  # all shares exist, but are not committed
        ("_commit", False, 0, 2),  # committed, but the other ranks are not told
    ],
)
def test_sigkill_while_saving_leaves_a_loadable_checkpoint(
    tmp_path: Path, function: str, before: bool, victim: int, survivor: int
) -> None:
    with pytest.raises(RankDied):
        run_on_ranks(2, kill_during, tmp_path, function, before, victim)
    assert restore(tmp_path) == (survivor, True, [])
    save(tmp_path, 3)
    assert not list(tmp_path.glob(".staging-*"))


def kill_before_pointer(root: Path) -> None:
    """Die between renaming the folder and renaming the pointer."""
    save(root, 1)
    original = os.replace

    def deadly(source: Any, target: Any) -> None:
        if Path(target).name == "latest":
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)

    os.replace = deadly
    save(root, 2)


@pytest.mark.slow
def test_sigkill_before_the_pointer_moves_resumes_from_the_previous(tmp_path: Path) -> None:
    with pytest.raises(RankDied):
        run_on_ranks(1, kill_before_pointer, tmp_path)
    assert restore(tmp_path) == (1, True, [])
    save(tmp_path, 3)
    assert not list(tmp_path.glob(".*")), "the next save leaves nothing of the killed one"


def damage_byte(folder: Path) -> None:
    file = folder / "rank-00000-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def cut_short(folder: Path) -> None:
    file = folder / "rank-00000-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def remove_file(folder: Path) -> None:
    (folder / "rank-00000-of-00001.safetensors").unlink()


def edit_manifest(folder: Path) -> None:
    path = folder / "checkpoint.json"
    manifest = json.loads(path.read_text())
    manifest["images"] += 1
    path.write_text(json.dumps(manifest))


def empty_manifest(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("")


@pytest.mark.parametrize(
    "damage", [damage_byte, cut_short, remove_file, edit_manifest, empty_manifest]
)
def test_a_damaged_checkpoint_is_passed_over_loudly(tmp_path: Path, damage: Any) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / f"{2:012d}")
    images, equal, messages = restore(tmp_path)
    assert (images, equal, len(messages)) == (1, True, 1)
    assert f"{2:012d}" in messages[0]
    damage(tmp_path / f"{1:012d}")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        restore(tmp_path)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    wrong = [Fragment.whole("net/a", torch.zeros(7, 4))]
    with pytest.raises(CheckpointError, match=r"'net/a' is 21 x torch.float32.* 28 x"):
        checkpoint.restore(tmp_path, wrong, print)
    with pytest.raises(CheckpointError, match="no tensor 'net/z'"):
        checkpoint.restore(tmp_path, [Fragment.whole("net/z", torch.zeros(1))], print)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.witness,))


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path: Path) -> None:
    """Every file of a checkpoint is replaced by a pickle that would leave a mark when loaded."""
    witness = tmp_path / "exploded"
    save(tmp_path / "run", 1)
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file() and file.name != "latest":
            file.write_bytes(pickle.dumps(Bomb(witness)))
    with pytest.raises(CheckpointError):
        restore(tmp_path / "run")
    assert not witness.exists()


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save_tensors", no_space)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert restore(tmp_path)[:2] == (1, True)
