"""The device of this process."""

from __future__ import annotations

import os

import torch

from realness.trainer.config import ConfigError
from realness.trainer.distributed.launcher import check_launcher


def pick_device(requested: str) -> torch.device:
    """The device of this process, `cuda:LOCAL_RANK` or `cpu`.

    Raises ConfigError without a GPU, or if the launcher's variables are not valid.
    """
    check_launcher()
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "--device=cuda, but torch finds no CUDA device; use --device=cpu, or check the driver "
            "(nvidia-smi) and that this torch is a CUDA build"
        )
    index, count = local_rank(), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            f"local rank {index} has no GPU: this node has {count}; start {count} ranks on it"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def local_rank() -> int:
    """This process's index on its node, as set by the launcher; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))
