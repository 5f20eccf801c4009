"""TensorBoard events under `tensorboard/` in the run folder; the step axis counts images."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realness.trainer.reporting.stats import METRIC_PREFIX

TENSORBOARD_FOLDER = "tensorboard"
RETRY_SECONDS = 60.0

# TensorBoard shows tags that share a prefix in one section.
_TAGS = {
    "loss_d": "loss/D",
    "loss_g": "loss/G",
    "score_real": "score/real",
    "score_fake": "score/fake",
    "r1": "penalty/R1",
    "augment_p": "augmentation/p",
    "r_t": "augmentation/r_t",
    "lr_d": "learning_rate/D",
    "lr_g": "learning_rate/G",
    "beta2": "schedule/beta2",
    "r1_gamma": "schedule/R1_gamma",
    "r2_gamma": "schedule/R2_gamma",
    "ema_halflife_kimg": "schedule/EMA_halflife_kimg",
    "img_per_s": "speed/img_per_s",
    "data_wait_percent": "speed/data_wait_percent",
    "core_wait_percent": "speed/core_wait_percent",
    "checkpoint_stall_s": "speed/checkpoint_stall_s",
    "memory_gib": "memory/host_gib",
    "gpu_memory_gib": "memory/gpu_gib",
}
# The step axis itself, and values that only the progress line needs.
_LEFT_OUT = {"images", "kimg", "eta_s"}


def tag(key: str) -> str:
    """TensorBoard's tag for a record's key: `loss_d` -> `loss/D`, `metric_SWD` -> `metrics/SWD`.

    Unknown keys get the prefix `other/`.
    """
    if key in _TAGS:
        return _TAGS[key]
    if key.startswith(METRIC_PREFIX):
        return f"metrics/{key.removeprefix(METRIC_PREFIX)}"
    return f"gradient/{key}" if key.startswith("grad_norm") else f"other/{key}"


class EventLog:
    """Writes the numbers of each record as scalars.

    TensorBoard's writer does not survive a failed write, so after an OSError it is discarded and a
    new one opened, at most once per RETRY_SECONDS; the records in between are not written.
    """

    def __init__(self, folder: Path, start_images: int = 0) -> None:
        """Raises ImportError if tensorboard is not installed."""
        from torch.utils.tensorboard import SummaryWriter  # seconds to import: only when needed

        self._open = functools.partial(SummaryWriter, str(folder))
        self._failed_at = -math.inf
        # Hides what a killed run logged past the checkpoint from which this run resumes.
        self._purge_step = start_images + 1 if start_images else None
        self._writer: Any = None

    def append(self, record: Mapping[str, float]) -> None:
        """Add one record at step `record["images"]`. Raises OSError if the disk is full."""
        if self._writer is None:
            if time.monotonic() - self._failed_at < RETRY_SECONDS:
                raise OSError(None, "still waiting before the next attempt")
            self._failed_at = time.monotonic()
            self._writer, self._purge_step = self._open(purge_step=self._purge_step), None
        try:
            for key, value in record.items():
                if key not in _LEFT_OUT:
                    self._writer.add_scalar(tag(key), value, int(record["images"]))
            # Otherwise a kill would lose the records in the writer's queue.
            self._writer.flush()
        except OSError:
            self._writer, self._failed_at = None, time.monotonic()
            raise

    def close(self) -> None:
        """Write queued records and close. Raises OSError if the disk is full."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
