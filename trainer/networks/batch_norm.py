"""Batch normalisation with the statistics of the global batch (all ranks)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from realness.trainer.distributed import collectives, ranks
from realness.trainer.networks.buffers import Float32Buffers


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether a sample's output depends on the other samples of its batch."""
    return any(isinstance(layer, GlobalBatchNorm) for layer in module.modules())


@contextlib.contextmanager
def parts_of_one_batch(module: nn.Module, num_forwards: int) -> Iterator[None]:
    """Adjust the momenta of running statistics for a batch in `num_forwards` forward passes.

    In the block, these passes together move the running statistics as far as one pass would: the
    old values keep the total weight 1 - momentum. (Each pass is still normalised by its own
    statistics.)
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GlobalBatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        if num_forwards > 1:
            for layer in layers:
                layer.momentum = 1 - (1 - layer.momentum) ** (1 / num_forwards)
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _reduced_dims(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...], to broadcast against x [B, C, ...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def prefers_one_pass(x: Tensor) -> bool:
    """Whether `torch.var_mean` is fast: on CUDA; on the CPU two passes are 12 times faster."""
    return x.is_cuda


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [C], biased variance [C]) of x [B, C, ...]."""
    dims = _reduced_dims(x)
    if prefers_one_pass(x):
        variance, mean = torch.var_mean(x, dim=dims, correction=0)
        return mean, variance
    mean = x.mean(dims)
    return mean, (x - _per_channel(mean, x)).square_().mean(dims)


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of each channel, saving only x in its own precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mean, variance = _moments(x.to(torch.promote_types(x.dtype, torch.float32)))
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:  # type: ignore[override]
        """d mean/dx = 1/n and d variance/dx = 2(x - mean)/n, as one multiply-add over x."""
        x, mean = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        slope = 2 * grad_variance / n
        offset = grad_mean / n - slope * mean
        terms = _per_channel(offset, x), x, _per_channel(slope, x)
        if torch.compiler.is_compiling():  # which fuses the conversion, and traces no `out`
            return torch.addcmul(*terms).to(x.dtype)
        return torch.addcmul(*terms, out=torch.empty_like(x))  # written in the dtype of x at once


class _Normalize(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, with gradients to all five.

    PyTorch's kernel treats mean and variance as constants. Their gradients follow from the two sums
    that it computes anyway: with w = weight / sqrt(variance + eps),
    dL/dmean = -w dL/dbias and dL/dvariance = -weight / (2 (variance + eps)) dL/dweight.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, variance, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, mean, variance, weight = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        power = variance + ctx.eps
        grad_mean = -grad_bias * weight * power.rsqrt()
        grad_variance = -0.5 * grad_weight * weight / power
        return grad_x, grad_mean, grad_variance, grad_weight, grad_bias, None


class GlobalBatchNorm(Float32Buffers):
    """Batch normalisation (Ioffe & Szegedy, 2015) over the batch of all ranks.

    x: [B, C] or [B, C, ...], any floating dtype; returns the same shape and dtype. Statistics are
    fp32 (fp64 for fp64 input). In training mode they are those of the global batch, differentiable
    through the merge over ranks, so that splitting a batch over ranks changes nothing; with
    `statistics="local"` each rank uses its own rows (and its own running statistics). In eval mode
    the running statistics are used. The running variance uses the unbiased estimate, as in
    `torch.nn.BatchNorm2d`. The weight is initialised to N(1, 0.02) and the bias to 0, as in DCGAN;
    with `affine=False` both are None, and the result has mean 0 and variance 1.

    Differentiable once: a second derivative raises an error.

    Raises:
        ValueError: in training mode, if a channel has a single value (no variance).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        affine: bool = True,
        statistics: Literal["global", "local"] = "global",
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.affine = affine
        self.statistics = statistics
        self.momentum = momentum
        self.eps = eps
        if affine:
            self.weight = nn.Parameter(torch.empty(num_features))
            self.bias = nn.Parameter(torch.empty(num_features))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.affine:
            nn.init.normal_(self.weight, 1.0, 0.02)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        mean, variance = self._batch_moments(x)
        if self.affine:
            weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)
        else:
            weight, bias = torch.ones_like(mean), torch.zeros_like(mean)
        return _Normalize.apply(x, mean, variance, weight, bias, self.eps)  # type: ignore[return-value]

    def _batch_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.numel() // x.shape[1]
        mean, variance = _ChannelMoments.apply(x)  # type: ignore[misc]
        if self.statistics == "global":
            count *= ranks.world_size()
            mean, variance = collectives.global_moments(mean, variance)
        if count < 2:
            raise ValueError(
                f"batch normalisation needs more than one value per channel to train, got an input "
                f"of shape {tuple(x.shape)}; use a larger batch"
            )
        self._update_running(mean.detach(), variance.detach() * (count / (count - 1)))
        return mean, variance

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"{self.num_features}, affine={self.affine}, statistics={self.statistics!r}"
