"""Cases: every public function with useful inputs. A case's name starts with its op's folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from realness import kernels
from realness.kernels.bias_act import Activation

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
VECTORISED = ("squared_norm", "bias_act", "upfirdn2d", "demodulate", "warp")


@dataclass(frozen=True)
class Case:
    """A call: `make()` gives float64 inputs, `call(*inputs)` one or several outputs.

    differentiable: positions of inputs that get a gradient; order: times differentiable; wide:
    positions of inputs that are float32 if the others are bfloat16 or float16.
    """

    name: str
    call: Callable[..., Any]
    make: Callable[[], list[Tensor]]
    differentiable: tuple[int, ...] = (0,)
    order: int = 1
    wide: tuple[int, ...] = ()

    def inputs(self, dtype: torch.dtype, device: torch.device, layout: str) -> list[Tensor]:
        torch.manual_seed(len(self.name))
        tensors = []
        for i, x in enumerate(self.make()):
            target = torch.float32 if i in self.wide and dtype != torch.float64 else dtype
            x = x.to(device, target) if x.is_floating_point() else x.to(device)
            tensors.append(laid_out(x, layout))
        return tensors

    def outputs(self, impl: kernels.Impl, inputs: list[Tensor]) -> list[Tensor]:
        with kernels.implementation(impl):
            found = self.call(*inputs)
        return [found] if isinstance(found, Tensor) else list(found)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided" and x.dim() > 0:
        between = float("nan") if x.is_floating_point() else -1
        room = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), between)
        room[..., 1::2] = x
        return room[..., 1::2]
    if layout == "offset" and x.dim() > 0:  # dense, but not aligned to 16 bytes
        room = x.new_empty(x.numel() + 1)[1:].view(x.shape)
        return room.copy_(x)
    return x


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def logits(batch: int, outcomes: int) -> Tensor:
    return 3 * randn(batch, outcomes)


def anchor(*shape: int) -> Tensor:
    return torch.softmax(randn(*shape), -1)


def row_cases() -> list[Case]:
    cases = []
    for batch, outcomes in ((5, 51), (1, 1), (3, 2), (0, 7), (9, 33), (2, 1024)):
        size = f"{batch}x{outcomes}"
        cases.append(
            Case(
                f"realness_divergence-{size}",
                kernels.realness_divergence,
                lambda b=batch, n=outcomes: [logits(b, n), logits(b, n)],
                (0, 1),
                2,
            )
        )
        for shared in (True, False):
            shape = (outcomes,) if shared else (batch, outcomes)
            name = f"{size}-{'shared' if shared else 'own'}_anchor"
            make = lambda b=batch, n=outcomes, s=shape: [logits(b, n), anchor(*s)]  # noqa: E731
            cases += [
                Case(f"realness_kl-{name}", kernels.realness_kl, make, order=2),
                Case(f"realness_emd-{name}", kernels.realness_emd, make),
            ]
    return cases


def loss_cases() -> list[Case]:
    cases = []
    for real, fake, outcomes in ((4, 4, 51), (30, 27, 5), (1, 1, 1)):
        for noisy in (False, True):

            def make_d(r: int = real, f: int = fake, n: int = outcomes) -> list[Tensor]:
                both = [logits(r, n), logits(f, n), anchor(n), anchor(n)]
                return [*both, randn(r, n), randn(f, n)]

            def d_loss(r: Tensor, f: Tensor, *rest: Tensor, k: bool = noisy) -> Tensor:
                return kernels.realness_d_loss(r, f, *rest[: 4 if k else 2])

            suffix = f"{real}-{fake}-{outcomes}-{'resampled' if noisy else 'plain'}"
            cases.append(Case(f"realness_loss-d-{suffix}", d_loss, make_d, (0, 1)))
            for objective in (1, 2, 3):

                def make_g(f: int = fake, n: int = outcomes) -> list[Tensor]:
                    return [
                        logits(f, n),
                        logits(f, n),
                        anchor(n),
                        anchor(n),
                        randn(f, n),
                        randn(f, n),
                    ]

                def g_loss(
                    f: Tensor, r: Tensor, *rest: Tensor, k: bool = noisy, o: int = objective
                ) -> Tensor:
                    return kernels.realness_g_loss(f, r, *rest[: 4 if k else 2], objective=o)

                cases.append(Case(f"realness_loss-g{objective}-{suffix}", g_loss, make_g))
    return cases


def resample_cases() -> list[Case]:
    cases = []
    for batch, outcomes in ((5, 51), (40, 3), (2, 1)):
        size = f"{batch}x{outcomes}"
        cases += [
            Case(
                f"resample_logits-moments-{size}",
                kernels.logit_moments,
                lambda b=batch, n=outcomes: [logits(b, n)],
                order=2,
            ),
            Case(
                f"resample_logits-draw-{size}",
                kernels.resample_from_moments,
                lambda b=batch, n=outcomes: [randn(n), randn(n).square() + 0.1, randn(b, n)],
                (0, 1, 2),
                2,
                (0, 1),
            ),
            Case(
                f"resample_logits-whole-{size}",
                kernels.resample_logits,
                lambda b=batch, n=outcomes: [logits(b, n), randn(b, n)],
                order=2,
            ),
        ]
    return cases


def activation_case(act: Any, shape: tuple[int, ...], gain: float, clamp: float | None) -> Case:
    return Case(
        f"bias_act-{act}-{'x'.join(map(str, shape))}-{gain}-{clamp}",
        lambda x, b: kernels.bias_act(x, b, act, gain=gain, clamp=clamp),
        lambda: [2 * randn(*shape), randn(shape[1])],
        (0, 1),
        2,
    )


def image_cases() -> list[Case]:
    cases = [
        Case(
            f"squared_norm-{'x'.join(map(str, shape))}",
            kernels.squared_norm,
            lambda s=shape: [randn(*s)],
            order=2,
        )
        for shape in ((3,), (3, 5), (2, 3, 37, 53), (4, 8, 4, 4), (0, 3, 4, 4), (2, 0), (2, 9000))
    ]
    for act in get_args(Activation):
        for shape in ((2, 8, 4, 4), (3, 5, 7, 3)):
            cases += [activation_case(act, shape, 1.0, None), activation_case(act, shape, 1.7, 0.8)]
    cases += [
        activation_case("lrelu", shape, 1.0, None)
        for shape in ((3, 16), (0, 3), (2, 3, 5), (2, 3, 4, 4))
    ]
    cases.append(
        Case(
            "bias_act-unaligned_bias",
            lambda x, b: kernels.bias_act(laid_out(x, "channels_last"), b[1:], "lrelu"),
            lambda: [randn(2, 8, 4, 4), randn(9)],
            (0, 1),
            2,
        )
    )
    no_bias = lambda x: kernels.bias_act(x, None, "lrelu", slope=0.1)  # noqa: E731
    cases.append(Case("bias_act-no_bias", no_bias, lambda: [randn(2, 3, 4, 4)], order=2))
    return cases


UPFIRDN = {
    "blur": ((2, 8, 9, 7), (4,), {"padding": (2, 1, 2, 1)}),
    "up2": ((2, 3, 5, 6), (4,), {"up": 2, "padding": (2, 1, 2, 1), "gain": 4.0}),
    "up2_odd_phase": ((1, 8, 5, 6), (4,), {"up": 2, "padding": (1, 2, 3, 0)}),
    "down2": ((2, 8, 37, 53), (4,), {"down": 2, "padding": 1}),
    "wide_blur": ((1, 2, 11, 16), (4,), {"padding": (2, 1, 2, 1)}),
    "wide_blur_from_odd": ((2, 4, 3, 17), (4, 4), {"padding": 1, "flip": True}),
    "wide_blur_to_odd": ((1, 8, 6, 16), (4,), {"padding": 2}),
    "wide_up2": ((1, 2, 9, 8), (4, 4), {"up": 2, "padding": (2, 1, 1, 2)}),
    "wide_up2_odd_phase": ((2, 4, 5, 9), (4, 4), {"up": 2, "padding": (1, 0, 2, 1)}),
    "wide_down2": ((1, 4, 20, 34), (4, 4), {"down": 2, "padding": (0, 0, 1, 1)}),
    "wide_crop": ((1, 8, 9, 23), (4, 4), {"padding": (-2, -2, 3, -1)}),
    "down2_flipped": ((2, 3, 9, 12), (3, 4), {"down": 2, "padding": (1, 2, 0, 3), "flip": True}),
    "crop": ((1, 2, 12, 11), (2, 3), {"padding": (-2, -1, -3, 2)}),
    "one_tap": ((2, 3, 4, 4), (1,), {"up": 2, "padding": (0, -1)}),
    "up3_down2": ((1, 4, 7, 5), (5, 6), {"up": 3, "down": 2, "padding": 4}),
    "axes_differ": ((1, 3, 6, 8), (3, 2), {"up": (1, 2), "down": (2, 1), "padding": 2}),
    "long_separable": ((1, 8, 6, 7), (12,), {"up": 2, "padding": 6, "flip": True}),
    "empty": ((0, 3, 4, 4), (4,), {"padding": 2}),
}


def upfirdn_cases() -> list[Case]:
    return [
        Case(
            f"upfirdn2d-{name}",
            lambda x, f, o=options: kernels.upfirdn2d(x, f, **o),
            lambda s=shape, t=taps: [randn(*s), randn(*t)],
            order=2,
            wide=(1,),
        )
        for name, (shape, taps, options) in UPFIRDN.items()
    ]


def demodulate_cases() -> list[Case]:
    shapes = (
        ((6, 5, 3, 3), 4),
        ((1, 600, 3, 3), 2),
        ((3, 40, 1, 1), 9),
        ((1, 1, 1, 1), 1),
        ((4, 7), 2),
        ((3, 2, 3, 3), 0),
    )
    return [
        Case(
            f"demodulate-{'x'.join(map(str, weight))}-{batch}",
            kernels.demodulate,
            lambda w=weight, b=batch: [randn(*w), randn(b, w[1])],
            (0, 1),
            2,
        )
        for weight, batch in shapes
    ]


def spectral_cases() -> list[Case]:
    networks = {
        "three": [(6, 3, 3, 3), (1, 5), (40, 70)],
        "one": [(1, 4)],
        "many": [(2 + i % 3, 3) for i in range(35)],
    }
    cases = []
    for name, shapes in networks.items():
        n = len(shapes)

        def make(shapes: list[tuple[int, ...]] = shapes) -> list[Tensor]:
            weights = [randn(*s) for s in shapes]
            # Near the singular vectors, where sigma is well conditioned, but not at them.
            svds = [torch.linalg.svd(w.flatten(1), full_matrices=False) for w in weights]
            u = [left[:, 0] + 0.1 * randn(len(left)) for left, _, _ in svds]
            v = [right[0] + 0.1 * randn(right.shape[1]) for _, _, right in svds]
            return [*weights, *u, *v]

        def step(*tensors: Tensor, n: int = n) -> list[Tensor]:
            u = [x.clone() for x in tensors[n : 2 * n]]
            v = [x.clone() for x in tensors[2 * n :]]
            kernels.spectral_norm_step(list(tensors[:n]), u, v)
            return [*u, *v]

        def scale(*tensors: Tensor, n: int = n) -> list[Tensor]:
            u, v = (
                [x.contiguous() for x in part] for part in (tensors[n : 2 * n], tensors[2 * n :])
            )
            return kernels.spectral_scale(list(tensors[:n]), u, v)

        wide = tuple(range(n, 3 * n))
        cases += [
            Case(f"spectral_norm-step-{name}", step, make, (), 0, wide),
            # Finite differences for 35 layers would take minutes.
            Case(f"spectral_norm-scale-{name}", scale, make, tuple(range(n)), int(n < 35), wide),
        ]
    return cases


def affine(degrees: float, scale: float, x: float, y: float) -> list[list[float]]:
    """A rotation with a scale, then a shift."""
    cosine, sine = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return [[cosine, -sine, x], [sine, cosine, y]]


WARP = {
    "turned": ((2, 3, 16, 12), [affine(33, 1.2, 1, -2), affine(-170, 2**-0.6, 3.3, 0)]),
    "one_channel": ((2, 1, 9, 14), [affine(45, 1, 0, 0), affine(90, 2**0.6, 7, -4.5)]),
    # 16 bytes of channels, pixels and images that are copied, and one that is filtered.
    "copied": (
        (4, 8, 12, 12),
        [
            affine(0, 1, 0, 0),
            [[-1, 0, 3], [0, 1, -5]],
            [[0, 1, 0], [-1, 0, 14]],
            affine(0, 1, 0.5, 0),
        ],
    ),
    "tiny": ((3, 2, 1, 2), [affine(20, 1, 1, 0), [[0, 0, 0], [0, 0, 0.3]], affine(0, 1, 1, 2)]),
    "far": ((2, 3, 7, 5), [affine(10, 0.9, 100, -80), affine(60, 5, -30, 0)]),
    "empty": ((0, 3, 4, 4), []),
}


def warp_cases() -> list[Case]:
    # float32 in all dtypes, also where the comparison is in float64.
    return [
        Case(
            f"warp-{name}{'_colors' if colors else ''}",
            lambda x, m, c=None: kernels.warp(x, m.float(), c if c is None else c.float()),
            lambda s=shape, m=matrices, c=colors: [
                randn(*s),
                torch.tensor(m, dtype=torch.float32).double().reshape(-1, 2, 3),
                *([torch.randn(s[0], 3, 4).double()] if c else []),
            ],
            order=2,
            wide=(1, 2),
        )
        for name, (shape, matrices) in WARP.items()
        for colors in ((False, True) if shape[1] == 3 else (False,))
    ]


CASES = [
    *row_cases(),
    *loss_cases(),
    *resample_cases(),
    *image_cases(),
    *upfirdn_cases(),
    *demodulate_cases(),
    *spectral_cases(),
    *warp_cases(),
]
# Draws take integers whatever the dtype, so they are compared in separate tests.
PHILOX_CASES = [
    Case(
        f"philox-{name}-{batch}x{dim}",
        lambda index, f=function, d=dim: f(7, 2, index, d),
        lambda b=batch: [(1 << 40) + torch.arange(b)],
        (),
        0,
    )
    for name, function in (
        ("uint32", kernels.philox_uint32),
        ("uniform", kernels.philox_uniform),
        ("normal", kernels.philox_normal),
    )
    for batch, dim in ((3, 51), (1, 1), (0, 4), (300, 3))
]
PHILOX_CASES.append(
    Case(
        "realness_loss-drawn",
        lambda real, fake, a, b, index: kernels.realness_d_loss(
            *(real, fake, a, b), *(kernels.NormalDraws(3, purpose, index) for purpose in range(2))
        ),
        lambda: [logits(5, 51), logits(5, 51), anchor(51), anchor(51), torch.arange(5)],
        (0, 1),
    )
)
BY_NAME = {case.name: case for case in CASES}
# Of cases whose names differ only in the last part, the last one; all filters of upfirdn2d.
ONE_CASE_EACH = {
    case.name if case.name.startswith("upfirdn2d") else case.name.rpartition("-")[0]: case
    for case in CASES
    if case.make()[0].numel() > 0
}


def variants() -> list[tuple[str, torch.dtype, str]]:
    """Every case in every dtype; other layouts if the op distinguishes them."""
    found = []
    for case in CASES:
        found += [(case.name, dtype, "contiguous") for dtype in DTYPES]
        found.append((case.name, torch.float32, "strided"))
        if case.name.startswith(VECTORISED):
            layouts = ("channels_last", "offset")
            found += [(case.name, d, x) for d in (torch.float32, torch.bfloat16) for x in layouts]
    return found


assert len(BY_NAME) == len(CASES)
