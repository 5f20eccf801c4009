"""Awkward values, wrong arguments, and the contracts of torch: opcheck and torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from realness import kernels
from tests.helpers.kernel_calls import Recorder
from tests.helpers.kernel_cases import BY_NAME, ONE_CASE_EACH, anchor, logits, randn

INF, NAN = float("inf"), float("nan")


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


def both(function: Callable[[Tensor], Tensor], impl: kernels.Impl, x: Tensor) -> None:
    """Value and gradient agree with the reference, NaN and infinity included."""
    found = []
    which: kernels.Impl
    for which in (impl, "reference"):
        leaf = x.cuda() if which == "cuda" else x.clone()
        with kernels.implementation(which):
            value = function(leaf.requires_grad_())
        found.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
    same(found[0][0], found[1][0])
    same(found[0][1], found[1][1])


ROWS = {
    "excluded": [[-INF, 1.0, 2.0, -INF, 0.5]],
    "huge": [[3e4, 3e4 - 1, -3e38, 0.0, 2.9e4], [-3e38, -3e38, -3e38, -3e38, -3e38]],
    "nan": [[0.0, NAN, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0]],
    "all_excluded": [[-INF] * 5],
    "infinite": [[INF, 0.0, 0.0, 0.0, 0.0]],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_with_special_values(
    rows: list[list[float]], impl: kernels.Impl, device: torch.device
) -> None:
    x = torch.tensor(rows)
    target = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25])
    other = torch.tensor([[0.3, -0.1, 0.2, 0.9, -2.0]]).expand(len(x), -1)

    def on(t: Tensor, x: Tensor) -> Tensor:
        return t.to(x.device)

    both(lambda z: kernels.realness_kl(z, on(target, z)), impl, x)
    both(lambda z: kernels.realness_emd(z, on(target, z)), impl, x)
    both(lambda z: kernels.realness_divergence(z, on(other, z)), impl, x)
    both(lambda z: kernels.realness_divergence(on(other, z), z), impl, x)
    both(
        lambda z: kernels.realness_d_loss(z, on(other, z), on(target, z), on(target, z)),
        impl,
        x,
    )


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "sigmoid", "tanh", "softplus"])
@pytest.mark.parametrize("clamp", [None, 2.0])
def test_bias_act_with_special_values(act: Any, clamp: float | None, impl: kernels.Impl) -> None:
    x = torch.tensor([[NAN, INF, -INF, 0.0, -0.0, 2.0, -2.0, 25.0, 1e30]])
    x = x[:, [3, 4, 5, 6, 7]] if act == "softplus" else x
    both(lambda t: kernels.bias_act(t, None, act, clamp=clamp), impl, x)


def test_nan_reaches_sums_and_pixels(impl: kernels.Impl, device: torch.device) -> None:
    x = torch.randn(2, 3, 8, 8, device=device)
    x[1, 2, 3, 4] = NAN
    with kernels.implementation(impl):
        assert kernels.squared_norm(x).isnan().tolist() == [False, True]


@pytest.mark.parametrize("taps", [3, 4])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_infinite_pixel_reaches_only_what_reads_it(
    layout: torch.memory_format,
    up: int,
    down: int,
    taps: int,
    impl: kernels.Impl,
    device: torch.device,
) -> None:
    """Multiplying an unread pixel by a tap of 0 would turn infinity into NaN."""
    x = torch.zeros(1, 8, 16, 16)
    x[0, 3, 5, 6], x[0, 5, 8, 0], x[0, 6, 0, 15] = INF, NAN, -INF
    x, f = x.contiguous(memory_format=layout), torch.ones(taps)
    options: dict[str, Any] = dict(up=up, down=down, padding=(2, taps - 3, 2, 1))
    with kernels.implementation("reference"):
        exact = kernels.upfirdn2d(x, f, **options)
    with kernels.implementation(impl):
        found = kernels.upfirdn2d(x.to(device), f.to(device), **options)
    torch.testing.assert_close(found.cpu(), exact, rtol=0, atol=0, equal_nan=True)


def test_a_constant_outcome_passes_no_gradient(impl: kernels.Impl, device: torch.device) -> None:
    """Variance 0, where the square root has no derivative."""
    z = torch.tensor([[1.0, 2.0], [1.0, 5.0]], device=device, requires_grad=True)
    noise = torch.ones(2, 2, device=device)
    target = torch.tensor([0.5, 0.5], device=device)
    with kernels.implementation(impl):
        drawn = kernels.resample_logits(z, noise)
        loss = kernels.realness_d_loss(z, z, target, target, noise, noise)
    for value in (drawn.sum(), loss):
        (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
        assert gradient.isfinite().all()
    assert drawn[:, 0].tolist() == [1.0, 1.0]


Z, A, X = logits(3, 4).float(), anchor(4).float(), randn(2, 3, 5, 5).float()
INDEX = torch.arange(3)
M, COLORS = torch.randn(2, 2, 3), torch.randn(2, 3, 4)
U, V = [torch.randn(2)], [torch.randn(75)]
WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: kernels.realness_kl(Z[0], A), r"logits has shape \(4,\); expected \[batch"),
    (lambda: kernels.realness_kl(Z.long(), A), "dtype torch.int64; expected float32"),
    (lambda: kernels.realness_kl(Z, A[:3]), r"anchor has shape \(3,\); expected \[4\]"),
    (lambda: kernels.realness_kl(Z, A.to("meta")), "anchor is on meta"),
    (lambda: kernels.realness_kl(Z, A.clone().requires_grad_()), "anchors are constants"),
    (lambda: kernels.realness_kl(torch.zeros(1, 1025), torch.ones(1025)), "1025 outcomes"),
    (lambda: kernels.realness_kl(torch.zeros(1, 0), torch.ones(0)), "0 outcomes"),
    (lambda: kernels.realness_emd(Z, A[None]), r"anchor has shape \(1, 4\)"),
    (lambda: kernels.realness_divergence(Z, Z[:2]), "expected equal shapes"),
    (lambda: kernels.realness_divergence(Z, Z.double()), "convert one of them"),
    (lambda: kernels.realness_d_loss(Z, Z[:, :3], A, A), "expected equal dtypes and outcomes"),
    (lambda: kernels.realness_d_loss(Z[:0], Z, A, A), "empty batch"),
    (lambda: kernels.realness_d_loss(Z, Z, A, A, Z[:2]), "noise_real has shape"),
    (
        lambda: kernels.realness_d_loss(Z, Z, A, A, None, kernels.NormalDraws(0, 0, INDEX[:2])),
        "noise_fake has 2 indices on cpu, logits_fake 3 rows",
    ),
    (lambda: kernels.realness_g_loss(Z, None, A, A), "give logits_real"),
    (lambda: kernels.realness_g_loss(Z, Z, A, A, objective=4), "objective=4"),
    (lambda: kernels.logit_moments(Z[:0]), "empty batch"),
    (lambda: kernels.resample_logits(Z), "has no noise"),
    (lambda: kernels.resample_logits(Z, Z, seed=1), "give one of them"),
    (lambda: kernels.resample_from_moments(A, A.double(), Z), "one dtype"),
    (lambda: kernels.squared_norm(torch.tensor(1.0)), "scalar"),
    (lambda: kernels.bias_act(X, A), r"bias has shape \(4,\); expected \[3\]"),
    (lambda: kernels.bias_act(X, act="gelu"), "act='gelu'; expected one of linear"),  # type: ignore[arg-type]
    (lambda: kernels.bias_act(X, clamp=-1.0), "clamp=-1.0; expected a positive"),
    (lambda: kernels.upfirdn2d(X[0], A), "expected \\[batch, channels"),
    (lambda: kernels.upfirdn2d(X, A, up=0), "up=0; expected at least 1"),
    (lambda: kernels.upfirdn2d(X, A, padding=-4), "smaller than the 4x4 filter"),
    (lambda: kernels.upfirdn2d(X, torch.ones(65)), "1 to 64 taps"),
    (lambda: kernels.upfirdn2d(X, A, padding=(1, 2, 3)), "1, 2 or 4 numbers"),
    (lambda: kernels.warp(X[0], M), "expected \\[batch, channels"),
    (lambda: kernels.warp(X[:, :, :0], M), r"shape \(2, 3, 0, 5\)"),
    (lambda: kernels.warp(X, M[:1]), r"torch.float32 \(1, 2, 3\); expected .* \(2, 2, 3\)"),
    (lambda: kernels.warp(X, M.double()), "inverse is torch.float64"),
    (lambda: kernels.warp(X, M.clone().requires_grad_()), "the matrix is a constant"),
    (lambda: kernels.warp(X[:, :2], M, COLORS), "2 channels; color expects 3"),
    (lambda: kernels.warp(X, M, COLORS[:, :2]), r"color is torch.float32 \(2, 2, 4\)"),
    (lambda: kernels.demodulate(X, Z), r"style has shape \(3, 4\); expected \[batch, 3\]"),
    (lambda: kernels.demodulate(X, Z[:, :3], eps=-1.0), "eps=-1.0"),
    (lambda: kernels.spectral_norm_step([X], U, []), "0 v"),
    (lambda: kernels.spectral_norm_step([X], U, [V[0][:3]]), r"v\[0\] is torch.float32 \(3,\)"),
    (lambda: kernels.spectral_norm_step([X], [U[0].double()], V), r"u\[0\] is torch.float64"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments_say_what_was_expected(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


RAW_WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("realness_kl", (Z, A[:3]), "anchor"),
    ("realness_kl", (Z, A.double()), "anchor is Double, expected Float"),
    ("realness_kl", (Z.int(), A), "expected Float|got Int"),
    ("realness_kl_backward", (Z[:2, 0], Z, A, Z[:, :2]), "grad"),
    ("realness_divergence", (Z, Z[:2]), "logits_q"),
    ("realness_emd_backward", (Z[:, 0], Z, A, Z), "normalizer"),
    ("logit_moments", (Z[:0],), "empty batch"),
    ("resample_from_moments", (A[:3], A, Z), "mean"),
    ("realness_g_loss", (Z, None, A, A, None, None, 2, [0] * 4), "as many real as fake"),
    ("realness_d_loss", (Z, Z, A, A, INDEX[:2], None, [0] * 4), "index has an unexpected shape"),
    ("realness_d_loss", (Z, Z, A, A, INDEX, None, [0, -1, 0, 0]), "purpose"),
    ("realness_d_loss", (Z, Z, A, A, INDEX, None, [0]), "keys: expected seed and purpose"),
    ("realness_loss_backward", (Z[0, 0], [Z], [Z, Z]), "one or two sides"),
    ("philox", (0, 0, torch.arange(3), -1, 0), "dim"),
    ("sample_dot", (X, X[:1]), "dimension 0: 2 and 1"),
    ("scale_samples", (X, A), "scale"),
    ("bias_act", (X, A, 1, 0.0, 1.0, INF), "bias"),
    ("bias_act", (X, None, 9, 0.0, 1.0, INF), "activation: expected 0 to 5"),
    ("bias_act_grad", (X[:1], X, None, 1, 0.0, 1.0, INF), "dimension 0"),
    ("upfirdn2d", (X, X[0, 0], [0, 1], [1, 1], [0] * 4, False, 1.0), "between 1 and"),
    ("upfirdn2d", (X, X[0, 0], [1, 1], [1, 1], [-9] * 4, False, 1.0), "fewer than the filter"),
    ("warp", (X, M.double(), None, False), "inverse is Double, expected Float"),
    ("warp", (X[:1], M, None, False), "inverse has an unexpected shape"),
    ("warp", (X[:, :2], M, COLORS, False), "expected 3 channels"),
    ("warp_backward", (X, M, COLORS[:, :2]), "color has an unexpected shape"),
    ("demodulate", (X, Z, 0.0), "style"),
    ("spectral_norm_step", ([X], U, U, 1e-12), "v has an unexpected shape"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), RAW_WRONG)
def test_the_compiled_operators_check_too(
    name: str, arguments: tuple[Any, ...], message: str, impl: kernels.Impl
) -> None:
    """They must not read out of bounds, whatever the caller passes."""
    if impl == "cuda":
        pytest.skip("the arguments are on the CPU")
    ops = torch.ops.realness_emu if impl == "emu" else compiled_ops()
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, name)(*arguments)


def compiled_ops() -> Any:
    with kernels.implementation("cpu"):
        kernels.squared_norm(X)  # loads the library
    return torch.ops.realness


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_CASE_EACH)
def test_opcheck(name: str, impl: kernels.Impl, device: torch.device) -> None:
    """Schema, fake kernel and autograd registration of every operator that a case calls."""
    case = ONE_CASE_EACH[name]
    inputs = case.inputs(torch.float32, device, "contiguous")
    for i in case.differentiable:
        inputs[i].requires_grad_()
    with Recorder() as recorder:
        outputs = case.outputs(impl, inputs)
        if case.differentiable:
            leaves = [inputs[i] for i in case.differentiable]
            total = sum(y.square().sum() for y in outputs)
            again = case.order == 2
            gradients = torch.autograd.grad(total, leaves, create_graph=again)  # type: ignore[arg-type]
            if again:
                torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)  # type: ignore[arg-type]
    assert recorder.calls
    for func, args in recorder.calls.items():
        detached = tree_map_only(Tensor, lambda t: t.detach().clone(), args)
        torch.library.opcheck(func, detached)


@pytest.mark.parametrize(
    "name",
    [
        "realness_kl-5x51-shared_anchor",
        "bias_act-lrelu-2x8x4x4-1.7-0.8",
        "upfirdn2d-up2",
        "warp-turned_colors",
    ],
)
def test_compiles_without_graph_breaks(name: str, impl: kernels.Impl, device: torch.device) -> None:
    case = BY_NAME[name]
    inputs = case.inputs(torch.float32, device, "contiguous")
    inputs[0].requires_grad_()

    def total(*tensors: Tensor) -> Tensor:
        return case.call(*tensors).square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    with kernels.implementation(impl):
        ours = torch.autograd.grad(compiled(*inputs), inputs[0])[0]
        torch.testing.assert_close(ours, torch.autograd.grad(total(*inputs), inputs[0])[0])


@pytest.mark.parametrize(
    "name",
    [
        "realness_kl-5x51-shared_anchor",
        "realness_divergence-5x51",
        "realness_emd-5x51-shared_anchor",
        "realness_loss-d-4-4-51-resampled",
        "realness_loss-g2-4-4-51-resampled",
        "demodulate-6x5x3x3-4",
    ],
)
def test_the_backward_pass_fills_no_zeros(name: str) -> None:
    """Zeros for outputs without a gradient would cost extra launches."""
    case = BY_NAME[name]
    inputs = case.inputs(torch.float32, torch.device("cpu"), "contiguous")
    leaves = [inputs[i].requires_grad_() for i in case.differentiable]
    (y,) = case.outputs("cpu", inputs)
    cotangent = torch.ones_like(y)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        torch.autograd.grad(y, leaves, cotangent)
    called = {event.key for event in recorded.key_averages()}
    assert any(key.startswith("realness::") for key in called)
    assert not called & {"aten::zeros", "aten::zero_", "aten::fill_"}


def test_the_reference_runs_on_the_meta_device() -> None:
    z, target = Z.to("meta"), A.to("meta")
    assert kernels.realness_kl(z, target).shape == (3,)
    upsampled = kernels.upfirdn2d(X.to("meta"), target, up=2, padding=(2, 1, 2, 1))
    assert upsampled.shape == (
        2,
        3,
        10,
        10,
    )
    assert kernels.philox_normal(0, 0, torch.arange(3, device="meta"), 5).shape == (3, 5)
    assert kernels.warp(X.to("meta"), M.to("meta"), COLORS.to("meta")).shape == X.shape
