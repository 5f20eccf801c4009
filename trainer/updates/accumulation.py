"""Exact gradient accumulation: the loss of a batch that passes through a network in several parts.

A loss that is a mean over samples is the mean of its parts' losses, and their gradients add up.
This fails if the loss couples the samples of a batch, as RealnessGAN's Gaussian of the batch does.
Then the outputs of all parts are computed first, without gradients, and from them the loss of the
whole batch and its slope with respect to every output. A second pass over each part backpropagates
these slopes: d loss/d weights = sum over outputs of slope * d output/d weights, the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from realness.trainer.engines.trainable_network import TrainableNetwork

Stats = dict[str, Tensor]
Outputs = tuple[Tensor, ...]


def split_rows(num_rows: int, size: int) -> list[slice]:
    """Split rows into parts of `size`, of which the last may be smaller; size 0 gives one part."""
    if not size or size >= num_rows:
        return [slice(None)]
    return [slice(start, start + size) for start in range(0, num_rows, size)]


@torch.no_grad()
def run_in_parts(
    network: Callable[..., Tensor], inputs: Sequence[Tensor], parts: Sequence[slice]
) -> Tensor:
    """The network's outputs [B, num_outputs] on inputs [B, ...], fp32, one part at a time."""
    return torch.cat([network(*(item[rows] for item in inputs)).float() for rows in parts])


class BatchLoss:
    """The loss of a batch computed part by part: call `of(rows, outputs)` for each part in turn.

    loss_of: the loss, given rows and their outputs. parts: slices of rows, of equal size.
    """

    def __init__(self, loss_of: Callable[..., Tensor], parts: Sequence[slice]) -> None:
        self._loss_of = loss_of
        self._parts = parts
        self._losses: list[Tensor] = []
        self._outputs: list[Outputs] = []
        self._slopes: Outputs | None = None

    @staticmethod
    def num_forwards(parts: Sequence[slice], loss_couples_samples: bool) -> int:
        """Forward passes of the network over all parts, including `look_ahead` if needed."""
        return len(parts) * (2 if loss_couples_samples and len(parts) > 1 else 1)

    @torch.no_grad()
    def look_ahead(self, outputs_of: Callable[[slice], Outputs]) -> None:
        """Compute the outputs of all parts in advance, for a loss that couples samples."""
        if len(self._parts) == 1:
            return
        seen = [outputs_of(rows) for rows in self._parts]
        whole = tuple(torch.cat(column).requires_grad_() for column in zip(*seen, strict=True))
        with torch.enable_grad():
            loss = self._loss_of(slice(None), *whole)
            self._slopes = torch.autograd.grad(loss, whole)
        self._losses, self._outputs = [loss.detach()], [tuple(item.detach() for item in whole)]

    def of(self, rows: slice, outputs: Outputs) -> Tensor:
        """A scalar whose gradients, averaged over the parts, are those of the batch's loss."""
        if self._slopes is not None:
            pairs = zip(outputs, self._slopes, strict=True)
            linear = torch.stack([(output * slope[rows]).sum() for output, slope in pairs]).sum()
            # `backward` averages over the parts, but the slopes are those of the sum.
            return len(self._parts) * linear
        loss = self._loss_of(rows, *outputs)
        self._losses.append(loss.detach())
        self._outputs.append(tuple(output.detach() for output in outputs))
        return loss

    @property
    def value(self) -> Tensor:
        """The detached loss of the whole batch; available when all parts are done."""
        return torch.stack(self._losses).mean()

    @property
    def outputs(self) -> Outputs:
        """The detached outputs of all rows."""
        return tuple(torch.cat(column) for column in zip(*self._outputs, strict=True))


def mean_over_parts(reports: Sequence[Stats]) -> Stats:
    """The means of the statistics of parts of equal size; empty without reports."""
    names = reports[0] if reports else ()
    return {name: torch.stack([stats[name] for stats in reports]).mean() for name in names}


def weights_gathered_if(needed: float, network: TrainableNetwork) -> AbstractContextManager[None]:
    """`network.weights_gathered()` if `needed` is not 0; otherwise no-op.

    It is needed around passes that are differentiated twice.
    """
    return network.weights_gathered() if needed else nullcontext()
