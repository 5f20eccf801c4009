"""StyleGAN2's mapping networks: from latents and classes to styles, and from classes alone.

Karras et al., "A Style-Based Generator Architecture for GANs" (CVPR 2019, [1]); classes as in the
published code of "Training Generative Adversarial Networks with Limited Data" (NeurIPS 2020, [2]).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from realness.trainer.networks.common import without_autocast
from realness.trainer.networks.stylegan2_layers import EqualLinear

MAPPING_LR_MULTIPLIER = 0.01


class MappingNetwork(nn.Module):
    """f: z [B, z_dim] -> w [B, w_dim], in fp32 at any precision setting ([1], section 2).

    z is scaled to unit mean square, then passes through fully connected layers with a hundredth of
    the learning rate. With `num_classes`, a linear embedding of the condition [B, num_classes] in
    w_dim dimensions is scaled in the same way and concatenated to z ([2]). With z_dim 0, the
    embedding is the only input: f(None, condition), which D uses.
    """

    def __init__(self, z_dim: int, w_dim: int, num_layers: int, num_classes: int = 0) -> None:
        super().__init__()
        inputs = z_dim + (w_dim if num_classes else 0)
        self.layers = nn.Sequential(
            *(
                EqualLinear(
                    w_dim if number else inputs,
                    w_dim,
                    act="lrelu",
                    lr_multiplier=MAPPING_LR_MULTIPLIER,
                )
                for number in range(num_layers)
            )
        )
        self.embedding = EqualLinear(num_classes, w_dim) if num_classes else None

    def forward(self, z: Tensor | None, condition: Tensor | None = None) -> Tensor:
        given = z if z is not None else condition
        assert given is not None
        with without_autocast(given.device):
            parts = [] if z is None else [_unit_mean_square(z)]
            if self.embedding is not None and condition is not None:
                parts.append(_unit_mean_square(self.embedding(condition.to(self.embedding.weight))))
            return self.layers(parts[0] if len(parts) == 1 else torch.cat(parts, 1))


def _unit_mean_square(x: Tensor) -> Tensor:
    """The rows of x [B, C], each scaled to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
