"""Restart of a rank after a failure, under any launcher.

With `--max-restarts` each rank is two processes: this supervisor, which the launcher started, and
its child, the training process. When one training process fails, all of them end
(`trainer/distributed/watchdog.py`) and each supervisor restarts its own. The new processes
rendezvous at the same address and resume from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from realness.trainer.config import ConfigError
from realness.trainer.distributed.exit_codes import EXIT_OK, EXIT_STOPPED, EXIT_USAGE, killed_by
from realness.trainer.distributed.launcher import SUPERVISOR_PIPE, Launcher
from realness.trainer.distributed.signals import StopSignals
from realness.trainer.storage.checkpoint_folder import checkpoint_root, read_latest

# Exit codes that a restart would not change.
FINAL = (EXIT_OK, EXIT_USAGE, EXIT_STOPPED)
PAUSE_SECONDS = 2.0
LOOK_SECONDS = 0.5
STORE_SECONDS = 30.0
# If the supervisor did not check for this part of the allowed silence, it was itself suspended.
STANDSTILL_PART = 1 / 2

log = logging.getLogger("realness.launch")


def is_supervised() -> bool:
    """Whether this process is the training process of a supervisor."""
    return SUPERVISOR_PIPE in os.environ


def supervise(command: Sequence[str], max_restarts: int, run_dir: Path, silence_s: float) -> int:
    """Run `command` as this rank's training process until it needs no restart; its exit code.

    max_restarts: consecutive failures without a new checkpoint in `run_dir` before giving up.
    silence_s: kill a training process whose heartbeat has stopped for this many seconds.
    Raises ConfigError under torchrun, which restarts by itself.
    """
    if "TORCHELASTIC_RESTART_COUNT" in os.environ:
        raise ConfigError("--max-restarts: under torchrun, give it to torchrun instead")
    stop, launcher = _Requests(), Launcher()
    root, failures = checkpoint_root(run_dir), 0
    with StopSignals(launcher, stop.add, stop.add):
        while not stop.asked:
            latest = read_latest(root)
            code = _Training(command, silence_s).wait(stop, launcher)
            if code in FINAL or stop.asked:
                return code
            failures = failures + 1 if read_latest(root) == latest else 1
            if failures > max_restarts:
                log.warning("giving up after %d restarts without a new checkpoint", max_restarts)
                return code
            log.warning(
                "training ended with code %d: restart %d of %d", code, failures, max_restarts
            )
            time.sleep(PAUSE_SECONDS)
            _wait_for_the_end_of_rank_0()
    return EXIT_STOPPED


class _Requests:
    """Requests to stop, as signals to pass on to the training process."""

    def __init__(self) -> None:
        self.asked: set[int] = set()
        self._waiting: SimpleQueue[int] = SimpleQueue()

    def add(self, number: int) -> None:
        """Ask the training process to stop with the signal `number`."""
        self.asked.add(number)
        self._waiting.put(number)

    def take(self) -> Iterator[int]:
        """The signals that were not passed on yet."""
        while not self._waiting.empty():
            yield self._waiting.get()


class _Training:
    """One training process, and the pipe through which it sends its heartbeat."""

    def __init__(self, command: Sequence[str], silence_s: float) -> None:
        self._beats, write_end = os.pipe()
        environment = {**os.environ, SUPERVISOR_PIPE: str(write_end)}
        self._process = subprocess.Popen(command, env=environment, pass_fds=(write_end,))
        os.close(write_end)
        self._silence_s = silence_s

    def wait(self, stop: _Requests, launcher: Launcher) -> int:
        """Wait for the process and return its exit code.

        Passes on requests to stop, and kills the process if its heartbeat stops. A process that
        such a signal ends had not begun, so its code is EXIT_STOPPED too.
        """
        heard, looked = 0.0, time.monotonic()
        while self._process.poll() is None:
            if self._beats_within(LOOK_SECONDS):
                heard = time.monotonic()
            now = time.monotonic()
            if now - looked > STANDSTILL_PART * self._silence_s:
                heard = now if heard else 0.0
            looked = now
            if heard and now - heard > self._silence_s:
                log.warning("no sign of life for %.0f s: killing the process", now - heard)
                self._process.kill()
            if not stop.asked and launcher.has_died():
                stop.add(signal.SIGTERM)
            for number in stop.take():
                self._process.send_signal(number)
        os.close(self._beats)
        code = self._process.returncode
        if -code in stop.asked:
            return EXIT_STOPPED
        return code if code >= 0 else killed_by(-code)

    def _beats_within(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._beats], [], [], seconds)
        if ready and os.read(self._beats, 4096):
            return True
        if ready:  # the other end is closed: the process is ending
            time.sleep(seconds)
        return False


def _wait_for_the_end_of_rank_0() -> None:
    """Wait, up to STORE_SECONDS, until the failed attempt's store is gone.

    A rank that joins the old store instead of the new one costs all ranks another attempt.
    """
    if os.environ.get("RANK", "0") == "0":
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + STORE_SECONDS
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            socket.create_connection(address, timeout=LOOK_SECONDS).close()
            time.sleep(LOOK_SECONDS)
