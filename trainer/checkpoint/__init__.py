"""Sharded checkpoints that any number of ranks can read, written while training continues.

`trainer/storage/checkpoint_folder.py` describes the files. Every rank writes its own share. A
folder is filled under a staging name, synced to disk and renamed when all ranks have written; it is
renamed again before it is removed. A folder with a final name is therefore always complete. Tensors
are stored as safetensors and the rest as JSON: nothing is unpickled. (torch.distributed.checkpoint
stores its metadata as a pickle, hence this format.)
"""

from realness.trainer.checkpoint.format import (
    CheckpointError,
    CheckpointRemoved,
    Position,
    read_manifest,
)
from realness.trainer.checkpoint.reader import load, noticing_removal, read_tensors, restore
from realness.trainer.checkpoint.retention import Retention
from realness.trainer.checkpoint.saver import Outcome, Saver, save

__all__ = [
    "CheckpointError",
    "CheckpointRemoved",
    "Outcome",
    "Position",
    "Retention",
    "Saver",
    "load",
    "noticing_removal",
    "read_manifest",
    "read_tensors",
    "restore",
    "save",
]
