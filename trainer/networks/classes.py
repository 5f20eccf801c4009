"""Classes of images: which ones generated images have, and how networks take them.

Networks take classes as a condition, float32 [B, num_classes]: for each image a row with 1 at its
class. Rows between two classes interpolate, because all networks embed a condition linearly first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from realness.trainer.networks.spectral_norm import SpectralLinear
from realness.trainer.randomness import Draws, Purpose


class ClassDistribution:
    """The classes of generated images: those of the data, in the same proportions.

    counts: number of real images of each class. A sample's class depends only on its draws, so it
    is the same on any number of ranks. Classes without images are never drawn.
    """

    def __init__(self, counts: Sequence[int], device: torch.device | str = "cpu") -> None:
        shares = torch.tensor(counts, dtype=torch.float64).cumsum(0)
        self._ends = (shares / shares[-1]).float().to(device)
        self.num_classes = len(counts)

    def draw(self, draws: Draws) -> Tensor:
        """The classes of the samples of `draws`, int64 [B]."""
        place = draws.uniform(Purpose.CLASS, 1).flatten()
        return torch.searchsorted(self._ends, place, right=True)

    def condition(self, draws: Draws) -> Tensor:
        """The condition of the samples of `draws`, float32 [B, num_classes]."""
        return one_hot(self.draw(draws), self.num_classes)

    def of_one(self, number: int, count: int) -> Tensor:
        """The condition of `count` images of one class, float32 [count, num_classes]."""
        classes = torch.full((count,), number, dtype=torch.int64, device=self._ends.device)
        return one_hot(classes, self.num_classes)


def one_hot(classes: Tensor, num_classes: int) -> Tensor:
    """The condition for classes int64 [B], float32 [B, num_classes], without synchronisation."""
    return (classes[:, None] == torch.arange(num_classes, device=classes.device)).float()


def check_condition(condition: Tensor | None, batch: int, num_classes: int) -> None:
    """Raise ValueError unless the condition is [batch, num_classes], or none for 0 classes."""
    expected = (batch, num_classes) if num_classes else None
    shape = None if condition is None else tuple(condition.shape)
    if shape != expected:
        raise ValueError(f"the condition (classes) has shape {shape}, expected {expected}")


class ClassProjection(nn.Module):
    """The term of D's outputs that depends on the class, [B, num_outputs].

    Output k gets y^T V_k phi(x): Miyato & Koyama, "cGANs with Projection Discriminator" (ICLR
    2018), equation 3, with an embedding V_k for each output; y is the condition [B, num_classes]
    and phi(x) features [B, num_features]. The paper has one output. For RealnessGAN's N outcomes we
    know of no paper; with this choice and one class, D is an unconditional D, whose head has V_k
    added to its row k.

    With `spectral`, the matrix of all embeddings is spectrally normalised, as the paper's is.
    Weights start as those of a linear head on phi.
    """

    def __init__(
        self, num_classes: int, num_features: int, num_outputs: int, *, spectral: bool = False
    ) -> None:
        super().__init__()
        self.shape = num_outputs, num_features
        kind = SpectralLinear if spectral else nn.Linear
        self.embedding = kind(num_classes, num_outputs * num_features, bias=False)
        nn.init.uniform_(self.embedding.weight, -(num_features**-0.5), num_features**-0.5)
        if isinstance(self.embedding, SpectralLinear):
            self.embedding.start_power_iteration()

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        embedded = self.embedding(condition.to(features.dtype)).unflatten(1, self.shape)
        return torch.matmul(embedded, features[:, :, None]).squeeze(2)


class ProjectingHead(nn.Module):
    """Base of discriminators whose outputs get a `ClassProjection`, if there are classes."""

    num_classes: int
    projection: ClassProjection | None

    def prepare_classes(
        self, num_classes: int, num_features: int, num_outputs: int, *, spectral: bool = False
    ) -> None:
        """Set the attributes; 0 classes for an unconditional network."""
        self.num_classes = num_classes
        self.projection = (
            ClassProjection(num_classes, num_features, num_outputs, spectral=spectral)
            if num_classes
            else None
        )

    def projected(self, output: Tensor, features: Tensor, condition: Tensor | None) -> Tensor:
        """The output [B, num_outputs] plus the term of the class.

        phi is the sum over pixels of the features [B, F, H, W], as in the paper, also where the
        output itself comes from a linear layer on all pixels.
        """
        check_condition(condition, output.shape[0], self.num_classes)
        if self.projection is None or condition is None:
            return output
        return output + self.projection(features.sum((2, 3)), condition)
