"""The launcher that started this process, and with `--max-restarts` the supervisor in between."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from realness.trainer.config.base import ConfigError

PR_SET_PDEATHSIG = 1
LAUNCHER_MODULE = "deepspeed.launcher.launch"
# Environment variable with the number of a file descriptor.
SUPERVISOR_PIPE = "REALNESS_SUPERVISOR_PIPE"
LAUNCHED = {"LOCAL_WORLD_SIZE", "LOCAL_SIZE", SUPERVISOR_PIPE}


def is_leader() -> bool:
    """Whether this process prints for all ranks, before it has joined them.

    So does one whose environment does not describe a rank, to say so.
    """
    rank = os.environ.get("RANK", "0")
    return rank == "0" or not rank.isdecimal() or "WORLD_SIZE" not in os.environ


def check_launcher() -> None:
    """Check the variables of torch's launchers. Raises ConfigError that names the wrong one."""
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if (text := os.environ.get(name)) is not None:
            if not text.strip().isdecimal():
                raise ConfigError(f"{name}={text!r} in the environment is not a number; {_REMEDY}")
            numbers[name] = int(text)
    rank, world_size = numbers.get("RANK"), numbers.get("WORLD_SIZE", 1)
    if rank is None:
        if world_size > 1:
            raise ConfigError(f"WORLD_SIZE={world_size} is set without RANK; {_REMEDY}")
        return
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(f"RANK={rank} is set without {name}; {_REMEDY}")
    if rank >= world_size:
        raise ConfigError(f"RANK={rank} is not below WORLD_SIZE={world_size}; {_REMEDY}")


_REMEDY = "start the ranks with deepspeed or torchrun, or unset these variables for a single rank"


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
