"""Signals that ask a process to stop, received by a thread while the main thread is busy."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType

from realness.trainer.distributed.launcher import Launcher

STOP_SIGNALS = (
    signal.SIGTERM,  # schedulers, launchers, the death of the launcher
    signal.SIGINT,  # Ctrl-C
    signal.SIGHUP,  # the terminal has gone
    signal.SIGUSR1,  # schedulers' warning of a time limit
    signal.SIGUSR2,
    signal.SIGXCPU,  # the soft limit of CPU time; repeated every second until the hard one
)
INSISTING = (signal.SIGTERM, signal.SIGINT)
"""Signals whose repetition asks for an immediate end."""

REPEAT_SECONDS = 3.0
"""A repetition within this time is the same request, for example passed on by a launcher."""


class StopSignals(AbstractContextManager["StopSignals"]):
    """In the block, STOP_SIGNALS are received by a thread, which calls the functions given.

    A thread, because Python runs handlers only between the instructions of the main thread, which
    may be in a collective, in a rendezvous or in a compiler for minutes.

    on_stop: called with the number of the first signal of each kind.
    on_insist: called when one of INSISTING is repeated after REPEAT_SECONDS. The SIGTERM that the
    kernel sends when the launcher dies is not a repetition: a launcher that was told to stop passes
    that on and then ends.

    SIGHUP stays ignored if it was ignored before, as by `nohup`. After a stop was asked for, the
    process is about to end with the code for that, so at the end of the block the signals are
    ignored; otherwise the handlers from before are restored. Only the main thread may enter.
    """

    def __init__(
        self, launcher: Launcher, on_stop: Callable[[int], None], on_insist: Callable[[int], None]
    ) -> None:
        self._launcher = launcher
        self._on_stop, self._on_insist = on_stop, on_insist
        self._received: dict[int, float] = {}
        self._launcher_was_there = not launcher.has_died()

    def __enter__(self) -> StopSignals:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handlers_before = {
            number: signal.getsignal(number)
            for number in STOP_SIGNALS
            if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN)
        }
        self._thread = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._thread.start()
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._handlers_before:
            signal.signal(number, _leave_to_the_thread)
        _entered.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _entered.remove(self)
        for number, handler in self._handlers_before.items():
            signal.signal(number, signal.SIG_IGN if self._received else handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writer)
        self._thread.join()

    def forget(self) -> None:
        """Return to the default handlers in a child process made by fork().

        It shares the pipe: a signal to the child would be taken for one to its parent.
        """
        signal.set_wakeup_fd(-1)
        for number in self._handlers_before:
            signal.signal(number, signal.SIG_DFL)

    def _listen(self, reader: int) -> None:
        with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as numbers:
            while received := numbers.read(64):
                for number in filter(self._handlers_before.__contains__, received):
                    self._receive(number)

    def _receive(self, number: int) -> None:
        now, from_the_kernel = time.monotonic(), False
        if self._launcher_was_there and self._launcher.has_died():
            self._launcher_was_there, from_the_kernel = False, True
        if number not in self._received or from_the_kernel:
            self._received.setdefault(number, now)
            self._on_stop(number)
        elif number in INSISTING and now - self._received[number] > REPEAT_SECONDS:
            self._on_insist(number)


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """The handler: its presence makes Python write the signal's number into the pipe."""


_entered: list[StopSignals] = []


def _forget_in_child() -> None:
    for signals in _entered:
        signals.forget()
    _entered.clear()


os.register_at_fork(after_in_child=_forget_in_child)
