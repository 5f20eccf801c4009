"""The emulated kernels under AddressSanitizer and UBSan, as they are and with planted bugs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from realness.kernels import build, library
from tests.helpers import ROOT

pytestmark = pytest.mark.slow
# Without optimisation it compiles twice as fast, and the emulator has little to compute.
SANITIZE = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


class Mutant(NamedTuple):
    """A bug planted by replacing `old`, which occurs once, in `file`; `op` must notice it."""

    bug: str
    op: str
    file: str
    old: str
    new: str


MUTANTS = [
    Mutant(
        "scratch reused without a barrier",
        "spectral_norm",
        "csrc/group.cuh",
        "__syncthreads();  // the scratch may still be read by an earlier sum",
        "",
    ),
    Mutant(
        "sum read before it is written",
        "squared_norm",
        "csrc/group.cuh",
        "if (Warp::lane() == 0) parts[warp_index()] = x;\n    __syncthreads();",
        "if (Warp::lane() == 0) parts[warp_index()] = x;",
    ),
    Mutant(
        "reduction tree too short",
        "realness_kl",
        "csrc/group.cuh",
        "for (int offset = 16; offset > 0; offset /= 2) x +=",
        "for (int offset = 8; offset > 0; offset /= 2) x +=",
    ),
    Mutant(
        "collective with half a mask",
        "realness_divergence",
        "csrc/group.cuh",
        "const A other = __shfl_xor_sync(kFullWarp, x, offset);",
        "const A other = __shfl_xor_sync(0xffffu, x, offset);",
    ),
    Mutant(
        "prefix sum skips a lane",
        "realness_emd",
        "csrc/group.cuh",
        "x += lane() >= offset ? below : A(0);",
        "x += lane() > offset ? below : A(0);",
    ),
    Mutant(
        "one row too many",
        "realness_kl",
        "csrc/launch.cuh",
        "if (i < count) f(i, Warp());",
        "if (i <= count) f(i, Warp());",
    ),
    Mutant(
        "no bounds check of the last block",
        "resample_logits",
        "csrc/launch.cuh",
        "if (i < count) f(i);",
        "f(i);",
    ),
    Mutant(
        "gradient with the wrong sign",
        "realness_divergence",
        "realness_divergence/realness_divergence.cuh",
        "scale * (exp_(log_q) - mass)",
        "scale * (mass - exp_(log_q))",
    ),
    Mutant(
        "moments used before all are fitted",
        "realness_loss",
        "realness_loss/realness_loss.cuh",
        "block.sync();\n    A total = 0;",
        "A total = 0;",
    ),
    Mutant(
        "unbiased variance",
        "resample_logits",
        "csrc/moments.cuh",
        "static_cast<A>(group.sum(total) / batch)};",
        "static_cast<A>(group.sum(total) / (batch - 1))};",
    ),
    Mutant(
        "a chunk runs past its sample",
        "squared_norm",
        "squared_norm/squared_norm.cuh",
        "start + chunk_size < sample_size ? start + chunk_size : sample_size;",
        "start + chunk_size;",
    ),
    Mutant(
        "vectors that are not aligned",
        "squared_norm",
        "csrc/binding.h",
        "aligned &= reinterpret_cast<uintptr_t>(pointer) % 16 == 0;",
        "aligned &= pointer != nullptr;",
    ),
    Mutant(
        "clamped values pass a gradient",
        "bias_act",
        "bias_act/bias_act.cuh",
        "(abs_(y) <= clamp) |",
        "true |",
    ),
    Mutant(
        "channel of the wrong plane",
        "bias_act",
        "bias_act/bias_act.cuh",
        "take(rest, skip);",
        ";",
    ),
    Mutant(
        "rows below the image are read",
        "upfirdn2d",
        "upfirdn2d/upfirdn2d.cuh",
        "iy + j < in_rows;",
        "iy + j <= in_rows;",
    ),
    Mutant(
        "phase of the upsampling lost",
        "upfirdn2d",
        "upfirdn2d/upfirdn2d.cuh",
        "images.tap(m, (phase ^ t / kReach)",
        "images.tap(m, (t / kReach)",
    ),
    Mutant(
        "energy read before it is written",
        "demodulate",
        "csrc/group.cuh",
        "sums[first + i] = total;\n      }\n    }\n    __syncthreads();",
        "sums[first + i] = total;\n      }\n    }",
    ),
    Mutant(
        "barrier that half the block skips",
        "demodulate",
        "csrc/group.cuh",
        "sums[first + i] = total;\n      }\n    }\n    __syncthreads();",
        "sums[first + i] = total;\n      }\n    }\n    if (lane() < 128) __syncthreads();",
    ),
    Mutant(
        "stage overwritten while it is read",
        "demodulate",
        "csrc/group.cuh",
        "__syncthreads();  // the scratch may still be read\n",
        "\n",
    ),
    Mutant(
        "a window past the end of the tensor",
        "upfirdn2d",
        "csrc/wide.cuh",
        "(start + v * N) < static_cast<uint64_t>(count)",
        "(start + v * N) <= static_cast<uint64_t>(count)",
    ),
    Mutant(
        "columns beyond the matrix",
        "spectral_norm",
        "spectral_norm/spectral_norm.cuh",
        "const int64_t rows = c < layer.columns ? layer.rows : 0;",
        "const int64_t rows = layer.rows;",
    ),
    Mutant(
        "samples replaced while they are read",
        "warp",
        "warp/warp.cuh",
        "group.sync();  // the stage may still be read\n",
        "\n",
    ),
    Mutant(
        "rows below the image sampled without reflection",
        "warp",
        "warp/warp.cuh",
        "across.first + Reach<A>::kPixels <= pixels.layout.height;",
        "across.first < pixels.layout.height;",
    ),
    Mutant(
        "ends of mirror images counted twice",
        "warp",
        "warp/transpose.cuh",
        "&& !(reversed() && (pixel == 0 || pixel == size - 1));",
        ";",
    ),
    Mutant(
        "pixels spread before they are loaded",
        "warp",
        "warp/transpose.cuh",
        "    group.sync();\n    for_places(group, K * place.height, columns,",
        "    for_places(group, K * place.height, columns,",
    ),
]


def run_sanitized(library_path: Path, checks: list[str]) -> dict[str, str | None]:
    """The outcome of every check, in order, from one process per core; see sanitized_kernels."""
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        shares = [checks[i::cores] for i in range(cores)]
        found = pool.map(lambda share: run_checks(library_path, share), filter(None, shares))
    outcomes = {check: outcome for share in found for check, outcome in share.items()}
    return {check: outcomes[check] for check in checks}


def run_checks(library_path: Path, checks: list[str]) -> dict[str, str | None]:
    """The outcomes from one process of sanitized_kernels."""
    # libstdc++ as well: AddressSanitizer looks for its exceptions before torch has loaded it.
    preload = [
        subprocess.run(
            [build.find_compiler(), f"-print-file-name={name}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    result = subprocess.run(
        [sys.executable, "-m", "tests.helpers.sanitized_kernels", str(library_path), *checks],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(preload),
            "ASAN_OPTIONS": "detect_leaks=0",
            "OMP_NUM_THREADS": "1",
        },
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_kernels_are_clean_in_three_schedules() -> None:
    plan = build.make_plan(emulate=True, extra_flags=(*SANITIZE, "-DREALNESS_NUM_TYPES=2"))
    checks = [f"realness_emu:{op}" for op in library.OPS]
    outcomes = run_sanitized(build.cached_library(plan, retry=True), checks)
    assert outcomes == dict.fromkeys(checks)


def plant(mutant: Mutant, folder: Path) -> Path:
    """A copy of the native sources with the bug in it; returns the op's source."""
    for suffix in ("cu", "cuh", "h"):
        for path in build.PACKAGE_DIR.glob(f"*/*.{suffix}"):
            target = folder / path.relative_to(build.PACKAGE_DIR)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    text = (folder / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.bug}: its place has moved"
    (folder / mutant.file).write_text(text.replace(mutant.old, mutant.new))
    return folder / mutant.op / f"{mutant.op}.cu"


def test_planted_bugs_are_caught(tmp_path: Path) -> None:
    plan = build.make_plan(emulate=True, extra_flags=(*SANITIZE, "-DREALNESS_NUM_TYPES=1"))
    template = plan.units[0]
    units, checks = [], []
    for i, mutant in enumerate(MUTANTS):
        source = plant(mutant, tmp_path / f"mutant{i}")
        names = (f"-DREALNESS_BACKEND=mutant{i}", f"-DREALNESS_NAMESPACE=realness_mutant{i}")
        flags = (*template.flags, *names)
        units.append(replace(template, name=f"mutant{i}.o", source=source, flags=flags))
        checks.append(f"realness_mutant{i}:{mutant.op}")
    path = build.compile_library(replace(plan, units=tuple(units)), tmp_path / "build")
    outcomes = run_sanitized(path, checks)
    missed = [m.bug for m, outcome in zip(MUTANTS, outcomes.values(), strict=True) if not outcome]
    for mutant, outcome in zip(MUTANTS, outcomes.values(), strict=True):
        print(f"{mutant.bug}: {outcome}")
    assert not missed
