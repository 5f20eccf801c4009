"""A CUDA graph imitated on the CPU: operators recorded once, then replayed on the same memory.

As in a real capture, Python code is not replayed, nothing is computed during the recording, and
code that waits for a value or copies one from the host raises an error. (On a GPU the first is an
error as well; the second is worse: the graph would read host memory that has been freed.)
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers.watching import waits


class NotCapturable(RuntimeError):
    """The recorded code would be wrong, or fail, on a GPU."""


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class RecordedGraph:
    """A `Graph` for `GraphedUpdate`."""

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def capture(self, work: Callable[[], Any]) -> Any:
        with _Recorder() as recorder:
            result = work()
        recorder.undo()
        self._calls = recorder.calls
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for operator, args, kwargs, before in self._calls:
            after = operator(*args, **kwargs)
            for value, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(value, Tensor):
                    # Views and results of in-place operators exist already.
                    if value.data_ptr() != new.data_ptr():
                        value.copy_(new)
                elif hasattr(new, "wait"):
                    new.wait()  # a collective


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        # Not isinstance, which makes some lazy objects evaluate themselves.
        alive = [value for value in gc.get_objects() if issubclass(type(value), Tensor)]
        self._existing = {storage(value) for value in alive}
        self._known = set(self._existing)
        self._originals: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args):
            raise NotCapturable(f"{func} makes the host wait")
        for tensor in tensors((args, kwargs)):
            if storage(tensor) not in self._known:
                raise NotCapturable(f"{func} reads a tensor that the host has made meanwhile")
        self._keep_originals(func, args, kwargs)
        result = func(*args, **kwargs)
        self._known.update(storage(tensor) for tensor in tensors(result))
        self.calls.append((func, args, kwargs, result))
        return result

    def _keep_originals(self, func: Any, args: Any, kwargs: Any) -> None:
        """Saves the tensors that existed before and are written to."""
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            for tensor in tensors(value):
                key = storage(tensor)
                if key in self._existing and key not in self._originals:
                    memory = tensor.untyped_storage()
                    self._originals[key] = memory, memory.clone()

    def undo(self) -> None:
        """A capture does nothing."""
        for memory, original in self._originals.values():
            memory.copy_(original)
