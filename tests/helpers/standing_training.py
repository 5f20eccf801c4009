"""The training command, forked into ranks that stand still at some place."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.helpers.ranks import TIMEOUT_SECONDS, free_port, rank_environment, tiny_arguments


class StandingRanks:
    """Ranks of a run in `folder`, all of which stand still at `place`.

    place: "rendezvous", where they wait for those that are not started, "check", "build" or
    "update". num_started: how many ranks of `world_size` are started.
    """

    def __init__(
        self, data: Path, folder: Path, place: str, num_started: int, world_size: int
    ) -> None:
        folder.mkdir()
        self._folder, port = folder, free_port()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["realness.trainer.run.loop", "deepspeed"])
        arguments = [*tiny_arguments(data, folder / "run"), "--device", "cpu"]
        self.ranks: list[ForkServerProcess] = [
            context.Process(
                target=_be_rank,
                args=(rank_environment(rank, world_size, port), arguments, place, folder),
                daemon=True,
            )
            for rank in range(num_started)
        ]
        for rank in self.ranks:
            rank.start()

    def wait(self) -> None:
        """Wait until all ranks stand."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(list(self._folder.glob("stands-*"))) < len(self.ranks):
            assert time.monotonic() < deadline, self.output()
            assert all(rank.is_alive() for rank in self.ranks), self.output()
            time.sleep(0.02)

    def pid(self, rank: int) -> int:
        """The process id of a rank."""
        pid = self.ranks[rank].pid
        assert pid is not None
        return pid

    def codes(self, patience_s: float = TIMEOUT_SECONDS) -> list[int | None]:
        """Exit codes of all ranks, None for one that does not end in time."""
        for rank in self.ranks:
            rank.join(patience_s)
        return [rank.exitcode for rank in self.ranks]

    def output(self) -> str:
        """What all ranks have printed."""
        return (self._folder / "log").read_text()


def _be_rank(environment: dict[str, str], arguments: list[str], place: str, folder: Path) -> None:
    code = 1
    os.environ.update(environment)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        from realness.launch import train_ffhq

        _stand_at(place, folder / f"stands-{environment['RANK']}")
        code = train_ffhq.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _stand_at(place: str, mark: Path) -> None:
    from realness.trainer.distributed import signals, watchdog
    from realness.trainer.run import loop
    from realness.trainer.updates import iteration

    open_store = watchdog.open_store

    def stand(*_: Any, **__: Any) -> None:
        mark.touch()
        time.sleep(10 * TIMEOUT_SECONDS)

    def say_and_open(*given: Any, **options: Any) -> Any:
        mark.touch()
        return open_store(*given, **options)

    module, name, replacement = {
        "rendezvous": (watchdog, "open_store", say_and_open),
        "check": (loop, "_check", stand),
        "build": (loop, "build_gan", stand),
        "update": (iteration, "update_d", stand),
    }[place]
    setattr(module, name, replacement)
    signals.REPEAT_SECONDS = 0.0
