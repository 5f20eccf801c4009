"""Watchdog: if a rank fails, hangs or is lost, all ranks end within a time limit and name it.

Every rank reports to the store of the process group that it is alive, and where its main thread is.
Rank 0 reads all reports; the others read only the verdict, so the store's load grows linearly with
the number of ranks.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
import traceback
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import NoReturn

import torch.distributed as dist

from realness.data_pipeline import DataError
from realness.trainer.config import ConfigError
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.exit_codes import EXIT_FAILED, RunFailed
from realness.trainer.distributed.heartbeats import Heartbeats, MainThread, Report
from realness.trainer.distributed.launcher import beat_for_supervisor
from realness.trainer.distributed.ranks import rank, world_size

# As fractions of the process group's timeout of one collective:
SILENCE_PART = 1 / 2  # a rank without a heartbeat for this long is declared lost
STALL_PART = 0.9  # a run without movement of any main thread ends, just before the collective fails
STORE_PART = 2.0  # the store times out well after all these verdicts
REPORT_PART = 1 / 20  # interval between reports, so that at least ten are missed before a verdict
MOST_REPORT_SECONDS = 2.0
# If this process did not check for this fraction of the allowed silence, it was itself suspended.
STANDSTILL_PART = 1 / 2

# As numbers of reporting intervals:
PATIENCE_OF_RANK_0 = 3  # how long rank 0 waits for a verdict after a collective failed
PATIENCE_OF_OTHERS = 5  # the others wait longer, because rank 0 decides and they read its verdict
MISSED_REPORTS = 2  # after a failed collective, a rank that missed this many reports is lost
WAIT_FOR_READERS = 2  # enough for every rank to read the verdict once
CLEANUP_REPORTS = 6  # more than any rank's patience and wait for readers, which come first

LOOKS_PER_INTERVAL = 4  # checks per interval while waiting for a verdict

VERDICT = "verdict"
# After a failure, closing threads, streams and groups may itself hang.
CLEANUP_SECONDS = 5.0
# Words in the error of a collective that failed because another rank ended.
PEER_ERRORS = ("gloo", "nccl", "connection", "timed out")


class Watch(AbstractContextManager["Watch"]):
    """In the block, this rank reports to the others, and ends if one of them fails or hangs.

    timeout_s: the process group's timeout of one collective. The run ends if a rank is silent for
    SILENCE_PART of it, or if no main thread has moved for STALL_PART of it.

    An exception that leaves the block is announced to all ranks, which end within seconds: the rank
    that failed first prints its traceback, and all raise RunFailed naming it. ConfigError and
    RunFailed, which all ranks raise alike, are passed on without an announcement; DataError is
    announced and passed on. No-op in a single process.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._silence_s = SILENCE_PART * timeout_s
        self._interval_s = min(MOST_REPORT_SECONDS, REPORT_PART * timeout_s)
        self._heartbeats = Heartbeats(self._silence_s, STALL_PART * timeout_s)
        self._watched_thread = threading.get_ident()
        self._main_thread = MainThread()
        self._beats = itertools.count()
        self._contact = time.monotonic()
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._store: dist.Store | None = None

    def __enter__(self) -> Watch:
        if world_size() == 1:
            return self
        self._store = _connect(timedelta(seconds=STORE_PART * self._timeout_s))
        self._report(self._store)
        gather(None)  # from here on every rank has reported
        for task in (self._exchange, self._guard):
            threading.Thread(target=task, args=(self._store,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._store is None or isinstance(error, (ConfigError, RunFailed)):
            self._over.set()
        elif error is None:
            gather(None)  # rank 0 must not close the store while the others use it
            self._over.set()
        elif isinstance(error, Exception):
            threading.Thread(target=self._end_cleanup, daemon=True).start()
            self._announce(self._store, error)

    def _announce(self, store: dist.Store, error: Exception) -> None:
        """Tell the others, and raise RunFailed naming the rank that failed first."""
        first = ""
        if any(sign in str(error).lower() for sign in PEER_ERRORS):
            first = self._wait_for_verdict(store)
        own = f"rank {rank()} failed: {type(error).__name__}: {error}"
        first = first or _publish_verdict(store, own)
        if first != own:
            _print_error(f"rank {rank()} ends: {first}")
        elif not isinstance(error, DataError):
            trace = "".join(traceback.format_exception(error)).rstrip()
            _print_error(f"rank {rank()} failed:\n{trace}")
        self._wait_for_readers()
        self._over.set()
        if not isinstance(error, DataError):
            raise RunFailed(first) from error

    def _wait_for_verdict(self, store: dist.Store) -> str:
        """The reason why this rank's collective failed; empty if it cannot be determined."""
        patience = PATIENCE_OF_RANK_0 if rank() == 0 else PATIENCE_OF_OTHERS
        deadline = time.monotonic() + patience * self._interval_s
        while time.monotonic() < deadline:
            try:
                if store.check([VERDICT]):
                    return store.get(VERDICT).decode()
            except RuntimeError:
                return f"rank 0 at {_host()} has ended"
            time.sleep(self._interval_s / LOOKS_PER_INTERVAL)
        if rank() != 0:
            return ""
        lost = self._heartbeats.silent(time.monotonic(), MISSED_REPORTS * self._interval_s)
        return _publish_verdict(store, lost) if lost else ""

    def _exchange(self, store: dist.Store) -> None:
        """Report and read the verdict; blocks while the store's host does not answer."""
        while not self._over.wait(self._interval_s):
            try:
                self._report(store)
                beat_for_supervisor()
                if rank() == 0:
                    self._diagnose(store)
                verdict = store.get(VERDICT).decode() if store.check([VERDICT]) else ""
            except RuntimeError:
                if not self._over.wait(CLEANUP_SECONDS):
                    self._end(f"rank 0 at {_host()} has ended")
                return
            self._contact = time.monotonic()
            if verdict and not self._over.wait(CLEANUP_SECONDS):
                self._end(verdict)

    def _guard(self, store: dist.Store) -> None:
        """End this rank when the store no longer answers."""
        looked = time.monotonic()
        while not self._over.wait(self._interval_s):
            now = time.monotonic()
            if now - looked > STANDSTILL_PART * self._silence_s:
                # This process itself was suspended (a paused job), so no rank is at fault.
                self._contact = now
                self._heartbeats.reset_silence(now)
            looked, silent_s = now, now - self._contact
            if silent_s > self._silence_s:
                self._end(
                    f"rank 0 at {_host()} has not answered for {silent_s:.0f} s: its process is "
                    "stopped or lost, or the network is down"
                )

    def _report(self, store: dist.Store) -> None:
        frame = sys._current_frames()[self._watched_thread]
        place, still_s = self._main_thread.locate(frame, time.monotonic())
        report = Report(next(self._beats), place, still_s)
        store.set(_key(rank()), json.dumps(asdict(report)))

    def _diagnose(self, store: dist.Store) -> None:
        texts = store.multi_get([_key(number) for number in range(world_size())])
        self._heartbeats.record([Report(**json.loads(text)) for text in texts], time.monotonic())
        if problem := self._heartbeats.diagnose(time.monotonic()):
            _publish_verdict(store, problem)

    def _end(self, why: str) -> None:
        """End the process, whose main thread waits in a collective that will never complete."""
        with self._ending:  # never released, so that only one thread prints
            _print_error(f"rank {rank()} ends: {why}")
            self._wait_for_readers()
            os._exit(EXIT_FAILED)

    def _wait_for_readers(self) -> None:
        """Give the others time to read the verdict on rank 0, where the store ends with it."""
        if rank() == 0:
            time.sleep(WAIT_FOR_READERS * self._interval_s)

    def _end_cleanup(self) -> None:
        time.sleep(CLEANUP_SECONDS + CLEANUP_REPORTS * self._interval_s)
        os._exit(EXIT_FAILED)


def _connect(timeout: timedelta) -> dist.Store:
    """A separate connection to the group's store: requests on one connection are serialised."""
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout
    )
    # torchrun keeps its store when it restarts the ranks.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"realness/{attempt}", store)


def _publish_verdict(store: dist.Store, problem: str) -> str:
    """Set `problem` as the verdict unless there is one already; returns the actual verdict."""
    return store.compare_set(VERDICT, "", problem).decode()


def end_process(why: str, code: int) -> NoReturn:
    """Say why, and end this process, whatever its main thread does."""
    _print_error(f"rank {rank()} ends: {why}")
    os._exit(code)


def _print_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _key(number: int) -> str:
    return f"rank/{number}"


def _host() -> str:
    return os.environ["MASTER_ADDR"]
