"""Implementations under test: the compiled CPU code, the CUDA kernels in the emulator, and the CUDA
kernels on a device if there is one. The reference is the oracle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from realness import kernels
from realness.kernels import build, library


@pytest.fixture(scope="session")
def emulator() -> Path:
    """Builds and loads the emulated kernels; REALNESS_TEST_EMULATOR names another library."""
    given = os.environ.get("REALNESS_TEST_EMULATOR")
    path = Path(given) if given else build.cached_library(build.make_plan(emulate=True), retry=True)
    library.load_emulated(path)
    return path


IMPLS: list[Any] = ["cpu", "emu"]
if torch.cuda.is_available() or os.environ.get("REALNESS_REQUIRE_GPU") == "1":
    IMPLS.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> kernels.Impl:
    """Each implementation in turn."""
    name = request.param
    if name == "emu":
        request.getfixturevalue("emulator")
    return name


@pytest.fixture
def device(impl: kernels.Impl) -> torch.device:
    """The device on which `impl` runs."""
    return torch.device("cuda" if impl == "cuda" else "cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def exact_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """References with convolutions compute in float32, not in TF32: kernels may err twice as much
    as they do."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
