"""Buffers that keep their precision when a network is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_HALF = (torch.bfloat16, torch.float16)


class Float32Buffers(nn.Module):
    """A module whose fp32 buffers stay fp32 when it is cast to bf16 or fp16.

    Running statistics and singular vectors are small, and too inaccurate with 8 mantissa bits.
    Moves between devices and `.double()` work as for any module.
    """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype in _HALF:
                self._buffers[name] = old.to(new.device)
        return self
