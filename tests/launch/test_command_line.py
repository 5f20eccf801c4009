"""Paths on command lines, in configuration files and in environment variables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from realness.data_pipeline import DataError, open_catalog
from realness.kernels import build
from realness.launch.command_line import expanded, read_command_line
from realness.launch.train_arguments import parse
from realness.trainer.config import DataConfig, EngineConfig, TrainConfig, from_dict
from realness.trainer.metrics.network_file import cache_folder
from tests.helpers import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@dataclass
class Example:
    run: Annotated[Path, tyro.conf.Positional]
    out: Path
    data: str = ""


def test_a_home_folder_is_expanded_in_every_form(home: Path) -> None:
    for out in (["--out=~/x"], ["--out", "~/x"]):
        command = read_command_line(Example, ["~/run", *out, "--data=~"])
        assert command == Example(home / "run", home / "x", str(home))


@pytest.mark.parametrize(
    "argument",
    ["a~", "./~/x", "--out=a/~/b", "--out=", "~nobody-has-this-name/x", "-1", "https://a.org/~b"],
)
def test_nothing_else_is_expanded(home: Path, argument: str) -> None:
    assert expanded([argument]) == [argument]


def test_every_command_reads_its_arguments_in_this_way() -> None:
    files = (ROOT / "launch").glob("*.py")
    assert [path.name for path in files if "tyro.cli" in path.read_text()] == ["command_line.py"]


def test_training_expands_flags_and_files_alike(home: Path) -> None:
    file = home / "run.json"
    file.write_text(json.dumps({"run_dir": "~/x", "data": {"data": "~/faces"}}))
    expected = str(home / "x"), str(home / "faces")
    for arguments in (["--run-dir=~/x", "--data=~/faces"], ["--config=~/run.json"]):
        config = parse(arguments).config
        assert (config.run_dir, config.data.data) == expected
    recorded = from_dict({"run_dir": "~/x", "data": {"data": "~/faces"}})
    assert (recorded.run_dir, recorded.data.data) == expected
    assert TrainConfig(plugin=("~/a.py", "/b.py")).plugin == (str(home / "a.py"), "/b.py")
    engine = EngineConfig(deepspeed_config="~/a.json")
    assert engine.deepspeed_config == str(home / "a.json")
    assert DataConfig(data="~nobody-has-this-name").data == "~nobody-has-this-name"


def test_environment_variables_are_expanded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("REALNESS_CACHE", raising=False)
    assert build.cache_folder() == cache_folder() == home / ".cache/realness"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/c")
    assert build.cache_folder() == cache_folder() == home / "c/realness"
    monkeypatch.setenv("REALNESS_CACHE", "~/r")
    assert build.cache_folder() == cache_folder() == home / "r"
    nvcc = home / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", "~/cuda")
    assert build.find_nvcc() == str(nvcc)
    monkeypatch.setenv("CXX", "~/cuda/bin/nvcc")
    assert build.find_compiler() == str(nvcc)


def test_a_path_of_an_unknown_user_is_only_a_missing_path() -> None:
    with pytest.raises(DataError, match="'~nobody-has-this-name/x' does not exist"):
        open_catalog("~nobody-has-this-name/x")
