"""Signal handlers of the process that runs the tests."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from realness.trainer.distributed.signals import STOP_SIGNALS


@contextlib.contextmanager
def handlers_restored() -> Iterator[None]:
    """Restore the handlers of STOP_SIGNALS at the end of the block."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
