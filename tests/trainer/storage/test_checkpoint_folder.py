"""The layout of the checkpoint folder, against names and files written by hand."""

from __future__ import annotations

from pathlib import Path

from realness.trainer.storage.checkpoint_folder import (
    by_preference,
    checkpoint_root,
    folder_name,
    is_being_written,
    list_checkpoints,
    new_staging,
    read_latest,
    remove_checkpoint,
    share_name,
    write_latest,
)


def test_names_are_those_of_runs_on_disk() -> None:
    assert checkpoint_root(Path("run")) == Path("run/checkpoints")
    assert folder_name(32) == "000000000032"
    assert share_name(1, 2) == "rank-00001-of-00002.safetensors"


def test_the_latest_is_tried_first_then_older_then_newer(tmp_path: Path) -> None:
    assert (list_checkpoints(tmp_path / "missing"), read_latest(tmp_path / "missing")) == ([], "")
    for images in (8, 100, 24, 16):
        (tmp_path / folder_name(images)).mkdir()
    (tmp_path / "7").write_text("a file, not a checkpoint")
    (tmp_path / "notes").mkdir()
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [8, 16, 24, 100]
    assert [int(name) for name in by_preference(tmp_path)] == [100, 24, 16, 8]
    write_latest(tmp_path, folder_name(24))
    assert (tmp_path / "latest").read_text() == "000000000024\n"
    assert [int(name) for name in by_preference(tmp_path)] == [24, 16, 8, 100]
    write_latest(tmp_path, folder_name(9))  # removed by hand, say
    assert [int(name) for name in by_preference(tmp_path)] == [100, 24, 16, 8]


def test_staging_starts_empty_and_is_told_from_removing(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    staging = new_staging(root, folder_name(8))
    assert is_being_written(root)
    (staging / "half").write_text("x")
    (root / ".latest.1.tmp").write_text("x")
    assert list(new_staging(root, folder_name(8)).iterdir()) == []
    assert [path.name for path in root.iterdir()] == [".staging-000000000008"]
    staging.rename(root / folder_name(8))
    (root / ".staging-removed-000000000004").mkdir()
    assert not is_being_written(root)
    remove_checkpoint(root / folder_name(8))
    assert list_checkpoints(root) == []
