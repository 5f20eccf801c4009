"""Watchdog: if a rank fails, hangs or is lost, all ranks end within a time limit and name it.

Every rank reports to the store of the process group that it is alive, and where its main thread is.
Rank 0 reads all reports; the others read only the verdict, so the store's load grows linearly with
the number of ranks. A rank whose process ends is noticed at once (`presence.py`).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import NoReturn

import torch.distributed as dist

from realness.data_pipeline import DataError
from realness.trainer.config import ConfigError
from realness.trainer.distributed.exit_codes import EXIT_FAILED, RunFailed
from realness.trainer.distributed.heartbeats import Heartbeats, MainThread, Report
from realness.trainer.distributed.launcher import beat_for_supervisor
from realness.trainer.distributed.presence import Guest, Host
from realness.trainer.distributed.ranks import launched_as
from realness.trainer.distributed.store import (
    Verdict,
    open_store,
    publish,
    read_verdict,
    store_host,
)

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

EVERYONE = "everyone has joined"
# After a failure, closing threads, streams and groups may itself hang.
CLEANUP_SECONDS = 5.0
# Words in the error of a collective that failed because another rank ended.
PEER_ERRORS = ("gloo", "nccl", "connection", "timed out")


class Watch(AbstractContextManager["Watch"]):
    """In the block, this rank reports to the others, and ends if one of them fails or hangs.

    Entering it is the rendezvous: it returns when all ranks have met, and `store` is then one for
    their process group. Raises RunFailed if they do not meet within the timeout. The block ends
    when all ranks have come to its end. No-op in a single process.

    timeout_s: the process group's timeout of one collective. The run ends if a rank is silent for
    SILENCE_PART of it, or if no main thread has moved for STALL_PART of it, and within seconds if
    the process of a rank ends inside the block.
    """

    def __init__(self, timeout_s: float) -> None:
        self._rank, self._num_ranks = launched_as()
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
        self.store: dist.Store | None = None
        self._store: dist.Store | None = None
        self._presence: Host | Guest | None = None

    def __enter__(self) -> Watch:
        if self._num_ranks == 1:
            return self
        try:
            self.store = open_store("group", self._timeout_s)
            self._store = store = open_store("watch", STORE_PART * self._timeout_s, join=True)
            self._report(store)
            threading.Thread(target=self._guard, daemon=True).start()
            if self._rank == 0:
                self._presence = Host(store, self._num_ranks, self._rank_is_lost)
                self._presence.await_all(self._timeout_s)
                self.store.set(EVERYONE, "")
            else:
                threading.Thread(target=self._exchange, args=(store,), daemon=True).start()
                self._presence = Guest(store, self._rank, self._rank_0_is_lost)
                self.store.wait([EVERYONE], timedelta(seconds=self._timeout_s))
        except (RuntimeError, OSError) as error:
            if isinstance(error, RunFailed):
                raise
            raise RunFailed(
                f"rank {self._rank} cannot meet the others at {store_host()}:"
                f"{os.environ['MASTER_PORT']}: {error}"
            ) from error
        if self._rank == 0:
            threading.Thread(target=self._exchange, args=(store,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._presence is None or not (error is None or isinstance(error, Exception)):
            return
        if error is None and isinstance(self._presence, Host):
            # The store ends with this process, and the others still use it.
            self._presence.wait_for_goodbyes()
        self._over.set()
        self._presence.leave()

    @contextmanager
    def announcing(self) -> Iterator[None]:
        """Announce an exception that leaves the block to all ranks, which end within seconds.

        The rank that failed first prints its traceback, and all raise RunFailed naming it.
        ConfigError, RunFailed and DataError are announced and passed on: nobody prints them here.
        """
        try:
            yield
        except Exception as error:
            if self._store is None:
                raise
            if isinstance(error, (ConfigError, RunFailed)):
                # Usually all ranks raise the same; those that do not are told.
                with suppress(RuntimeError):
                    publish(self._store, Verdict(f"rank {self._rank}: {error}"))
                self._over.set()
                raise
            threading.Thread(target=self._end_cleanup, daemon=True).start()
            self._announce(self._store, error)
            raise

    def _announce(self, store: dist.Store, error: Exception) -> None:
        """Tell the others, and raise RunFailed naming the rank that failed first."""
        first = None
        if any(sign in str(error).lower() for sign in PEER_ERRORS):
            first = self._wait_for_verdict(store)
        own = Verdict(f"rank {self._rank} failed: {type(error).__name__}: {error}")
        first = first or publish(store, own)
        if first != own:
            _print_error(f"rank {self._rank} ends: {first.why}")
        elif not isinstance(error, DataError):
            trace = "".join(traceback.format_exception(error)).rstrip()
            _print_error(f"rank {self._rank} failed:\n{trace}")
        self._wait_for_readers()
        self._over.set()
        if not isinstance(error, DataError):
            raise RunFailed(first.why) from error

    def end_all(self, why: str, code: int) -> None:
        """End all ranks with this code; may be called in any thread, and does not return."""
        if self._store is not None:
            verdict = Verdict(f"rank {self._rank} {why}", code)
            # In a thread, because a store that does not answer blocks.
            telling = threading.Thread(target=publish, args=(self._store, verdict), daemon=True)
            telling.start()
            telling.join(CLEANUP_SECONDS)
        self._end(Verdict(why, code))

    def _rank_is_lost(self, number: int) -> None:
        """End the run on rank 0 because a process has ended, unless it had announced why."""
        place = self._heartbeats.place(number)
        why = f"rank {number} was killed or has crashed: its process has ended (it was in {place})"
        assert self._store is not None
        verdict = publish(self._store, Verdict(why))
        if not self._over.wait(CLEANUP_SECONDS):
            self._end(verdict)

    def _rank_0_is_lost(self) -> None:
        if not self._over.wait(CLEANUP_SECONDS):
            self._end(Verdict(f"rank 0 at {store_host()} has ended"))

    def _wait_for_verdict(self, store: dist.Store) -> Verdict | None:
        """The reason why this rank's collective failed; None if it cannot be determined."""
        patience = PATIENCE_OF_RANK_0 if self._rank == 0 else PATIENCE_OF_OTHERS
        deadline = time.monotonic() + patience * self._interval_s
        while time.monotonic() < deadline:
            try:
                if verdict := read_verdict(store):
                    return verdict
            except RuntimeError:
                return Verdict(f"rank 0 at {store_host()} has ended")
            time.sleep(self._interval_s / LOOKS_PER_INTERVAL)
        if self._rank != 0:
            return None
        lost = self._heartbeats.silent(time.monotonic(), MISSED_REPORTS * self._interval_s)
        return publish(store, Verdict(lost)) if lost else None

    def _exchange(self, store: dist.Store) -> None:
        """Report and read the verdict; blocks while the store's host does not answer."""
        while not self._over.wait(self._interval_s):
            try:
                self._report(store)
                beat_for_supervisor()
                if self._rank == 0:
                    self._diagnose(store)
                verdict = read_verdict(store)
            except RuntimeError:
                self._rank_0_is_lost()
                return
            self._contact = time.monotonic()
            if verdict and not self._over.wait(CLEANUP_SECONDS):
                self._end(verdict)

    def _guard(self) -> None:
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
                why = (
                    f"rank 0 at {store_host()} has not answered for {silent_s:.0f} s: its process "
                    "is stopped or lost, or the network is down"
                )
                self._end(Verdict(why))

    def _report(self, store: dist.Store) -> None:
        frame = sys._current_frames()[self._watched_thread]
        place, still_s = self._main_thread.locate(frame, time.monotonic())
        report = Report(next(self._beats), place, still_s)
        store.set(_key(self._rank), json.dumps(asdict(report)))

    def _diagnose(self, store: dist.Store) -> None:
        texts = store.multi_get([_key(number) for number in range(self._num_ranks)])
        self._heartbeats.record([Report(**json.loads(text)) for text in texts], time.monotonic())
        if problem := self._heartbeats.diagnose(time.monotonic()):
            publish(store, Verdict(problem))

    def _end(self, verdict: Verdict) -> None:
        """End the process, whose main thread waits in a collective that will never complete."""
        with self._ending:  # never released, so that only one thread prints
            _print_error(f"rank {self._rank} ends: {verdict.why}")
            self._wait_for_readers()
            os._exit(verdict.code)

    def _wait_for_readers(self) -> None:
        """Give the others time to read the verdict on rank 0, where the store ends with it."""
        if self._rank == 0 and self._presence is not None:
            time.sleep(WAIT_FOR_READERS * self._interval_s)

    def _end_cleanup(self) -> None:
        time.sleep(CLEANUP_SECONDS + CLEANUP_REPORTS * self._interval_s)
        os._exit(EXIT_FAILED)


def end_process(why: str, code: int) -> NoReturn:
    """Say why, and end this process, whatever its main thread does."""
    _print_error(f"rank {launched_as()[0]} ends: {why}")
    os._exit(code)


def _print_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _key(number: int) -> str:
    return f"rank/{number}"
