"""Marks: `gpu` tests are skipped where there is no device, unless one is required."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or with REALNESS_REQUIRE_GPU=1 fail, what needs a CUDA device that is not there."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("REALNESS_REQUIRE_GPU") == "1":
        pytest.fail("REALNESS_REQUIRE_GPU=1, but torch finds no CUDA device")
    pytest.skip("needs a CUDA device")
