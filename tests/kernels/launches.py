"""Counts the device kernels of a call from the profiler's trace."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def kernel_names(trace: dict[str, Any]) -> list[str]:
    """Names of the launched kernels in a Chrome trace; copies and fills by DMA have other kinds."""
    return [e["name"] for e in trace["traceEvents"] if e.get("cat") == "kernel"]


def launched(function: Callable[[], Any]) -> list[str]:
    """Runs `function` once to warm up and once under the profiler."""
    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        function()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        return kernel_names(json.loads(path.read_text()))
