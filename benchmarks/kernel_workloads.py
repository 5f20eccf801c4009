"""Workloads of benchmarks/kernels.py: every operator at the shapes of real training runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realness import kernels
from realness.kernels.warp.reference import SYM6

FILTER_TAPS = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class Workload:
    """One operator at one shape: `call(*inputs)`, and its rivals.

    library: a function of PyTorch that computes the same; plain: the best formulation without our
    kernels, if the reference is not; fusible: whether a compiler can do more than call the library.
    """

    op: str
    shape: str
    make: Callable[[], list[Tensor]]
    call: Callable[..., Any]
    library: Callable[..., Any] | None = None
    differentiable: tuple[int, ...] = (0,)
    plain: Callable[..., Any] | None = None
    fusible: bool = True

    @property
    def has_layouts(self) -> bool:
        """Whether channels_last is timed separately."""
        names = ("squared_norm", "bias_act", "upfirdn2d", "demodulate", "warp")
        return self.op.startswith(names)


def anchor(n: int) -> Tensor:
    return torch.softmax(torch.randn(n), 0)


def loss_workloads(batches: tuple[int, ...]) -> list[Workload]:
    """The realness losses at the paper's 51 outcomes."""

    def make(b: int) -> Callable[[], list[Tensor]]:
        return lambda: [
            *(torch.randn(b, 51) for _ in range(2)),
            *(anchor(51) for _ in range(2)),
            *(torch.randn(b, 51) for _ in range(2)),
        ]

    found = []
    for b in batches:
        size = f"{b}x51"
        found += [
            Workload(
                "realness_kl",
                size,
                lambda b=b: [torch.randn(b, 51), anchor(51)],
                kernels.realness_kl,
                lambda z, a: F.kl_div(z.log_softmax(1), a.expand_as(z), reduction="none").sum(1),
            ),
            Workload(
                "realness_divergence",
                size,
                lambda b=b: [torch.randn(b, 51), torch.randn(b, 51)],
                kernels.realness_divergence,
                lambda p, q: F.kl_div(
                    q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True
                ).sum(1),
                (0, 1),
            ),
            Workload(
                "realness_emd",
                size,
                lambda b=b: [torch.randn(b, 51), anchor(51)],
                kernels.realness_emd,
            ),
            Workload(
                "realness_d_loss, resampled", size, make(b), kernels.realness_d_loss, None, (0, 1)
            ),
            Workload("realness_g_loss 2, resampled", size, make(b), kernels.realness_g_loss),
            Workload(
                "resample_logits",
                size,
                lambda b=b: [torch.randn(b, 51), torch.randn(b, 51)],
                kernels.resample_logits,
                lambda z, e: z.mean(0) + z.std(0, correction=0) * e,
            ),
            Workload(
                "philox_normal",
                size,
                lambda b=b: [torch.arange(b)],
                lambda i: kernels.philox_normal(1, 2, i, 51),
                lambda i: torch.randn(len(i), 51, device=i.device),
                (),
                fusible=False,
            ),
        ]
    return found


