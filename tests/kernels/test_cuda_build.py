"""nvcc compiles every kernel without spilling a register, those for large tensors to accesses of
16 bytes, and the library registers every operator."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from realness.kernels import build
from realness.kernels.library import OPS
from tests.helpers import ptx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(build.find_nvcc() is None, reason="nvcc not found"),
]
GATE = ("-Xptxas", "-warn-spills,-warn-lmem-usage", "-Werror", "all-warnings")


@pytest.fixture(scope="module")
def cuda_library() -> Path:
    """The CUDA half, built with the gate on spills, and with its PTX as plain text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        whole = build.make_plan(cuda=True, extra_flags=(*GATE, "--no-compress"))
    # The CPU half is compiled and used by all other tests. nvcc's -O is for host code: ptxas
    # optimises without it, and the launching code need not be fast here.
    units = (u for u in whole.units if u.name.endswith(".cuda.o"))
    made = tuple(replace(u, flags=tuple(f for f in u.flags if f != "-O3")) for u in units)
    return build.cached_library(replace(whole, units=made), retry=True)


def test_nvcc_compiles_without_spills_and_registers_cuda(cuda_library: Path) -> None:
    assert build.has_cuda(cuda_library)
    code = (
        "import sys, torch; from pathlib import Path; from realness.kernels import library"
        "; library.load(Path(sys.argv[1]), 'realness')"
        "; names = [o.schema.partition('(')[0] for op in library.OPS for o in"
        " __import__(f'realness.kernels.{op}.op', fromlist=['op']).OPERATORS]"
        "; has = torch._C._dispatch_has_kernel_for_dispatch_key"
        "; print([n for n in names if not has(f'realness::{n}', 'CUDA')], len(names))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(cuda_library)], capture_output=True, text=True, check=False
    )
    missing, number = result.stdout.rsplit(maxsplit=1)
    assert missing == "[]", result.stderr
    assert int(number) > len(OPS)


# Kernels on tensors as large as images, by their mangled names: one for float, one for bfloat16.
WIDE = [
    f"{kernel}I{dtype}Li{lanes}E{options}"
    for dtype, lanes in (("f", 4), ("N3c108BFloat16E", 8))
    for kernel, options in (
        ("DotPartial", ""),
        ("ScaleSamples", ""),
        *(("BiasAct", f"Li{order}E") for order in range(3)),
        *(
            ("FourTaps", f"Lb{along}ELi{up}ELi{down}E")
            for along in range(2)
            for up, down in ((1, 1), (2, 1), (1, 2))
        ),
    )
]


def only(kernels: dict[str, str], wanted: str) -> str:
    """The text of the one kernel whose name contains `wanted`."""
    (body,) = (body for name, body in kernels.items() if wanted in name)
    return body


def test_large_tensors_move_in_16_byte_accesses(cuda_library: Path) -> None:
    """All accesses to 16-bit elements, and all stores; other loads are taps, biases and scales."""
    kernels = ptx.kernels(cuda_library.read_bytes().decode("latin-1"))
    for wanted in WIDE:
        body = only(kernels, wanted)
        accesses = set(re.findall(r"\b(?:ld|st)\.(?:global|local)(?:\.\w+)*", body))
        widths = {re.sub(r"(v4\.)?[a-z](\d+)$", r"\1\2", access) for access in accesses}
        stores = {"st.global.32"} if wanted.startswith("DotPartial") else {"st.global.v4.32"}
        assert "ld.global.v4.32" in widths, wanted
        assert widths - {"ld.global.v4.32", "ld.global.32"} == stores, wanted


# Loads before the first decision that depends on one, in the loop that has most. An H200 needs some
# 21 KB of reads in flight per multiprocessor for the speed of its memory.
LOADS_IN_FLIGHT = {
    "DotPartialIfLi4E": 8,  # half of them if both tensors are the same
    "DotPartialIN3c108BFloat16ELi8E": 8,
    "TransposedProductIfE": 16,
    "7ProductIfE": 16,
    "RowShareIfLb0E": 16,
    "RowShareIfLb1E": 16,
    "NormalizeIfE": 8,
    "ScaleRowsIfLb0E": 8,
    "ScaleRowsIfLb1E": 16,
}


