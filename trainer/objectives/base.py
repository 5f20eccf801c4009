"""The interface of an objective, as used by training steps."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from realness.trainer.config import ObjectiveConfig
from realness.trainer.randomness import Draws


class Objective(Protocol):
    """Losses of D and G as functions of D's outputs [B, num_outputs].

    Outputs of any floating dtype; losses are fp32 (fp64 for fp64 outputs) means over the local
    rows, so that the average over equal ranks is the mean over the global batch. `draws_*` are the
    draws of the samples in the rows of the same name.
    """

    @property
    def num_outputs(self) -> int:
        """Width of D's head."""
        ...

    @property
    def needs_real_in_g_step(self) -> bool:
        """Whether G's step needs D's output on real images."""
        ...

    @property
    def code_dim(self) -> int:
        """Dimensions of the posterior code that G takes in addition to its noise; 0 for none."""
        ...

    @property
    def loss_couples_samples(self) -> bool:
        """Whether the loss of a batch differs from the mean of the losses of its pairs of rows."""
        ...

    def d_loss(self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws) -> Tensor:
        """The scalar that D minimises."""
        ...

    def g_loss(
        self, fake: Tensor, real: Tensor | None, draws_fake: Draws, draws_real: Draws | None
    ) -> Tensor:
        """The scalar that G minimises."""
        ...

    def score(self, output: Tensor) -> Tensor:
        """The scalar realness of each sample, [B], for penalties, selection and logs.

        It is computed from D's output without resampling, independently for each row.
        """
        ...

    def measures(
        self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws
    ) -> dict[str, Tensor]:
        """Additional scalars to log, from D's outputs in its step; no gradient is needed."""
        ...


class CodeObjective(Objective, Protocol):
    """An objective with `code_dim` > 0: D's output on a real image is a distribution over codes."""

    def code(self, output: Tensor, draws: Draws) -> Tensor:
        """A code [B, code_dim] for each row of the output [B, num_outputs].

        It is drawn from the row's distribution, unless the settings choose another source.
        """
        ...

    def factors(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each row's distribution, both [B, code_dim]."""
        ...

    def typical_factors(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the codes to sample with, both [code_dim]."""
        ...


class ObjectiveDefaults:
    """Defaults shared by most objectives: no code, no coupling of samples, no extra scalars."""

    @property
    def loss_couples_samples(self) -> bool:
        return False

    @property
    def code_dim(self) -> int:
        return 0

    def measures(
        self, real: Tensor, fake: Tensor, draws_real: Draws, draws_fake: Draws
    ) -> dict[str, Tensor]:
        return {}


def as_float32(output: Tensor) -> Tensor:
    """The tensor in fp32, or unchanged if its dtype is wider."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def build_objective(config: ObjectiveConfig, members: int = 1) -> Objective:
    """Build the objective that `config` describes.

    With `members` > 1, D is an ensemble of independent networks with interleaved rows: row r of its
    output belongs to member r % members. Losses are then means over the rows of all members.

    Raises:
        ValueError: if no pair of anchors has the divergence `config.anchor.anchor_kl`.
    """
    return config.build(members)
