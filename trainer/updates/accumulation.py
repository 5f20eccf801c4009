"""One update in several passes over parts of the batch: gradient accumulation that is exact.

A loss that is a mean over samples is the mean of its parts' losses, and their gradients add up. Not
so where the loss couples the samples of a batch, as RealnessGAN's Gaussian of the batch does. Then
the outputs of all parts are computed first, without gradients, and with them the loss of the whole
batch and its slope with respect to every output. A second pass over each part passes these slopes
on: d loss/d weights = sum over outputs of slope * d output/d weights, the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from realness.trainer.engines.player import Player

Stats = dict[str, Tensor]
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Gradients:
    """What a backward pass over a whole batch was computed from.

    loss: of the whole batch, without the extra terms; outputs: of all rows, constants; stats: means
    over the parts of what the extra terms report.
    """

    loss: Tensor
    outputs: Outputs
    stats: Stats


def split_rows(num_rows: int, size: int) -> list[slice]:
    """Rows in parts of `size`, the last one maybe smaller; all of them in one for a size of 0."""
    if not size or size >= num_rows:
        return [slice(None)]
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def num_forwards(parts: list[slice], couples: bool) -> int:
    """How often `compute_gradients` runs the network, each time on one part of the batch."""
    return len(parts) * (2 if couples and len(parts) > 1 else 1)


def compute_gradients(
    player: Player,
    parts: list[slice],
    outputs_of: Callable[[slice], Outputs],
    loss_of: Callable[..., Tensor],
    *,
    couples: bool,
    extra_of: Callable[[slice], tuple[Tensor, Stats]] | None = None,
) -> Gradients:
    """Leave in `player` the gradients of a loss over the rows of all `parts`, equal in size.

    outputs_of: the network's outputs on some rows; it is called twice for the same rows if the loss
    `couples` samples. loss_of: the loss, given the rows and their outputs. extra_of: what is added
    to it, a mean over the given rows, and values to report.
    """
    reports: list[Stats] = []

    def backward(loss: Tensor, rows: slice) -> None:
        if extra_of is not None:
            extra, stats = extra_of(rows)
            loss = loss + extra
            reports.append(stats)
        player.backward(loss)

    if len(parts) > 1 and couples:
        with torch.no_grad():
            seen = [outputs_of(rows) for rows in parts]
        whole = [torch.cat(column).requires_grad_() for column in zip(*seen, strict=True)]
        loss = loss_of(slice(None), *whole)
        slopes = torch.autograd.grad(loss, whole)
        for rows in parts:
            pairs = zip(outputs_of(rows), slopes, strict=True)
            linear = torch.stack([(output * slope[rows]).sum() for output, slope in pairs]).sum()
            # The player takes the mean over passes; the slopes belong to the sum.
            backward(len(parts) * linear, rows)
        return Gradients(loss.detach(), tuple(item.detach() for item in whole), _mean(reports))
    seen, losses = [], []
    for rows in parts:
        outputs = outputs_of(rows)
        loss = loss_of(rows, *outputs)
        backward(loss, rows)
        seen.append(tuple(output.detach() for output in outputs))
        losses.append(loss.detach())
    whole = tuple(torch.cat(column) for column in zip(*seen, strict=True))
    return Gradients(torch.stack(losses).mean(), whole, _mean(reports))


def _mean(reports: list[Stats]) -> Stats:
    names = reports[0] if reports else ()
    return {name: torch.stack([stats[name] for stats in reports]).mean() for name in names}
