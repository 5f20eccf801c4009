"""The memory layout of images and activations: channels_last, or contiguous (NCHW).

Convolutions and elementwise operations keep the layout of their input; a single operand in the
other layout is enough to change the layout of everything after it. Weights are stored contiguous in
both modes, as in DeepSpeed's flat buffers and in checkpoints.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from realness.kernels import format_of

Setting = Literal["auto", "channels_last", "contiguous"]


def choose_layout(setting: Setting) -> torch.memory_format:
    """The memory format for a setting of the configuration."""
    return torch.contiguous_format if setting == "contiguous" else torch.channels_last


class ImageNetwork(nn.Module):
    """A network on images, with the memory layout of its activations from the first layer on."""

    memory_format: torch.memory_format = torch.channels_last

    def lay_out(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] in the network's layout."""
        return x.contiguous(memory_format=self.memory_format)


class _HoldLayout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.layout = format_of(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return hold_layout(grad.contiguous(memory_format=ctx.layout))


def hold_layout(x: Tensor) -> Tensor:
    """Return x [B, C, H, W] unchanged, but give its gradients of any order the layout of x.

    Use it before or after operations whose derivatives are contiguous: views of a flat tensor,
    concatenations, and pooling, to whose second derivative autograd adds zeros.
    """
    return _HoldLayout.apply(x) if torch.is_grad_enabled() else x  # type: ignore[return-value]
