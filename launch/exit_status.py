"""Exit codes of commands."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from realness.launch.standard_streams import tolerate_lost_output
from realness.trainer.distributed.exit_codes import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
)
from realness.trainer.distributed.launcher import is_leader


def run_as_script(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command's `main` on the process's arguments and exit with its code.

    Output that cannot be written changes neither.
    """
    tolerate_lost_output()
    sys.exit(until_interrupted(lambda: main(sys.argv[1:])))


def until_interrupted(call: Callable[[], int]) -> int:
    """The exit code that `call` returns, or EXIT_INTERRUPTED, without a traceback, on Ctrl-C."""
    try:
        return call()
    except KeyboardInterrupt:
        if is_leader():
            print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


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