def filter_workloads(batch: int, channels: int, side: int) -> list[Workload]:
    """The filters of StyleGAN2's layers; the reference is the best plain formulation."""
    taps = torch.tensor(FILTER_TAPS) / sum(FILTER_TAPS)
    square = torch.outer(taps, taps)

    def upfirdn(name: str, shape: tuple[int, ...], **options: Any) -> Workload:
        return Workload(
            f"upfirdn2d {name}",
            "x".join(map(str, shape)),
            lambda: [torch.randn(shape), square],
            lambda x, f: kernels.upfirdn2d(x, f, **options),
            fusible=False,
        )

    shape, odd = (batch, channels, side, side), (batch, channels, side + 1, side + 1)
    image = (batch, 3, side // 2, side // 2)
    return [
        upfirdn("blur after up", odd, padding=1, gain=4.0),
        upfirdn("blur before down", shape, padding=2),
        upfirdn("down 2", shape, down=2, padding=1),
        upfirdn("up 2, images", image, up=2, padding=(2, 1, 2, 1), gain=4.0),
    ]


def activation_workload(batch: int, channels: int, side: int) -> Workload:
    """Bias and leaky ReLU after a convolution."""
    return Workload(
        "bias_act lrelu",
        f"{batch}x{channels}x{side}x{side}",
        lambda: [torch.randn(batch, channels, side, side), torch.randn(channels)],
        lambda x, b: kernels.bias_act(x, b, "lrelu", gain=2**0.5),
        plain=lambda x, b: F.leaky_relu(x + b[:, None, None], 0.2) * 2**0.5,
        differentiable=(0, 1),
    )


def penalty_workload(batch: int, side: int) -> Workload:
    """R1's sum over the gradient of each image."""
    return Workload(
        "squared_norm",
        f"{batch}x3x{side}x{side}",
        lambda: [torch.randn(batch, 3, side, side)],
        kernels.squared_norm,
        lambda x: torch.linalg.vector_norm(x, dim=(1, 2, 3), dtype=wider(x)).square(),
    )


def wider(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def grid_sampled(x: Tensor, inverse: Tensor, color: Tensor) -> Tensor:
    """`kernels.warp` by PyTorch's functions, in float32; for rotations by up to 45 degrees."""
    size, margin, taps = x.shape[2], x.shape[2] // 4 + 8, torch.tensor(SYM6, device=x.device)
    rows = taps[:, None].expand(3, 1, -1, 1)
    y = F.pad(x.float(), [margin] * 4, mode="reflect")
    for weight, stride in ((rows, (2, 1)), (rows.mT, (1, 2))):
        y = F.conv_transpose2d(y, 2**0.5 * weight, stride=stride, groups=3)
    # grid_sample counts in halves of the doubled image, whose taps are not centred.
    grid = size * 2 + 10
    at = torch.arange(grid, device=x.device) / 2 - (size + 4) / 2
    places = torch.stack([at.expand(grid, -1), at[:, None].expand(-1, grid)])
    moved = torch.einsum("bij,jhw->bhwi", inverse[..., :2].float(), places)
    moved = 2 * (moved + inverse[:, None, None, :, 2].float()) + size + 4 + 2 * margin
    y = F.grid_sample(y, (2 * moved + 1) / y.shape[3] - 1, align_corners=False)
    for weight, stride in ((rows, (2, 1)), (rows.mT, (1, 2))):
        y = F.conv2d(y, weight / 2**0.5, stride=stride, groups=3)
    y = torch.einsum("bij,bjhw->bihw", color[..., :3].float(), y)
    return (y + color[:, :, 3, None, None]).to(x.dtype)


def warp_workloads(side: int) -> list[Workload]:
    """ADA's augmentation: images that are turned, and images that are only copied."""

    def make(degrees: float) -> Callable[[], list[Tensor]]:
        angle = torch.tensor(math.radians(degrees))
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()])
        matrix = torch.cat([turn.view(2, 2), torch.zeros(2, 1)], 1).repeat(8, 1, 1)
        return lambda: [torch.randn(8, 3, side, side), matrix, torch.randn(8, 3, 4)]

    def call(x: Tensor, inverse: Tensor, color: Tensor) -> Tensor:
        return kernels.warp(x, inverse.float(), color.float())

    return [
        Workload(f"warp {name}", f"8x3x{side}x{side}", make(degrees), call, plain=grid_sampled)
        for name, degrees in (("turned", 30), ("copied", 0))
    ]


def weight_workloads(widest: int) -> list[Workload]:
    """StyleGAN2's modulated convolutions, and a DCGAN discriminator's layers."""
    widths = [3] + [min(widest, 32 * 2**i) for i in range(8)]
    shapes = [(o, i, 4, 4) for i, o in itertools.pairwise(widths)]

    def make_network() -> list[Tensor]:
        weights = [torch.randn(s) * 0.02 for s in shapes]
        u = [F.normalize(torch.randn(len(w)), dim=0) for w in weights]
        v = [w.flatten(1).t() @ x for w, x in zip(weights, u, strict=True)]
        return [*weights, *u, *(F.normalize(x, dim=0) for x in v)]

    n = len(shapes)

    def wide(vectors: tuple[Tensor, ...]) -> list[Tensor]:
        return [x if x.dtype == torch.float64 else x.float() for x in vectors]

    def scale(*x: Tensor) -> list[Tensor]:
        return kernels.spectral_scale(list(x[:n]), wide(x[n : 2 * n]), wide(x[2 * n :]))

    def step(*x: Tensor) -> list[Tensor]:
        u, v = wide(x[n : 2 * n]), wide(x[2 * n :])
        kernels.spectral_norm_step(list(x[:n]), u, v)
        return u + v

    def demodulate(width: int, styles: int) -> Workload:
        return Workload(
            "demodulate",
            f"{width}x{width}x3x3 {styles} styles",
            lambda: [torch.randn(width, width, 3, 3), torch.randn(styles, width)],
            kernels.demodulate,
            differentiable=(0, 1),
        )

    return [
        demodulate(widest, 32),
        demodulate(2 * widest, 8),
        Workload(
            "spectral_scale", f"{n} layers", make_network, scale, None, tuple(range(n)), None, False
        ),
        Workload("spectral_norm_step", f"{n} layers", make_network, step, None, (), None, False),
    ]


def workloads(*, small: bool, quick: bool) -> list[Workload]:
    """All workloads, those first on which a step spends most; `small` for a CPU or a quick run."""
    sizes = [(4, 32, 1024), (4, 512, 64)]  # batch, channels, side
    if small:
        sizes = [(8, 256, 32)] if quick else [(8, 256, 32), (8, 256, 64), (4, 32, 128)]
    side = sizes[0][2] if not small else 64
    found = [activation_workload(*size) for size in sizes]
    found += [workload for size in sizes for workload in filter_workloads(*size)]
    found += [penalty_workload(8, side), *weight_workloads(64 if small else 512)]
    batches = (32,) if quick else (4, 32) if small else (4, 32, 256)
    return [*found, *loss_workloads(batches), *warp_workloads(side)]
