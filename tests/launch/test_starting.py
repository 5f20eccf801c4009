"""What can go wrong before a command has begun: its environment, its port, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from realness.launch import cli, evaluate, train_ffhq
from realness.launch.exit_status import until_interrupted
from realness.trainer.config import ConfigError
from realness.trainer.distributed.device import pick_device
from realness.trainer.distributed.launcher import check_launcher, is_leader
from realness.trainer.distributed.ranks import start_process_group
from tests.helpers import ROOT

RANK_OF_TWO = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
WRONG = [
    ({"RANK": "0"}, "RANK=0 is set without WORLD_SIZE"),
    ({"RANK": "1"}, "RANK=1 is set without WORLD_SIZE"),
    ({"RANK": "0", "WORLD_SIZE": "1"}, "RANK=0 is set without MASTER_ADDR"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set without RANK"),
    ({**RANK_OF_TWO, "RANK": "two"}, "RANK='two' in the environment is not a number"),
    ({**RANK_OF_TWO, "RANK": "-1"}, "RANK='-1' in the environment is not a number"),
    ({**RANK_OF_TWO, "RANK": ""}, "RANK='' in the environment is not a number"),
    ({**RANK_OF_TWO, "WORLD_SIZE": "x"}, "WORLD_SIZE='x' in the environment is not a number"),
    ({**RANK_OF_TWO, "RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ({**RANK_OF_TWO, "MASTER_PORT": "tcp"}, "MASTER_PORT='tcp' in the environment"),
    ({"LOCAL_RANK": "a"}, "LOCAL_RANK='a' in the environment is not a number"),
]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", *RANK_OF_TWO):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("variables", "problem"), WRONG)
def test_an_environment_of_no_launcher_is_refused_by_every_command_of_ranks(
    variables: dict[str, str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said_by_one = variables.get("RANK") == "2"
    train = ["--preset", "demo", "--data", str(tmp_path), "--run-dir", str(tmp_path / "run")]
    for main, arguments in (
        (train_ffhq.main, train),
        (train_ffhq.main, [*train, "--dry-run"]),
        (evaluate.main, [str(tmp_path)]),
    ):
        assert main(arguments) == 2
        assert said_by_one or problem in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"{problem}.*; start the ranks with deepspeed"):
        check_launcher()


@pytest.mark.parametrize(
    "variables", [{}, {"WORLD_SIZE": "1"}, RANK_OF_TWO, {**RANK_OF_TWO, "LOCAL_RANK": "0"}]
)
def test_other_environments_are_not_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launcher()
    assert is_leader()
    assert pick_device("cpu") == torch.device("cpu")


def test_a_port_in_use_is_named_with_the_launchers_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name, value in {**RANK_OF_TWO, "WORLD_SIZE": "1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"port {port}.* is in use .*--master_port"):
            start_process_group(torch.device("cpu"))


def test_the_demo_finds_a_free_port() -> None:
    recipe = subprocess.run(
        ["make", "-n", "demo", "BIN=."], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in recipe.splitlines() if "--master_port" in line]
    command = line.partition("$(./python")[2].partition(") launch/")[0]
    found = subprocess.run(
        ["sh", "-c", f"{sys.executable} {command}"], capture_output=True, text=True, check=True
    ).stdout
    socket.create_server(("", int(found))).close()


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert until_interrupted(lambda: 75) == 75
    assert until_interrupted(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_every_script_ends_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {f"{module}.py" for module, _ in cli.COMMANDS.values()}
    ends = {
        path.name
        for path in (ROOT / "launch").glob("*.py")
        if path.read_text().endswith('\nif __name__ == "__main__":\n    run_as_script(main)\n')
    }
    assert ends == scripts

    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_ffhq, "main", interrupted)
    assert cli.main(["train"]) == 130


@pytest.mark.slow
def test_ctrl_c_while_training_starts(tmp_path: Path) -> None:
    """The signal arrives while the file of --config is read, which is a pipe without content."""
    pipe = tmp_path / "run.toml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "launch/train_ffhq.py", "--config", str(pipe)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Opening this end waits until training has opened the other.
    with pipe.open("wb"):
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
