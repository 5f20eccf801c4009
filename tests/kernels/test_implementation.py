"""The context that chooses the implementation: what it affects, and where it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from realness import kernels
from realness.kernels import library
from tests.helpers.kernel_calls import Recorder


def namespaces(function: Callable[[], object]) -> set[str]:
    """The libraries whose operators `function` calls; none for the reference."""
    with Recorder() as recorder:
        function()
    return {func.namespace for func in recorder.calls}


def called() -> set[str]:
    """The libraries that serve a call at this point."""
    return namespaces(lambda: kernels.bias_act(torch.ones(2, 3)))


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_contexts_nest_and_restore(impl: kernels.Impl) -> None:
    if impl == "cuda":
        pytest.skip("the tensors are on the CPU")
    ours = {"realness_emu" if impl == "emu" else "realness"}
    before = called()
    with kernels.implementation("reference"):
        assert called() == set()
        with kernels.implementation(impl):
            assert called() == ours
        assert called() == set()
        with pytest.raises(KeyError), kernels.implementation(impl):
            raise KeyError
        assert called() == set()
    assert called() == before


def test_the_default_is_the_compiled_library() -> None:
    assert called() == {"realness"}


def test_an_unknown_name_is_refused() -> None:
    """And does not change the choice."""
    with kernels.implementation("reference"):
        unknown = kernels.implementation("fast")  # type: ignore[arg-type]
        with (
            pytest.raises(ValueError, match="impl='fast'; expected auto, cuda, cpu or ref"),
            unknown,
        ):
            pass
        assert called() == set()


def test_tensors_elsewhere_are_refused() -> None:
    x = torch.ones(2, 3, device="meta")
    with kernels.implementation("cpu"), pytest.raises(ValueError, match="given tensors on meta"):
        kernels.squared_norm(x)


def test_a_derivative_keeps_to_the_forward_passes_choice() -> None:
    x = torch.randn(2, 3, requires_grad=True)

    def twice(loss: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        gradient.square().sum().backward()

    cases: list[tuple[kernels.Impl, kernels.Impl, set[str]]] = [
        ("cpu", "reference", {"realness"}),
        ("reference", "cpu", set()),
    ]
    for forward, other, expected in cases:
        with kernels.implementation(forward):
            loss = kernels.bias_act(x, None, "tanh").sum()
        with kernels.implementation(other):
            assert namespaces(lambda loss=loss: twice(loss)) == expected


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_recomputed_block_has_the_choice_in_another_thread(device: Any, compiled: bool) -> None:
    """Autograd has a thread for each CUDA device; on the CPU a thread of the test replaces it."""
    served: list[tuple[int, bool]] = []

    def block(x: Tensor) -> Tensor:
        served.append((threading.get_ident(), library.select(x) is not None))
        return kernels.squared_norm(x)

    x = torch.randn(2, 3, device=device, requires_grad=True)
    with kernels.implementation(device if compiled else "reference"):
        loss = checkpoint(block, x, use_reentrant=False).sum()
        if device == "cpu":
            in_a_thread(loss.backward)
        else:
            loss.backward()
    threads, choices = zip(*served, strict=True)
    assert len(set(threads)) == 2
    assert choices == (compiled, compiled)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * x.detach())


def test_compiled_code_follows_the_choice() -> None:
    """It is traced again if the choice has changed."""
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return graph.forward

    compiled = torch.compile(lambda x: kernels.squared_norm(x), fullgraph=True, backend=backend)
    x = torch.randn(2, 3)
    choices: list[kernels.Impl] = ["reference", "cpu", "reference", "cpu"]
    for choice in choices:
        with kernels.implementation(choice):
            torch.testing.assert_close(compiled(x), x.square().sum(1))
    assert ["realness" in graph for graph in graphs] == [False, True]
