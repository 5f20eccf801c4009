"""Writing a checkpoint: every rank writes its share, then rank 0 commits it by a rename."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from realness.trainer.checkpoint.format import (
    FORMAT,
    CheckpointError,
    Position,
    file_entry,
    text_checksum,
)
from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.checkpoint.retention import Retention, prune
from realness.trainer.distributed.collectives import Result, gather, on_all_ranks
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.storage.checkpoint_folder import (
    MANIFEST,
    folder_name,
    new_staging,
    remove_checkpoint,
    share_name,
    staging_path,
    write_latest,
)
from realness.trainer.storage.files import sync, sync_folder, write_text
from realness.trainer.storage.weights import save_tensors


def write(
    root: Path,
    fragments: list[Fragment],
    position: Position,
    retention: Retention,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write a checkpoint; collective over `group` (default: all ranks). Returns its folder.

    `fragments`, in host memory, are the stretches this rank owns; those of all ranks together must
    tile every tensor. `latest` moves when all ranks have written; then `retention` is applied.
    Raises CheckpointError on every rank if any rank fails: the attempt leaves no files, and
    `latest` still names the previous checkpoint.
    """

    def all_ranks(what: str, action: Callable[[], Result]) -> Result:
        what = f"could not {what} the checkpoint: "
        return on_all_ranks(action, failure=CheckpointError, what=what, group=group)

    name = folder_name(position.images)
    staging, final = staging_path(root, name), root / name
    try:
        all_ranks("prepare", lambda: new_staging(root, name) if rank() == 0 else None)
        written = gather(all_ranks("write", lambda: _write_share(staging, fragments)), group)
        manifest = {
            "format": FORMAT,
            "images": position.images,
            "num_updates": position.num_updates,
            "data_digest": position.data_digest,
            "files": {name: entry for name, entry, _ in written},
            "tensors": _tensor_table([table for _, _, table in written]),
        }
        all_ranks("commit", lambda: _commit(staging, final, manifest) if rank() == 0 else None)
    except CheckpointError:
        if rank() == 0:
            # On a full disk, a partial checkpoint would take the space that the records need.
            shutil.rmtree(staging, ignore_errors=True)
        raise
    if rank() == 0:
        prune(root, retention)
    return final


def _write_share(staging: Path, fragments: list[Fragment]) -> tuple[str, dict[str, int], Any]:
    """Write this rank's file; returns (file name, {size, crc32}, {tensor: (dtype, numel, ...)})."""
    name = share_name(rank(), world_size())
    owned = [fragment for fragment in fragments if fragment.data.numel()]
    save_tensors(staging / name, {item.name: item.data for item in owned}, {})
    sync(staging / name)
    table = {
        item.name: (str(item.data.dtype), item.numel, (name, item.offset, item.data.numel()))
        for item in owned
    }
    return name, file_entry(staging / name), table


def _tensor_table(tables: list[dict[str, Any]]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for table in tables:
        for name, (dtype, numel, stretch) in table.items():
            entry = tensors.setdefault(name, {"dtype": dtype, "numel": numel, "stretches": []})
            entry["stretches"].append(stretch)
    return tensors


def _commit(staging: Path, final: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps({**manifest, "checksum": text_checksum(manifest)})
    write_text(staging / MANIFEST, text)
    sync_folder(staging)
    if final.exists():
        remove_checkpoint(final)
    staging.rename(final)
    sync_folder(final.parent)
    write_latest(final.parent, final.name)
