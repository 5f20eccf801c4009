"""Tests that need a device: CUDA graphs, streams, huge tensors, and the number of launches.

On a machine with a GPU: `make gpu`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from realness import kernels
from tests.helpers.kernel_cases import BY_NAME, ONE_CASE_EACH, PHILOX_CASES, Case
from tests.helpers.kernel_launches import LAUNCHES, forward_backward, kernel_names, launched

CASES = [*ONE_CASE_EACH.values(), *PHILOX_CASES]
SLEEP_CYCLES = 50_000_000  # some 30 ms: longer than the host needs to queue a case


def inputs_of(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """The case's inputs on the device, and equal buffers with other contents."""
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
    """Bit for bit: no kernel's result depends on the order in which threads run."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_cuda_graph_replays_the_operator(case: Case) -> None:
    """Captured once, replayed on inputs that did not exist at capture."""
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
    """The loss of an update and the gradient of its logits, at 32 samples."""
    device = torch.device("cuda")
    real, fake, noise_real, noise_fake = (torch.randn(32, 51, device=device) for _ in range(4))
    a, b = (torch.randn(51, device=device).softmax(0) for _ in range(2))
    fake.requires_grad_()
    if name == "d":
        real.requires_grad_()
        leaves = [real, fake]
        call = lambda: kernels.realness_d_loss(  # noqa: E731
            real, fake, a, b, noise_real, noise_fake
        )
    else:
        leaves = [fake]
        call = lambda: kernels.realness_g_loss(  # noqa: E731
            fake, real, a, b, noise_fake, noise_real, objective=int(name)
        )

    @kernels.implementation("cuda")
    def step() -> list[Tensor]:
        return list(torch.autograd.grad(call(), leaves))

    return step


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["d", "1", "2", "3"])
def test_the_loss_of_an_update_takes_at_most_three_launches(name: str) -> None:
    """Forward, backward, and autograd's own filling of the first gradient with 1."""
    names = launched(loss_step(name))
    ours = [kernel for kernel in names if "realness" in kernel]
    assert len(ours) == 2, names
    assert len(names) <= 3, names


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "expected"), LAUNCHES.items())
def test_launches_are_as_documented(name: str, expected: int) -> None:
    case = BY_NAME[name]
    inputs = case.inputs(torch.float32, torch.device("cuda"), "contiguous")
    names = launched(lambda: forward_backward(case, inputs))
    assert len([kernel for kernel in names if "realness" in kernel]) == expected, names


HUGE = (3, 8, 9000, 10000)  # 2.16e9 elements: more than a signed 32-bit integer can count


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@kernels.implementation("cuda")
def test_places_beyond_32_bits(layout: torch.memory_format) -> None:
    """The last sample of a huge tensor gets the same result as by itself."""
    x = torch.zeros(HUGE, dtype=torch.bfloat16, device="cuda").to(memory_format=layout)
    x[-1, :, -64:].normal_()
    bias = torch.randn(HUGE[1], device="cuda")
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cuda") / 8
    matrix = torch.tensor([[[1.0, 0.1, 2.3], [0, 1.0, -0.7]]], device="cuda")
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda t: kernels.squared_norm(t),
        lambda t: kernels.bias_act(t, bias, "lrelu"),
        lambda t: kernels.upfirdn2d(t, taps, padding=(2, 1)),
        lambda t: kernels.upfirdn2d(t, taps, down=2, padding=1),
        lambda t: kernels.warp(t, matrix.expand(len(t), -1, -1)),
    ]
    for call in calls:
        assert torch.equal(call(x)[-1:], call(x[-1:]))
        torch.cuda.empty_cache()


@pytest.mark.gpu
@kernels.implementation("cuda")
def test_kernels_run_where_their_tensors_are() -> None:
    """Not on the current device."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    x = torch.randn(4, 3, 8, 8, device="cuda:1")
    assert torch.cuda.current_device() == 0
    torch.testing.assert_close(kernels.squared_norm(x), x.square().sum((1, 2, 3)))


def test_only_kernels_are_counted() -> None:
    """Needs no device: reads a trace as the profiler writes it."""
    events = [
        {"cat": "cpu_op", "name": "realness::realness_kl"},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
        {"cat": "kernel", "name": "void realness::cuda::row_kernel<...>"},
        {"cat": "gpu_memset", "name": "Memset (Device)"},
        {"ph": "M", "name": "process_name"},
    ]
    assert kernel_names({"traceEvents": events}) == ["void realness::cuda::row_kernel<...>"]
