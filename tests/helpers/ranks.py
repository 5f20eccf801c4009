"""Real processes for tests: functions on several gloo ranks, and the training command itself."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers import ROOT

TRAIN = ROOT / "launch" / "train_ffhq.py"
TIMEOUT_SECONDS = 240


class RankDied(RuntimeError):
    """A rank ended without a result, for example by a signal."""


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A TCP port that no other process gets while this one lives.

    A socket that is bound but does not listen reserves the port against requests for any free port;
    the store of a group, which requests this port and allows address reuse, may still listen.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _reserved.append(probe)
    return probe.getsockname()[1]


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The variables that the DeepSpeed launcher sets in each rank's environment."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def _rank_main(rank: int, world_size: int, port: int, tasks: Any, answers: Any) -> None:
    """Run tasks (function, arguments) until None is received."""
    os.environ.update(rank_environment(rank, world_size, port))
    import torch

    from realness.trainer.distributed.ranks import start_process_group, stop_process_group

    torch.set_num_threads(1)
    start_process_group(torch.device("cpu"))
    while (task := tasks.get()) is not None:
        call, arguments = task
        try:
            answers.put((rank, call(*arguments), ""))
        except Exception:
            answers.put((rank, None, traceback.format_exc()))
    stop_process_group()


class Ranks:
    """The ranks of one gloo group, waiting for work: starting them costs seconds."""

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        port = free_port()
        self._answers = context.Queue()
        self._tasks = [context.Queue() for _ in range(world_size)]
        self._processes = [
            context.Process(
                target=_rank_main,
                args=(rank, world_size, port, tasks, self._answers),
                daemon=True,
            )
            for rank, tasks in enumerate(self._tasks)
        ]
        for process in self._processes:
            process.start()

    def run(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
        """Results by rank. Raises RankDied, or AssertionError with the ranks' tracebacks."""
        for tasks in self._tasks:
            tasks.put((call, arguments))
        answers: list[tuple[int, Any, str]] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(answers) < len(self._processes):
            with contextlib.suppress(Empty):
                answers.append(self._answers.get(timeout=0.2))
            dead = [process.exitcode for process in self._processes if process.exitcode]
            if dead:
                raise RankDied(f"ranks ended with {dead}")
            assert time.monotonic() < deadline, f"only {len(answers)} ranks answered in time"
        problems = "\n".join(problem for _, _, problem in answers if problem)
        assert not problems, problems
        return [result for _, result, _ in sorted(answers, key=lambda answer: answer[0])]

    def close(self) -> None:
        """End the ranks, by force if they no longer respond."""
        for tasks in self._tasks:
            tasks.put(None)
        for process in self._processes:
            process.join(timeout=30)
            process.kill()
            process.join()


_groups: dict[int, Ranks] = {}


def run_on_ranks(world_size: int, call: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run a module-level function on every rank of a gloo group; returns the results by rank."""
    if world_size not in _groups:
        _groups[world_size] = Ranks(world_size)
    try:
        return _groups[world_size].run(call, arguments)
    except BaseException:
        # The rest of the group cannot be reused.
        _groups.pop(world_size).close()
        raise


@atexit.register
def close_groups() -> None:
    """End the groups that are still waiting."""
    for group in _groups.values():
        group.close()


def _train(arguments: list[str], prepare: Callable[[], None] | None, answers: Any) -> None:
    import torch

    from realness.launch import train_ffhq

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    answers.put(train_ffhq.main(arguments))


def run_command(arguments: list[str], prepare: Callable[[], None] | None = None) -> int:
    """Run the training command as one rank in a new process; returns its exit code.

    `prepare`, a module-level function, is called there first, to break something. The process is
    forked from one that has already imported everything, which saves many minutes per suite.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["realness.trainer.run.loop", "deepspeed"])
    answers = context.Queue()
    process = context.Process(target=_train, args=(arguments, prepare, answers))
    process.start()
    process.join(timeout=TIMEOUT_SECONDS)
    assert process.exitcode == 0, f"the command's process ended with {process.exitcode}"
    return answers.get(timeout=TIMEOUT_SECONDS)


def start_training(
    arguments: list[str], world_size: int, log: Path | None = None, program: Path = TRAIN
) -> list[subprocess.Popen[str]]:
    """Start the training command, or `program`, as `world_size` ranks, without a launcher."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(program), "--device", "cpu", *arguments],
            env={**os.environ, **rank_environment(rank, world_size, port)},
            stdout=subprocess.PIPE if log is None else log.open("a"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]


def finish(ranks: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Wait for all ranks; returns exit codes and their joined output."""
    outputs = [rank.communicate(timeout=TIMEOUT_SECONDS)[0] or "" for rank in ranks]
    return [rank.returncode for rank in ranks], "".join(outputs)


def wait_for(path: Path, ranks: list[subprocess.Popen[str]]) -> None:
    """Wait until a file of the run exists; fails when a rank ends before."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        assert all(rank.poll() is None for rank in ranks), finish(ranks)
        time.sleep(0.02)


def write_images(folder: Path, count: int = 48, size: int = 32) -> Path:
    """A folder of smooth random PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(
            folder / f"{number:03d}.png"
        )
    return folder


def tiny_arguments(data: Path, run_dir: Path, *extra: str) -> list[str]:
    """Flags of a RealnessGAN run that makes many iterations per second on one core."""
    return [
        *("--preset", "cifar10-realness-dcgan", "--data", str(data), "--run-dir", str(run_dir)),
        *("--g-width", "4", "--d-width", "4", "--z-dim", "16", "--batch-size", "8"),
        *("--log-kimg", "0.008", "--num-samples", "4", "--decode-threads", "1"),
        *("--decoder", "threads", *extra),
    ]
