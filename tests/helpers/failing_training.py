"""The training command with a rank 1 that raises in its fifth D update."""

import sys
from typing import Any

from realness.launch import train_ffhq
from realness.trainer.distributed.ranks import rank
from realness.trainer.updates import iteration
from realness.trainer.updates.step import update_d

updates = 0


def failing_update_d(*arguments: Any, **named: Any) -> Any:
    """`update_d`, until it fails."""
    global updates
    updates += 1
    if rank() == 1 and updates == 5:
        raise ValueError("the cat sat on the machine")
    return update_d(*arguments, **named)


if __name__ == "__main__":
    iteration.update_d = failing_update_d
    sys.exit(train_ffhq.main(sys.argv[1:]))
