"""The launcher that started this process, and with `--max-restarts` the supervisor in between."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1
LAUNCHER_MODULE = "deepspeed.launcher.launch"
# Environment variable with the number of a file descriptor.
SUPERVISOR_PIPE = "REALNESS_SUPERVISOR_PIPE"
LAUNCHED = {"LOCAL_WORLD_SIZE", "LOCAL_SIZE", SUPERVISOR_PIPE}


class Launcher:
    """The launcher above this process, if any; when it dies, this process gets SIGTERM."""

    def __init__(self) -> None:
        self._pids = _launcher_pids()
        if self._pids:
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def has_died(self) -> bool:
        """Whether any of its processes is gone; the signal only covers the parent process."""
        return _launcher_pids() != self._pids


def beat_for_supervisor() -> None:
    """Tell the supervisor of `--max-restarts`, if any, that this process is alive."""
    if beats := os.environ.get(SUPERVISOR_PIPE):
        os.write(int(beats), b".")


def _launcher_pids() -> tuple[int, ...]:
    """Process ids of the launcher above this rank: none, the parent, or parent and grandparent.

    `deepspeed` is two processes: the command, and one `deepspeed.launcher.launch` per node.
    """
    if not LAUNCHED.intersection(os.environ):
        return ()
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace")
        status = Path(f"/proc/{parent}/stat").read_text()
    except OSError:
        return (parent,)
    if LAUNCHER_MODULE not in command:
        return (parent,)
    return (parent, int(status.rpartition(")")[2].split()[1]))
