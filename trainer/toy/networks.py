"""The networks of the papers' 2-D experiments, as ensembles of independent members in one module.

Toy experiments are repeated over seeds, and a network of a few thousand weights does not keep a
processor busy. So each network here consists of S independent members: member m is initialised from
seed m as it would be alone, and processes only its own rows. Rows are interleaved: row r of
[B * S, C] is sample r // S of member r % S. With one member it is the plain network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

POINT_DIM = 2


def member_generators(
    seeds: Sequence[int], network: Literal["G", "D"]
) -> tuple[torch.Generator, ...]:
    """Random generators for the members' initial weights, different for G and D of the same seed.

    Raises:
        ValueError: for an empty ensemble.
    """
    if not seeds:
        raise ValueError("seeds is empty; give one seed per member")
    offset = 1 if network == "D" else 0
    return tuple(torch.Generator().manual_seed(2 * seed + offset) for seed in seeds)


def split_members(rows: Tensor, members: int, features: int) -> Tensor:
    """Interleaved rows [B * S, features] -> a view of them, [S, B, features].

    Raises:
        ValueError: if the number of features is wrong, or the number of rows not a multiple of S.
    """
    if rows.dim() != 2 or rows.shape[1] != features or rows.shape[0] % members:
        raise ValueError(
            f"rows have shape {tuple(rows.shape)}, expected [B * {members}, {features}]: one row "
            "per sample and member"
        )
    return rows.view(-1, members, features).transpose(0, 1)


def interleave_members(x: Tensor) -> Tensor:
    """[S, B, ...] -> interleaved rows [B * S, ...]."""
    return x.transpose(0, 1).flatten(0, 1)


class EnsembleLinear(nn.Module):
    """S independent linear layers, on interleaved rows: [B * S, in] -> [B * S, out].

    Member m's weight [in, out] and bias [out] are drawn from `generators[m]`, uniform in
    +-1/sqrt(in), as in `torch.nn.Linear`.
    """

    def __init__(
        self, in_features: int, out_features: int, generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        self.members = len(generators)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(self.members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(self.members, 1, out_features))
        bound = in_features**-0.5
        with torch.no_grad():
            for m, generator in enumerate(generators):
                for parameter in (self.weight, self.bias):
                    # On the generator's device, which may differ from the parameter's (meta).
                    start = torch.empty(parameter.shape[1:], device="cpu")
                    parameter[m].copy_(start.uniform_(-bound, bound, generator=generator))

    def forward_members(self, x: Tensor) -> Tensor:
        """The layer on rows that are split by member: [S, B, in] -> [S, B, out]."""
        return torch.baddbmm(self.bias, x, self.weight)

    def forward(self, rows: Tensor) -> Tensor:
        x = split_members(rows, self.members, self.in_features)
        return interleave_members(self.forward_members(x))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, members={self.members}"


class EnsembleMaxout(EnsembleLinear):
    """A linear layer whose outputs are maxima over pieces (Goodfellow et al., 2013, eq. 1 and 2).

    Interleaved rows [B * S, in] -> [B * S, out]; output j is the largest of `pieces` linear
    functions of the row.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pieces: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        super().__init__(in_features, pieces * out_features, generators)
        self.pieces = pieces

    def forward(self, rows: Tensor) -> Tensor:
        x = self.forward_members(split_members(rows, self.members, self.in_features))
        return interleave_members(x.unflatten(2, (self.pieces, -1)).amax(2))


class EnsembleBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each member over its own rows: [B * S, features] -> the same.

    Interleaved rows of S members are B rows of S * features channels, so this is torch's layer.
    With `weight_std`, member m's weights start as N(1, weight_std) draws of `generators[m]`, else
    as 1.
    """

    def __init__(
        self, features: int, generators: Sequence[torch.Generator], weight_std: float = 0.0
    ) -> None:
        super().__init__(len(generators) * features)
        if not weight_std:
            return
        with torch.no_grad():
            for weight, generator in zip(self.weight.split(features), generators, strict=True):
                # On the generator's device, which may differ from the parameter's (meta).
                start = torch.empty(features, device="cpu")
                weight.copy_(start.normal_(1.0, weight_std, generator=generator))

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows.view(-1, self.num_features)).view_as(rows)


def _perceptron(
    widths: Sequence[int],
    generators: Sequence[torch.Generator],
    *,
    batch_norm: bool,
    bn_std: float = 0.0,
) -> nn.Sequential:
    """Linear layers of the given widths, with optional batch normalisation and ReLU in between."""
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(widths[:-1]):
        layers.append(EnsembleLinear(below, above, generators))
        if batch_norm:
            layers.append(EnsembleBatchNorm(above, generators, bn_std))
        layers.append(nn.ReLU())
    head = EnsembleLinear(widths[-2], widths[-1], generators)
    return nn.Sequential(*layers, head)


class ToyGenerator(nn.Module):
    """RealnessGAN's generator of 2-D points (section 4): z [B * S, z_dim] -> points [B * S, 2].

    Four hidden layers of 400 units, each followed by batch normalisation (running statistics in
    eval mode) and ReLU. `seeds` holds one seed per member. `bn_std` is the standard deviation of
    the first weights of batch normalisation around 1: 0, or 0.02 in the paper's published script.
    Not meant to be sharded over ranks.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        z_dim: int = 32,
        width: int = 400,
        bn_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.z_dim, self.members = z_dim, len(seeds)
        widths = [z_dim, *[width] * 4, POINT_DIM]
        generators = member_generators(seeds, "G")
        self.layers = _perceptron(widths, generators, batch_norm=True, bn_std=bn_std)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class ToyDiscriminator(nn.Module):
    """RealnessGAN's discriminator of 2-D points: [B * S, 2] -> outputs [B * S, num_outputs].

    Three hidden LinearMaxout layers of 200 units with 5 pieces, no normalisation, a linear head.
    """

    def __init__(
        self, num_outputs: int, seeds: Sequence[int], *, width: int = 200, pieces: int = 5
    ) -> None:
        super().__init__()
        self.members = len(seeds)
        generators = member_generators(seeds, "D")
        self.layers = nn.Sequential(
            EnsembleMaxout(POINT_DIM, width, pieces, generators),
            EnsembleMaxout(width, width, pieces, generators),
            EnsembleMaxout(width, width, pieces, generators),
            EnsembleLinear(width, num_outputs, generators),
        )

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points)


class FarGenerator(nn.Module):
    """FAR-GAN's generator of 2-D points (table 3): z [B * S, 2] -> points [B * S, 2].

    Three hidden layers of 64 units with ReLU.
    """

    def __init__(self, seeds: Sequence[int], *, z_dim: int = POINT_DIM, width: int = 64) -> None:
        super().__init__()
        self.z_dim, self.members = z_dim, len(seeds)
        widths = [z_dim, *[width] * 3, POINT_DIM]
        self.layers = _perceptron(widths, member_generators(seeds, "G"), batch_norm=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class FarDiscriminator(nn.Module):
    """FAR-GAN's discriminator of 2-D points (table 4): [B * S, 2] -> outputs [B * S, num_outputs].

    Three hidden layers of 64 units with ReLU; in the paper there is one output.
    """

    def __init__(self, num_outputs: int, seeds: Sequence[int], *, width: int = 64) -> None:
        super().__init__()
        self.members = len(seeds)
        widths = [POINT_DIM, *[width] * 3, num_outputs]
        self.layers = _perceptron(widths, member_generators(seeds, "D"), batch_norm=False)

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points)
