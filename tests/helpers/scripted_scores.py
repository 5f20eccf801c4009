"""The training command with scores from a script instead of measurements: for tests."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from realness.launch import train_ffhq
from realness.trainer.checkpoint import retention
from realness.trainer.distributed.ranks import rank
from realness.trainer.metrics import Evaluator, Score

SCRIPT = {8: 5.0, 16: 3.0, 24: 4.0, 32: 1.0, 40: 2.0, 48: 2.0, 56: 3.0, 64: 9.0}
"""SWDs by images seen. The best is that of 32; with patience 3, a run ends at 56."""


def scripted(self: Evaluator, generator: Any) -> list[Score]:
    """SCRIPT's score on rank 0; rank 1 sees better and better ones."""
    images, count = generator.images_seen, self._plan.num_patch_images
    return [Score("SWD", SCRIPT[images] if rank() == 0 else -images, count, count)]


def killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def script_scores() -> None:
    """Replace the measurements."""
    Evaluator.scores = scripted


def kill_at_removal() -> None:
    """Also kill the process where it would remove its first checkpoint."""
    script_scores()
    retention.remove_checkpoint = killed


if __name__ == "__main__":
    script_scores()
    sys.exit(train_ffhq.main(sys.argv[1:]))
