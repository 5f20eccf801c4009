"""Exit codes of commands that read a run and write something."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE


def run_and_report(write: Callable[[], str], out: Path, *failures: type[Exception]) -> int:
    """Call `write`, which fills the folder `out`, print its message and return the exit code.

    `failures` map to EXIT_FAILED, ValueError and CheckpointError to EXIT_USAGE, and OSError (such
    as a full disk) to EXIT_FAILED.
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


def write_and_report(write: Callable[[], Path], what: str) -> int:
    """Call `write`, print the path that it returns, and return the exit code, without torch.

    RunFolderError and ConfigError map to EXIT_USAGE, and OSError (such as a full disk) to
    EXIT_FAILED. what: what is written, for the message.
    """
    from realness.trainer.config import ConfigError
    from realness.trainer.reporting import RunFolderError

    try:
        print(write())
    except (RunFolderError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"error: cannot write the {what}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK
