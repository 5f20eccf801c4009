"""Counts the kernels of a call: on a device from the profiler's trace, or in the emulator."""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from realness import kernels
from tests.helpers.kernel_cases import Case

# Forward and backward of these cases, as the text in kernels/README.md has them.
LAUNCHES = {
    "realness_kl-5x51-shared_anchor": 2,
    "realness_divergence-5x51": 2,
    "realness_emd-5x51-shared_anchor": 2,
    "realness_loss-d-4-4-51-resampled": 2,
    "realness_loss-g2-4-4-51-resampled": 2,
    "resample_logits-moments-5x51": 2,
    "resample_logits-draw-5x51": 2,
    "squared_norm-4x8x4x4": 3,
    "upfirdn2d-blur": 2,
    "upfirdn2d-long_separable": 4,
    "warp-turned_colors": 3,
    "bias_act-lrelu-2x8x4x4-1.0-None": 2,
    "demodulate-6x5x3x3-4": 3,
    "spectral_norm-step-three": 3,
    "spectral_norm-scale-three": 6,
}


def forward_backward(case: Case, inputs: list[Tensor], impl: kernels.Impl = "cuda") -> list[Tensor]:
    """Outputs and gradients, without any transfer from the host."""
    inputs = [x.detach() for x in inputs]
    leaves = [inputs[i].requires_grad_() for i in case.differentiable]
    outputs = case.outputs(impl, inputs)
    found = [y.detach() for y in outputs]
    return found + list(torch.autograd.grad(outputs, leaves, found)) if leaves else found


def emulated(library: Path, function: Callable[[], Any]) -> int:
    """How many kernels `function` launches in the emulator."""
    count = ctypes.CDLL(str(library)).realness_emulated_launches
    count.restype = ctypes.c_int64
    before = count()
    function()
    return count() - before


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
