"""The CPU kernels compiled for the plainest x86-64: the same values, bit for bit, as here."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from realness.kernels import build, library

NAMESPACE = "realness_plain"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="levels are those of x86-64"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The operators of some sources, compiled for level 1, in a namespace of their own."""
    sources = [build.PACKAGE_DIR / name / f"{name}.cu" for name in ("bias_act", "squared_norm")]
    plan = build.make_plan(cuda=False, units=sources, level=1)
    assert not any("march" in flag for unit in plan.units for flag in unit.flags)
    names = ("-DREALNESS_BACKEND=plain", f"-DREALNESS_NAMESPACE={NAMESPACE}")
    units = tuple(replace(unit, flags=(*unit.flags, *names)) for unit in plan.units)
    library.load(
        build.compile_library(replace(plan, units=units), tmp_path_factory.mktemp("plain")),
        NAMESPACE,
    )
    assert "cpu" in library.status().devices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (2, 600, 3, 3), (5, 37)])
def test_values_do_not_depend_on_the_level(
    plain: None, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    random = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=random)  # noqa: E731
    x, grad, grad_grad = (3 * draw(*shape).to(dtype) for _ in range(3))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bias, scale = draw(shape[1]).to(wide), draw(shape[0]).to(wide)
    ours, theirs = torch.ops.realness, getattr(torch.ops, NAMESPACE)
    for layout in (torch.contiguous_format, torch.channels_last):
        if len(shape) == 4:
            x, grad, grad_grad = (y.to(memory_format=layout) for y in (x, grad, grad_grad))
        for activation in range(6):
            rest = bias, activation, 0.2, 1.4, 2.0
            for name, inputs in (
                ("bias_act", (x,)),
                ("bias_act_grad", (grad, x)),
                ("bias_act_grad_grad", (grad_grad, grad, x)),
            ):
                expected = getattr(theirs, name)(*inputs, *rest)
                assert torch.equal(getattr(ours, name)(*inputs, *rest), expected)
        assert torch.equal(ours.sample_dot(x, grad), theirs.sample_dot(x, grad))
        assert torch.equal(ours.scale_samples(x, scale), theirs.scale_samples(x, scale))


def test_a_machine_without_the_instructions_is_level_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags as Linux shows them, of a Core 2, a Haswell and a Sapphire Rapids, shortened."""
    core2 = "fpu sse sse2 ssse3 sse4_1"
    haswell = f"{core2} avx avx2 bmi1 bmi2 f16c fma abm movbe"
    sapphire = f"{haswell} avx512f avx512bw avx512cd avx512dq avx512vl"
    file = tmp_path / "cpuinfo"
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **_: read(file if str(path) == "/proc/cpuinfo" else path)
    )
    for flags, level in ((core2, 1), (haswell, 3), (sapphire, 4)):
        file.write_text(f"model name\t: X\nflags\t\t: {flags}\n\nflags\t\t: {flags}\n")
        assert build.cpu_level() == level
    file.write_text("Features\t: fp asimd\n")
    assert build.cpu_level() == 1
