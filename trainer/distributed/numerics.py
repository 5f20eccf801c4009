"""How this process computes on CUDA: what torch keeps as global switches."""

from __future__ import annotations

import os

import torch

from realness.trainer.config import EngineConfig


def set_numerics(config: EngineConfig) -> None:
    """Set TF32 and the choice of algorithms, before anything runs on a device.

    Unless `deterministic`, cuDNN times its algorithms for each new shape and takes the fastest,
    which may be another one next time, or one that adds in no fixed order.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    if config.deterministic:
        # What cuBLAS asks for, and reads when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