def test_a_loop_with_an_exit_test_between_its_loads_does_not_count() -> None:
    whole = "$L_1:\nld.global.f32 %f1, [%rd1];\nld.global.f32 %f2, [%rd2];\n@%p1 bra $L_1;\n$L_2:\n"
    assert ptx.loads_in_flight(whole) == 2
    assert ptx.loads_in_flight(whole.replace("%f1, [%rd1];", "%f1, [%rd1];\n@%p2 bra $L_2;")) == 0


def test_loops_have_several_loads_in_flight(cuda_library: Path) -> None:
    """A loop over a block whose size the compiler does not know has one."""
    kernels = ptx.kernels(cuda_library.read_bytes().decode("latin-1"))
    found = {name: ptx.loads_in_flight(only(kernels, name)) for name in LOADS_IN_FLIGHT}
    assert {n: k for n, k in found.items() if k < LOADS_IN_FLIGHT[n]} == {}


# PTX instructions per 16 bytes of output, a twentieth more than nvcc 13.0 makes. A filter's loop is
# counted, and the whole of the others. BiasAct has six activations, and a store for each.
MOST_PER_STORE = {
    "ScaleSamplesIfLi4E": 51,
    "ScaleSamplesIN3c108BFloat16ELi8E": 63,
    "PhiloxINS0_8AsNormalE": 545,
    "BiasActIfLi4ELi0E": 210,
    "BiasActIN3c108BFloat16ELi8ELi0E": 357,
    "BiasActIfLi4ELi1E": 255,
    "BiasActIN3c108BFloat16ELi8ELi1E": 447,
    "FourTapsIfLi4ELb0ELi1ELi1E": 150,
    "FourTapsIfLi4ELb0ELi2ELi1E": 48,
    "FourTapsIfLi4ELb0ELi1ELi2E": 221,
    "FourTapsIfLi4ELb1ELi1ELi1E": 162,
    "FourTapsIfLi4ELb1ELi2ELi1E": 59,
    "FourTapsIfLi4ELb1ELi1ELi2E": 288,
    "FourTapsIN3c108BFloat16ELi8ELb0ELi1ELi1E": 271,
    "FourTapsIN3c108BFloat16ELi8ELb0ELi2ELi1E": 84,
    "FourTapsIN3c108BFloat16ELi8ELb0ELi1ELi2E": 399,
    "FourTapsIN3c108BFloat16ELi8ELb1ELi1ELi1E": 279,
    "FourTapsIN3c108BFloat16ELi8ELb1ELi2ELi1E": 97,
    "FourTapsIN3c108BFloat16ELi8ELb1ELi1ELi2E": 519,
}


def test_wide_kernels_need_few_instructions_per_store(cuda_library: Path) -> None:
    kernels = ptx.kernels(cuda_library.read_bytes().decode("latin-1"))
    found = {}
    for name in MOST_PER_STORE:
        body = only(kernels, name)
        lines = [line.strip() for line in body.splitlines()]
        if name.startswith("FourTaps"):
            lines = max(ptx.loops(body), key=len)
            assert ".minnctapersm 2" in body, name  # two blocks share a multiprocessor
        found[name] = ptx.per_wide_store(lines)
    assert {n: k for n, k in found.items() if k > MOST_PER_STORE[n]} == {}


def test_losses_run_in_1024_threads(cuda_library: Path) -> None:
    """A warp for each of 32 rows, and two rounds for 51 outcomes."""
    kernels = ptx.kernels(cuda_library.read_bytes().decode("latin-1"))
    assert ".maxntid 1024, 1, 1" in only(kernels, "12RealnessLossIfE")
