"""Spectral normalisation (Miyato et al., ICLR 2018) with a forward pass that changes no state.

A layer uses W / sigma, sigma = u^T W v, where u and v are constants of the forward pass. Each call
of `update_spectral_norm` advances them by one power iteration, for all layers of a network; the
training step calls it once per discriminator update. So the real batch, the fake batch and the
gradient penalty of a step use the same normalised weights, and any number of forward passes
(evaluation, the generator's step) leaves the network unchanged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realness import kernels
from realness.trainer.networks.buffers import Float32Buffers
from realness.trainer.networks.common import without_autocast

NUM_START_ITERATIONS = 5


class SpectralNorm(Float32Buffers):
    """Base of spectrally normalised layers: a weight [out, ...] and its singular vectors.

    Buffers u [out] and v [in * ...] are fp32, persistent and of unit length. A layer calls
    `start_power_iteration` at the end of its constructor; call it again after replacing the weight.
    """

    weight: nn.Parameter
    u: Tensor
    v: Tensor

    def start_power_iteration(self) -> None:
        """Draw new u and v and advance them by a few power iterations."""
        weight = self.weight
        rows, columns = weight.shape[0], weight[0].numel()
        like = {"device": weight.device, "dtype": torch.float32}
        self.register_buffer("u", F.normalize(torch.randn(rows, **like), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(columns, **like), dim=0))
        for _ in range(NUM_START_ITERATIONS):
            update_spectral_norm(self)

    def normalized_weight(self, dtype: torch.dtype) -> Tensor:
        """W / (u^T W v), computed in fp32 (fp64 for an fp64 layer) and returned as `dtype`.

        Differentiable in W through sigma, with u and v constant (Miyato et al., eq. 12).
        """
        with without_autocast(self.weight.device):
            weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
            (scaled,) = kernels.spectral_scale([weight], [self.u], [self.v])
        return scaled.to(dtype)


class SpectralConv2d(SpectralNorm, nn.Conv2d):
    """Conv2d with a spectrally normalised weight: [B, in, H, W] -> [B, out, H', W'].

    The weight is initialised to N(0, 0.02), as in DCGAN, and the bias, if any, to 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.start_power_iteration()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, 0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalized_weight(x.dtype), self.bias)


class SpectralLinear(SpectralNorm, nn.Linear):
    """Linear with a spectrally normalised weight: [B, in] -> [B, out].

    The weight, and the bias if any, are initialised as in `torch.nn.Linear`.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.start_power_iteration()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized_weight(x.dtype), self.bias)


@torch.no_grad()
def update_spectral_norm(module: nn.Module) -> None:
    """Advance u and v of every spectrally normalised layer in `module` by ONE power iteration.

    All layers are processed in one call of `kernels.spectral_norm_step`. No-op for a module without
    such layers, and on the meta device, where vectors have no values.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, SpectralNorm)]
    if not layers or layers[0].weight.is_meta:
        return
    with without_autocast(layers[0].weight.device):
        kernels.spectral_norm_step(
            [layer.weight for layer in layers],
            [layer.u for layer in layers],
            [layer.v for layer in layers],
        )
