"""Output that cannot be written: every command continues, and its exit code does not change."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from realness.launch.cli import COMMANDS
from tests.helpers.ranks import TIMEOUT_SECONDS, TRAIN, tiny_arguments, wait_for, write_images

CODE = 7
TALKATIVE = f"""
import logging, sys, warnings
from rich.console import Console
from realness.launch.standard_streams import tolerate_lost_output
tolerate_lost_output()
sys.stdin.read() if sys.stdin else None
for stream in (sys.stdout, sys.stderr):
    print("x" * 100_000, file=stream, flush=True)
logging.warning("y")
warnings.warn("z")
Console().print("w")
print("left in the buffer for the flush at exit")
sys.exit({CODE})
"""


def talk(
    stdout: int, stderr: int, prepare: Callable[[], None] | None = None, *options: str
) -> subprocess.Popen[bytes]:
    """A process that waits for its standard input to close and then prints all it can."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", TALKATIVE],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        preexec_fn=prepare,
    )


@pytest.mark.parametrize("options", [(), ("-u",)])
def test_a_pipe_that_nobody_reads(options: tuple[str, ...]) -> None:
    process = talk(subprocess.PIPE, subprocess.PIPE, None, *options)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == CODE


def test_a_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = talk(full, full)
    os.close(full)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == CODE


def close_all() -> None:
    """As after `<&- >&- 2>&-`."""
    os.closerange(0, 3)


def test_closed_descriptors() -> None:
    process = talk(subprocess.PIPE, subprocess.PIPE, close_all)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == CODE


def test_what_can_be_written_arrives_whole() -> None:
    output, errors = talk(subprocess.PIPE, subprocess.PIPE).communicate(timeout=TIMEOUT_SECONDS)
    assert output == b"x" * 100_000 + b"\nw\nleft in the buffer for the flush at exit\n"
    assert errors.startswith(b"x" * 100_000 + b"\nWARNING:root:y\n")


def test_every_script_begins_with_it() -> None:
    for name, _ in COMMANDS.values():
        module = importlib.import_module(f"realness.launch.{name}")
        assert inspect.getsource(module).endswith("    run_as_script(main)\n"), name


def ignore_hangup() -> None:
    """As `nohup` does; the terminal is that of a new session."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.mark.slow
def test_training_goes_on_when_nobody_listens(tmp_path: Path) -> None:
    """Into `/dev/full`, into `head`, and under nohup on a terminal that goes."""
    data = write_images(tmp_path / "images")

    def start(name: str, output: int) -> subprocess.Popen[str]:
        arguments = tiny_arguments(data, tmp_path / name, "--total-kimg", "0.16")
        return subprocess.Popen(
            [sys.executable, str(TRAIN), "--device", "cpu", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            preexec_fn=ignore_hangup,
        )

    full, (head, pipe), (terminal, inside) = (
        os.open("/dev/full", os.O_WRONLY),
        os.pipe(),
        pty.openpty(),
    )
    runs = {"full": start("full", full), "head": start("head", pipe), "tty": start("tty", inside)}
    for descriptor in (full, pipe, inside):
        os.close(descriptor)
    for reader in (head, terminal):
        assert os.read(reader, 1)
        os.close(reader)
    wait_for(tmp_path / "tty" / "stats.jsonl", [runs["tty"]])
    runs["tty"].send_signal(signal.SIGHUP)
    for name, process in runs.items():
        assert process.wait(timeout=TIMEOUT_SECONDS) == 0, name
        lines = (tmp_path / name / "stats.jsonl").read_text().splitlines()
        assert [json.loads(line)["images"] for line in lines] == list(range(8, 161, 8))
        assert (tmp_path / name / "checkpoints" / "latest").read_text() == f"{160:012d}\n"
