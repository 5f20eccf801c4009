"""Defaults of a preset that depend on the machine, where neither a flag nor a file decides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realness.trainer.config.files import read_fields
from realness.trainer.storage.run_folder import CONFIG_FILE

log = logging.getLogger("realness.trainer")

MIXED_PRESETS = (
    "ffhq1024-r3gan",
    "ffhq1024-realness-dcgan",
    "ffhq1024-realness-stylegan2",
    "ffhq1024-stylegan2",
    "small-1024",
)
"""Presets that use tensor cores: at 1024x1024 in float32 a GPU is several times slower."""


def machine_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The precision of a preset at 1024x1024: bf16 on CUDA, else that of the preset.

    A run that exists keeps its own precision. fields: all fields by flag names.
    """
    if fields["preset"] not in MIXED_PRESETS or fields["r1"] != "exact":
        return {}
    recorded = Path(fields["run_dir"]) / CONFIG_FILE
    if fields["run_dir"] and recorded.exists():
        before = read_fields(recorded).get("precision")
        return {} if before is None else {"precision": before}
    if not _has_cuda(fields["device"]):
        return {}
    log.info("--precision bf16, because this preset runs on CUDA; --precision fp32 for float32")
    return {"precision": "bf16"}


def _has_cuda(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available()
