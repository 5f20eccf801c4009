"""Records where a block of code makes the host wait, and what it sends to other ranks."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators whose result the host needs before it can continue, whatever the device.
WAITING_OPERATORS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
}
# Methods that read the values of a tensor without an operator when it lies on the CPU already.
WAITING_METHODS = ("cpu", "numpy", "tolist")


class Watch(TorchDispatchMode):
    """Counts `waits` for the device, by "file:function"; bytes `sent` and `calls` by collective.

    It works on the CPU, where nothing waits, by counting operations that would wait on a GPU.
    (`tensor.to("cpu")` is a no-op there and is not counted.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._originals: dict[tuple[Any, str], Any] = {}

    def __enter__(self) -> Watch:
        # Not earlier: it chooses its device when it is first imported.
        from deepspeed.accelerator import get_accelerator

        # DeepSpeed's call, which does nothing on the CPU.
        waiting = [(Tensor, name) for name in WAITING_METHODS]
        for owner, name in (*waiting, (get_accelerator(), "synchronize")):
            self._originals[owner, name] = getattr(owner, name)
            setattr(owner, name, self._counting(self._originals[owner, name]))
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for (owner, name), original in self._originals.items():
            setattr(owner, name, original)
        super().__exit__(kind, error, traceback)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if waits(func, args):
            self.waits[caller()] += 1
        if name.startswith("c10d::"):
            self.calls[name.removeprefix("c10d::")] += 1
            self.sent[name.removeprefix("c10d::")] += sum(
                value.nbytes for value in tree_leaves(args[0]) if isinstance(value, Tensor)
            )
        return func(*args, **(kwargs or {}))

    def _counting(self, method: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.waits[caller()] += 1
            return method(*args, **kwargs)

        return counted


def waits(operator: Any, args: Any) -> bool:
    """Whether the host needs a value from the device to continue after `operator`."""
    name = operator._schema.name
    return name in WAITING_OPERATORS or (name == "aten::index" and _has_mask(args[1]))


def _has_mask(indices: Any) -> bool:
    """Whether the number of chosen elements depends on values."""
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)


def caller() -> str:
    """The innermost function outside torch and this file, as "file:function"."""
    frame = sys._getframe(1)
    torch_folder = str(Path(torch.__file__).parent)
    while frame.f_back and (frame.f_code.co_filename.startswith((torch_folder, __file__, "<"))):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
