"""How the commands end that read a run and write to a folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE


def write_and_tell(write: Callable[[], str], out: Path, *failures: type[Exception]) -> int:
    """Let `write` fill the folder `out`, and print what it says; returns the exit status.

    Its own `failures` are no fault of the user's, who else has given a wrong input or has a disk
    that takes no more.
    """
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    from realness.trainer.checkpoint import CheckpointError

    try:
        print(write())
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (ValueError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"error: cannot write to {out}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK
