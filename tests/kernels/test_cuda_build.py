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


def test_large_tensors_move_in_16_byte_accesses(cuda_library: Path) -> None:
    """All accesses to 16-bit elements, and all stores; other loads are taps, biases and scales."""
    text = cuda_library.read_bytes().decode("latin-1")
    kernels = dict(re.findall(r"\.entry (\w+)\((.*?)\n}\n", text, re.DOTALL))
    for wanted in WIDE:
        (body,) = (body for name, body in kernels.items() if wanted in name)
        accesses = set(re.findall(r"\b(?:ld|st)\.(?:global|local)(?:\.\w+)*", body))
        widths = {re.sub(r"(v4\.)?[a-z](\d+)$", r"\1\2", access) for access in accesses}
        stores = {"st.global.32"} if wanted.startswith("DotPartial") else {"st.global.v4.32"}
        assert "ld.global.v4.32" in widths, wanted
        assert widths - {"ld.global.v4.32", "ld.global.32"} == stores, wanted
