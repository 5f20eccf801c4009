"""Loads the compiled library once and decides which implementation serves a call."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from . import build

# "emu" runs the CUDA kernels on the CPU, thread by thread; only for the tests. "fake" computes
# only shapes, of tensors without values; for counting.
Impl = Literal["auto", "cuda", "cpu", "reference", "emu", "fake"]

OPS = (
    "bias_act",
    "demodulate",
    "philox",
    "realness_divergence",
    "realness_emd",
    "realness_kl",
    "realness_loss",
    "resample_logits",
    "spectral_norm",
    "squared_norm",
    "upfirdn2d",
    "warp",
)

logger = logging.getLogger("realness.kernels")


@dataclass(frozen=True)
class Operator:
    """The Python half of a compiled operator: schema, shapes for tracing, and derivative.

    fake: the outputs' shapes, dtypes and strides, as `torch.library.register_fake` takes it.
    save: stores what the derivative needs, as `torch.library.register_autograd`'s setup_context.
    backward: (ops, ctx, *gradients) -> a gradient or None for every input, where `ops` is the
    namespace of operators in which the forward ran.
    """

    schema: str
    fake: Callable[..., Any]
    save: Callable[..., None] | None = None
    backward: Callable[..., Any] | None = None

    def register(self, namespace: str) -> None:
        name = f"{namespace}::{self.schema.partition('(')[0]}"
        signature = self.schema[self.schema.index("(") :]
        torch.library.define(name, signature, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(name, self.fake)
        if self.backward is None:
            return
        formula = functools.partial(self.backward, getattr(torch.ops, namespace))

        def backward(ctx: Any, *gradients: Any) -> Any:
            if all(gradient is None for gradient in gradients):
                return (None,) * len(ctx.needs_input_grad)
            return formula(ctx, *gradients)

        torch.library.register_autograd(name, backward, setup_context=self.save)


def mark_internal(ctx: Any, *outputs: Tensor) -> None:
    """Mark outputs that only the backward kernel reads, so that no gradient is computed for them.

    Autograd would otherwise create gradients of zeros, at one launch each.
    """
    ctx.mark_non_differentiable(*outputs)
    ctx.set_materialize_grads(False)


def differentiate(
    formula: Callable[..., Any], inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients of a PyTorch formula, to any order, for derivatives too rare for a kernel."""
    with torch.enable_grad():
        leaves = [x.view_as(x) if x.requires_grad else x for x in inputs]
        outputs = formula(*leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    used = [(y, g) for y, g in zip(outputs, gradients, strict=True) if g is not None]
    wanted = [x for x in leaves if x.requires_grad]
    if not used or not wanted:
        return [None] * len(leaves)
    found = iter(
        torch.autograd.grad(
            [y for y, _ in used],
            wanted,
            [g for _, g in used],
            allow_unused=True,
            create_graph=torch.is_grad_enabled(),
        )
    )
    return [next(found) if x.requires_grad else None for x in leaves]


def load(path: Path, namespace: str) -> None:
    """Loads a compiled library and registers the Python half of its operators."""
    for part in filter(None, (path, build.cuda_library(path))):
        torch.ops.load_library(str(part))
    _register(namespace)


def _register(namespace: str) -> None:
    """Registers the Python half of every operator."""
    for op in OPS:
        for operator in importlib.import_module(f"realness.kernels.{op}.op").OPERATORS:
            operator.register(namespace)


class Status(NamedTuple):
    """The devices that the compiled library serves, its path, and the reason."""

    devices: frozenset[str]
    library: Path | None
    reason: str


def find_library(mode: str, *, rebuild: bool = False) -> Path:
    """The library that came with the package, or the cached one, built now if necessary."""
    bundled = build.bundled_library()
    cuda_is_missing = torch.version.cuda is not None and build.find_nvcc() is not None
    if bundled is not None and (build.has_cuda(bundled) or not cuda_is_missing):
        found = bundled
    else:
        found = build.cached_library(
            build.make_plan(),
            retry=rebuild or mode == "require",
            # A warning, because it takes minutes, and most commands show no messages below that.
            say=lambda message: logger.warning("kernels: %s", message),
        )
    if mode == "require" and lacks_cuda(found):
        raise build.BuildError(
            f"there is a CUDA device, but {found} has no kernels for it, and nvcc was not found; "
            "install the CUDA toolkit or set CUDA_HOME"
        )
    return found


def lacks_cuda(path: Path) -> bool:
    """Whether there is a CUDA device that the library does not support."""
    return torch.cuda.is_available() and not build.has_cuda(path)


@functools.cache
def status(rebuild: bool = False) -> Status:
    """Finds and loads the library, once. Raises BuildError only for REALNESS_BUILD=require."""
    mode = build.build_mode()
    if mode == "never":
        return Status(frozenset(), None, "REALNESS_BUILD=never")
    try:
        path = find_library(mode, rebuild=rebuild)
        load(path, "realness")
    except (build.BuildError, OSError) as error:
        if mode == "require":
            raise
        logger.warning("the kernels could not be built: %s", error)
        return Status(frozenset(), None, str(error).partition("\n")[0])
    usable = {"cpu", "cuda"} if torch.cuda.is_available() and not lacks_cuda(path) else {"cpu"}
    reason = f"{path} was built without nvcc, for the CPU only" if lacks_cuda(path) else str(path)
    return Status(frozenset(usable), path, reason)


_choice: Impl = "auto"


@contextmanager
def implementation(choice: Impl) -> Iterator[None]:
    """Within the block, `choice` serves every call of an operator in this process.

    "auto", the default, uses the compiled library if it supports the tensors' device, except for
    operators whose reference is faster there, and the reference otherwise; it logs which. "cuda"
    and "cpu" are the two halves of the library; a call with tensors that they do not support raises
    ValueError. "reference" is plain PyTorch. "fake" computes only shapes, for tensors of torch's
    FakeTensorMode.

    The choice belongs to the process, not to a thread or a context variable: autograd runs the
    backward passes of CUDA tensors, including the forward passes that activation checkpointing
    repeats, in separate threads, which inherit neither. So threads must not make different choices
    at the same time. A derivative always uses the implementation of its forward pass, even if the
    choice has changed since. Contexts nest: each restores the previous choice, also when its block
    raises.

    Raises:
        ValueError: for an unknown name.
    """
    global _choice
    if choice not in get_args(Impl):
        raise ValueError(f"impl={choice!r}; expected auto, cuda, cpu or reference")
    before, _choice = _choice, choice
    try:
        yield
    finally:
        _choice = before


_emulated: set[str] = set()


def load_emulated(path: Path) -> None:
    """Makes `implementation("emu")` available: the CUDA kernels, emulated."""
    if not _emulated:
        load(path, "realness_emu")
        _emulated.add("emu")


@functools.cache
def _fake_namespace() -> str:
    """The namespace of operators that compute shapes only: no library is needed."""
    _register("realness_fake")
    return "realness_fake"


@functools.cache
def _namespace(impl: str, device: str) -> str | None:
    """The operators' namespace for `impl` on `device`; None means the reference. Logged once."""
    if impl == "reference" or (impl == "auto" and device not in ("cuda", "cpu")):
        return None
    if impl == "fake":
        return _fake_namespace()
    if impl == "emu":
        if device != "cpu" or not _emulated:
            raise ValueError("impl='emu' needs tensors on the CPU and load_emulated() before it")
        return "realness_emu"
    wanted = device if impl == "auto" else impl
    found = status()
    if wanted in found.devices and wanted == device:
        logger.info("kernels on %s: compiled (%s)", device, found.reason)
        return "realness"
    if impl == "auto":
        logger.warning("kernels on %s: PyTorch reference (%s)", device, found.reason)
        return None
    if wanted not in found.devices:
        raise ValueError(
            f"impl={impl!r} is not available here ({found.reason}); use impl='auto' or 'reference'"
        )
    raise ValueError(f"impl={impl!r} was given tensors on {device}; use impl='auto'")


def _compiled_namespace(impl: str, device: str) -> str | None:
    return _namespace(impl, device)


# What torch.compiler.assume_constant_result does, which would import all of torch._dynamo: more
# than a second, also for programs that compile nothing.
_compiled_namespace._dynamo_marked_constant = True  # type: ignore[attr-defined]


def select(tensor: Tensor, *, compiled_on_cpu: bool = True) -> Any:
    """The `torch.ops` namespace of operators for this tensor, or None for the reference.

    compiled_on_cpu: whether "auto" takes the compiled operator on a CPU; False where the reference
    is faster.
    """
    if _choice == "auto" and not compiled_on_cpu and tensor.device.type == "cpu":
        return None
    namespace = _compiled_namespace(_choice, tensor.device.type)
    return None if namespace is None else getattr(torch.ops, namespace)
