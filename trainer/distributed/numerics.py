"""torch's global switches for precision and determinism on CUDA."""

from __future__ import annotations

import os

import torch

from realness.trainer.config import EngineConfig


def set_numerics(config: EngineConfig) -> None:
    """Set TF32 and the choice of algorithms; call before anything runs on a device.

    Unless `deterministic`, cuDNN benchmarks its algorithms for each new shape and uses the fastest,
    which may differ between runs, or add in no fixed order.
    """
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    if config.deterministic:
        # cuBLAS needs this for determinism, and reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
