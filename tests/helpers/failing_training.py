"""The training command, whose rank 1 raises in its fifth D update."""

import sys
from typing import Any

from realness.launch import train_ffhq
from realness.trainer.distributed.ranks import rank
from realness.trainer.run import loop
from realness.trainer.updates.step import train_d

updates = 0


def failing_train_d(*arguments: Any) -> Any:
    """`train_d`, until it fails."""
    global updates
    updates += 1
    if rank() == 1 and updates == 5:
        raise ValueError("the cat sat on the machine")
    return train_d(*arguments)


if __name__ == "__main__":
    loop.train_d = failing_train_d
    sys.exit(train_ffhq.main(sys.argv[1:]))
