"""Loads the compiled library once and decides which implementation serves a call."""

from __future__ import annotations

import functools
import logging
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

# "emu" runs the CUDA kernels on the CPU, thread by thread: it exists for the tests.
Impl = Literal["auto", "cuda", "cpu", "reference", "emu"]

logger = logging.getLogger("realness.kernels")


class Status(NamedTuple):
    """What the compiled library offers here, and why."""

    devices: frozenset[str]
    reason: str


@functools.cache
def status() -> Status:
    """Which implementations the compiled library provides."""
    return Status(frozenset(), "the compiled library is not available")


@functools.cache
def _namespace(impl: str, device: str) -> str | None:
    """The operator namespace for `impl` on `device`; None means the reference. Logged once each."""
    if impl not in ("auto", "cuda", "cpu", "reference", "emu"):
        raise ValueError(f"impl={impl!r}; expected auto, cuda, cpu or reference")
    if impl == "reference" or (impl == "auto" and device not in ("cuda", "cpu")):
        return None
    wanted = device if impl == "auto" else impl
    if wanted in status().devices and device == ("cpu" if wanted == "emu" else wanted):
        logger.info("kernels on %s: compiled (%s)", device, status().reason)
        return "realness_emu" if wanted == "emu" else "realness"
    if impl == "auto":
        logger.warning("kernels on %s: PyTorch reference (%s)", device, status().reason)
        return None
    if wanted not in status().devices:
        raise ValueError(
            f"impl={impl!r} is not available: {status().reason}; use impl='auto' or 'reference'"
        )
    raise ValueError(f"impl={impl!r} was given tensors on {device}; use impl='auto'")


@torch.compiler.assume_constant_result
def _compiled_namespace(impl: str, device: str) -> str | None:
    return _namespace(impl, device)


def select(impl: Impl, *tensors: Tensor) -> Any:
    """The operators (a `torch.ops` namespace) that serve these tensors, or None: the reference."""
    namespace = _compiled_namespace(impl, tensors[0].device.type)
    return None if namespace is None else getattr(torch.ops, namespace)
