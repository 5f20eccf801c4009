"""Marks: `gpu` tests are skipped if there is no device, unless one is required."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

# Before anything imports distutils, as DeepSpeed does, or looks for pip: afterwards setuptools may
# refuse to load, and torch.compile needs it.
import setuptools  # noqa: F401
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the session: signals, and where compiled code is kept."""
    _receive_signals()
    _keep_compiled_code(config)


def _receive_signals() -> None:
    """Undo `nohup` and `&`: processes started by tests would ignore these signals too."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def _keep_compiled_code(config: pytest.Config) -> None:
    """Let torch.compile keep its code in a folder of this session, which all workers share.

    torch's usual folder outlives the session, and code from there was wrong on a CPU with other
    vector instructions than the one that had compiled it.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="realness-compiled-")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In parallel, files with slow tests come first, so that no worker is left alone with one."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
        items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a missing CUDA device; fail them with REALNESS_REQUIRE_GPU=1."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("REALNESS_REQUIRE_GPU") == "1":
        pytest.fail("REALNESS_REQUIRE_GPU=1, but torch finds no CUDA device")
    pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shard_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSpeed configuration with which ZeRO 3 also shards weights as small as the tests'."""
    path = tmp_path_factory.mktemp("deepspeed") / "config.json"
    path.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    return path
