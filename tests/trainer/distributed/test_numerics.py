"""The global switches follow the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from realness.trainer.config import EngineConfig
from realness.trainer.distributed.numerics import set_numerics


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    set_numerics(EngineConfig())


def test_deterministic_runs_choose_no_algorithm_by_time() -> None:
    set_numerics(EngineConfig(deterministic=True, tf32=False))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_other_runs_take_the_fastest() -> None:
    set_numerics(EngineConfig(deterministic=False, tf32=True))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cuda.matmul.allow_tf32
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
