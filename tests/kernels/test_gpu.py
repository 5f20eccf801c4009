"""What only a device can show: CUDA graphs, streams and the number of launches.

On a machine with a GPU: `REALNESS_REQUIRE_GPU=1 pytest -m gpu`, then compute_sanitizer.sh.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import BY_NAME, ONE_CASE_EACH, PHILOX_CASES, Case
from launches import kernel_names, launched
from torch import Tensor

from realness import kernels

CASES = [*ONE_CASE_EACH.values(), *PHILOX_CASES]
SLEEP_CYCLES = 50_000_000  # some 30 ms: longer than the host needs to queue a case


def forward_backward(case: Case, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and gradients, without any transfer from the host."""
    inputs = [x.detach() for x in inputs]
    leaves = [inputs[i].requires_grad_() for i in case.differentiable]
    outputs = case.outputs("cuda", inputs)
    found = [y.detach() for y in outputs]
    return found + list(torch.autograd.grad(outputs, leaves, found)) if leaves else found


def inputs_of(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """The case's inputs on the device, and as many buffers that hold something else."""
    given = case.inputs(torch.float32, torch.device("cuda"), "contiguous")
    return given, [torch.zeros_like(x) for x in given]


def warm_up(case: Case, inputs: list[Tensor], stream: torch.cuda.Stream) -> None:
    """Loads the kernels, and lets autograd and the allocator see the stream."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            forward_backward(case, inputs)
    torch.cuda.synchronize()


def fill(buffers: list[Tensor], values: list[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """To the bit: no kernel's result depends on the order in which threads run."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_cuda_graph_replays_the_operator(case: Case) -> None:
    """Captured once, replayed on inputs that were not there at capture."""
    given, buffers = inputs_of(case)
    expected = forward_backward(case, given)
    stream = torch.cuda.Stream()
    warm_up(case, buffers, stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = forward_backward(case, buffers)
    fill(buffers, given)
    graph.replay()
    torch.cuda.synchronize()
    assert_same(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_work_goes_to_the_current_stream(case: Case) -> None:
    """The inputs arrive late on a side stream; a kernel on another stream would miss them."""
    given, buffers = inputs_of(case)
    expected = forward_backward(case, given)
    stream = torch.cuda.Stream()
    warm_up(case, buffers, stream)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        fill(buffers, given)
        found = forward_backward(case, buffers)
    stream.synchronize()
    assert_same(found, expected)


def loss_step(name: str) -> Callable[[], list[Tensor]]:
    """The loss of a player's update and the gradient of its logits, at 32 samples."""
    device = torch.device("cuda")
    real, fake, noise_real, noise_fake = (torch.randn(32, 51, device=device) for _ in range(4))
    a, b = (torch.randn(51, device=device).softmax(0) for _ in range(2))
    fake.requires_grad_()
    if name == "d":
        real.requires_grad_()
        leaves = [real, fake]
        call = lambda: kernels.realness_d_loss(  # noqa: E731
            real, fake, a, b, noise_real, noise_fake, impl="cuda"
        )
    else:
        leaves = [fake]
        call = lambda: kernels.realness_g_loss(  # noqa: E731
            fake, real, a, b, noise_fake, noise_real, objective=int(name), impl="cuda"
        )
    return lambda: list(torch.autograd.grad(call(), leaves))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["d", "1", "2", "3"])
def test_a_players_loss_takes_at_most_three_launches(name: str) -> None:
    """Forward, backward, and autograd's own filling of the first gradient with 1."""
    names = launched(loss_step(name))
    ours = [kernel for kernel in names if "realness" in kernel]
    assert len(ours) == 2, names
    assert len(names) <= 3, names


# Forward and backward, as the table in kernels/README.md has them.
LAUNCHES = {
    "realness_kl-5x51-shared_anchor": 2,
    "realness_divergence-5x51": 2,
    "realness_emd-5x51-shared_anchor": 2,
    "resample_logits-moments-5x51": 2,
    "resample_logits-draw-5x51": 2,
    "squared_norm-4x8x4x4": 3,
    "upfirdn2d-blur": 2,
    "upfirdn2d-long_separable": 4,
    "bias_act-lrelu-2x8x4x4-1.0-None": 2,
    "demodulate-6x5x3x3-4": 3,
    "spectral_norm-step-three": 3,
    "spectral_norm-scale-three": 6,
}


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "expected"), LAUNCHES.items())
def test_launches_are_as_documented(name: str, expected: int) -> None:
    case = BY_NAME[name]
    inputs = case.inputs(torch.float32, torch.device("cuda"), "contiguous")
    names = launched(lambda: forward_backward(case, inputs))
    assert len([kernel for kernel in names if "realness" in kernel]) == expected, names


def test_only_kernels_are_counted() -> None:
    """Needs no device: a trace as the profiler writes it."""
    events = [
        {"cat": "cpu_op", "name": "realness::realness_kl"},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        {"cat": "kernel", "name": "void realness::cuda::row_kernel<...>"},
        {"cat": "gpu_memset", "name": "Memset (Device)"},
        {"ph": "M", "name": "process_name"},
    ]
    assert kernel_names({"traceEvents": events}) == ["void realness::cuda::row_kernel<...>"]
