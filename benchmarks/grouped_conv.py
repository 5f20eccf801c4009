"""Times 3x3 convolutions of R3GAN's shapes on the CPU: dense, in groups, and of each channel.

    python benchmarks/grouped_conv.py [--rounds 5] [--results FILE]

Three passes: forward; backward (the gradients of x and of the weight); and the second derivative
that R1 needs, in which the gradient of x is differentiated again. `ours` is `grouped_conv3x3`,
`torch` PyTorch's convolution with its own derivatives, which split the second one by groups.
ms is the minimum CPU time of one thread over the rounds, in which the candidates alternate. GFLOP
are those of the convolutions of the pass, counted by hand: 2 per multiplication and addition. Rows
are appended to a CSV file. On a GPU the ratios will differ: docs/speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from train_step import RESULTS, append

from realness.trainer.networks.grouped_conv import grouped_conv3x3

SHAPES = ((8, 1536, 8), (4, 1536, 16), (4, 768, 32), (2, 192, 128))
"""Images, channels and side: 4 to 32 pixels of R3GAN have 1,536 channels in their groups, 64 have
768, and 256 have 192. The batches are small and the last two sides halved, to be quick."""
DENSE_CHANNELS = 768
"""More would take seconds per pass."""
PASSES = {"forward": 1, "backward": 2, "second": 2}
"""Convolutions per pass."""


def verify() -> None:
    """Raise AssertionError unless both implementations agree to the second order, in float64."""
    x = torch.randn(2, 32, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(32, 16, 3, 3, dtype=torch.float64, requires_grad=True)
    gradients = []
    for function in (grouped_conv3x3, torchs):
        y = function(x, weight, 2)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        gradients.append(torch.autograd.grad(slope.square().sum(), (x, weight)))
    torch.testing.assert_close(*gradients)


def torchs(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """PyTorch's own convolution."""
    return F.conv2d(x, weight, padding=1, groups=groups)


def times(
    function: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, weight: Tensor, groups: int
) -> dict[str, float]:
    """CPU milliseconds of each pass."""
    marks = [time.process_time()]
    y = function(x, weight, groups)
    marks.append(time.process_time())
    torch.autograd.grad(y, (x, weight), y.detach(), retain_graph=True)
    marks.append(time.process_time())
    upstream = y.detach().requires_grad_()
    (slope,) = torch.autograd.grad(y, x, upstream, create_graph=True)
    start = time.process_time()
    # With an upstream gradient and a weight: two of the four convolutions of R1's second pass. The
    # other two go through the layer's input, and are the same as those of a backward pass.
    torch.autograd.grad(slope, (upstream, weight), slope.detach())
    second = time.process_time() - start
    return {
        "forward": 1e3 * (marks[1] - marks[0]),
        "backward": 1e3 * (marks[2] - marks[1]),
        "second": 1e3 * second,
    }


def measure(
    batch: int, channels: int, side: int, in_group: int, rounds: int
) -> list[dict[str, Any]]:
    """Rows of one shape."""
    torch.manual_seed(0)
    groups = channels // in_group
    x = torch.randn(batch, channels, side, side)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, in_group, 3, 3, requires_grad=True)
    candidates = {"ours": grouped_conv3x3, "torch": torchs}
    best: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for name, function in candidates.items():
            for step, ms in times(function, x, weight, groups).items():
                best[name, step] = min(ms, best.get((name, step), ms))
    one = 2e-9 * batch * channels * in_group * 9 * side**2
    shape = dict(batch=batch, channels=channels, side=side, in_group=in_group)
    return [
        shape
        | {"pass": step, "impl": name, "ms": round(ms, 2)}
        | {"gflop": round(PASSES[step] * one, 3)}
        | {"gflop_per_s": round(1e3 * PASSES[step] * one / ms, 1)}
        for (name, step), ms in best.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS / "grouped_conv.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    verify()
    for batch, channels, side in SHAPES:
        dense = [channels] if channels <= DENSE_CHANNELS else []
        for in_group in (*dense, 32, 16, 1):
            rows = measure(batch, channels, side, in_group, options.rounds)
            append(options.results, rows)
            for row in rows:
                print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
