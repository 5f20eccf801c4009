"""nvcc compiles every kernel without spilling a register, and the library registers them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from realness.kernels import build
from realness.kernels.library import OPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(build.find_nvcc() is None, reason="there is no nvcc"),
]
GATE = ("-Xptxas", "-warn-spills,-warn-lmem-usage", "-Werror", "all-warnings")


def test_nvcc_compiles_without_spills_and_registers_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    whole = build.make_plan(cuda=True, extra_flags=GATE)
    # The CPU half is compiled and used by all other tests. nvcc's -O is for host code: ptxas
    # optimises without it, and the launching code need not be fast here.
    units = (u for u in whole.units if u.name.endswith(".cuda.o"))
    made = tuple(replace(u, flags=tuple(f for f in u.flags if f != "-O3")) for u in units)
    plan = replace(whole, units=made)
    library = build.cached_library(plan, retry=True)
    assert build.has_cuda(library)
    code = (
        "import sys, torch; from pathlib import Path; from realness.kernels import library"
        "; library.load(Path(sys.argv[1]), 'realness')"
        "; names = [o.schema.partition('(')[0] for op in library.OPS for o in"
        " __import__(f'realness.kernels.{op}.op', fromlist=['op']).OPERATORS]"
        "; has = torch._C._dispatch_has_kernel_for_dispatch_key"
        "; print([n for n in names if not has(f'realness::{n}', 'CUDA')], len(names))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(library)], capture_output=True, text=True, check=False
    )
    missing, number = result.stdout.rsplit(maxsplit=1)
    assert missing == "[]", result.stderr
    assert int(number) > len(OPS)
