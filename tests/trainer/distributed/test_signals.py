"""Signals that ask to stop: which, what a repetition means, and what is left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from realness.trainer.distributed import signals
from realness.trainer.distributed.signals import STOP_SIGNALS, StopSignals
from tests.helpers.handlers import handlers_restored

PATIENCE_SECONDS = 60


class Launcher:
    """A launcher that lives until it is told otherwise."""

    def __init__(self) -> None:
        self.dead = False

    def has_died(self) -> bool:
        return self.dead


class Heard:
    """What was called, in order."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self.launcher: Any = Launcher()
        self.signals = StopSignals(
            self.launcher,
            lambda number: self._calls.put(("stop", number)),
            lambda number: self._calls.put(("insist", number)),
        )

    def next(self) -> tuple[str, int]:
        return self._calls.get(timeout=PATIENCE_SECONDS)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)


@pytest.fixture
def heard() -> Iterator[Heard]:
    with handlers_restored():
        yield Heard()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_asks_to_stop_once(heard: Heard, number: signal.Signals) -> None:
    """A launcher may pass on a signal that the whole group has received already."""
    other = signal.SIGUSR2 if number != signal.SIGUSR2 else signal.SIGUSR1
    with heard.signals:
        heard.send(number)
        assert heard.next() == ("stop", number)
        heard.send(number, other)
        assert heard.next() == ("stop", other)
    assert signal.getsignal(number) == signal.SIG_IGN


def test_only_a_person_insists(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGXCPU comes every second, and a scheduler may warn more than once."""
    monkeypatch.setattr(signals, "REPEAT_SECONDS", -1.0)
    with heard.signals:
        for number in STOP_SIGNALS:
            heard.send(number)
            assert heard.next() == ("stop", number)
        for number in STOP_SIGNALS:
            heard.send(number)
        assert {heard.next(), heard.next()} == {
            ("insist", signal.SIGTERM),
            ("insist", signal.SIGINT),
        }


def test_the_death_of_a_launcher_that_was_told_to_stop_is_no_repetition(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "REPEAT_SECONDS", -1.0)
    with heard.signals:
        heard.send(signal.SIGTERM)
        assert heard.next() == ("stop", signal.SIGTERM)
        heard.launcher.dead = True
        heard.send(signal.SIGTERM)
        assert heard.next() == ("stop", signal.SIGTERM)
        heard.send(signal.SIGTERM)
        assert heard.next() == ("insist", signal.SIGTERM)


def test_nohup(heard: Heard) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with heard.signals:
        heard.send(signal.SIGHUP, signal.SIGUSR1)
        assert heard.next() == ("stop", signal.SIGUSR1)


def test_handlers_return_if_nobody_asked(heard: Heard) -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with heard.signals:
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_to_a_forked_child_is_not_for_its_parent(heard: Heard) -> None:
    ready, begun = os.pipe()
    with heard.signals:
        child = os.fork()
        if child == 0:
            os.write(begun, b".")
            while True:
                signal.pause()
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        heard.send(signal.SIGUSR1)
        assert heard.next() == ("stop", signal.SIGUSR1)
