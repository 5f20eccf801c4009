"""Run operators once each, for benchmarks/gpu.py: `python benchmarks/gpu_probe.py one|all|large`.

one: a case of every operator; all: more cases, without those that differ only in size. Values and
gradients, in float32 and bfloat16, must be as near to float64 as the tests ask; a line per case.
large: the shapes of real steps, unchecked, for a tool that counts what the kernels do. On a CPU
these are small.
"""

from __future__ import annotations

import argparse
import shutil

import torch
from kernel_workloads import Workload, workloads
from torch import Tensor

from realness import kernels
from tests.helpers.kernel_cases import ONE_CASE_EACH, Case
from tests.helpers.kernel_checks import errors

DTYPES = (torch.float32, torch.bfloat16)
LARGE = (
    *("upfirdn2d blur", "upfirdn2d down 2", "bias_act lrelu", "squared_norm"),
    *("spectral_norm_step", "realness_d_loss, resampled 32"),
)


def probe(case: Case, dtype: torch.dtype, impl: kernels.Impl, device: torch.device) -> bool:
    """Whether a case is right; prints a line."""
    title = f"{case.name} {str(dtype).removeprefix('torch.')}"
    try:
        found = errors(case, impl, case.inputs(dtype, device, "contiguous"))
    except RuntimeError as error:
        print(f"FAILED {title}: {str(error).splitlines()[0]}", flush=True)
        return False
    share = max((error / allowed if allowed else error for error, allowed in found), default=0.0)
    is_right = all(error <= allowed for error, allowed in found)
    print(f"{'ok' if is_right else 'WRONG'} {title}: {share:.2f} of the allowed error", flush=True)
    return is_right


def run_large(impl: kernels.Impl, device: torch.device) -> int:
    """Forward and backward of the first workload of every kind in LARGE; returns their number."""
    first: dict[str, Workload] = {}
    for workload in workloads(small=device.type == "cpu", quick=False):
        name = next((x for x in LARGE if f"{workload.op} {workload.shape}".startswith(x)), None)
        if name:
            first.setdefault(name, workload)
    for workload in first.values():
        for dtype in DTYPES:
            inputs = [large(x, device, dtype) for x in workload.make()]
            leaves = [inputs[i].requires_grad_() for i in workload.differentiable]
            with kernels.implementation(impl):
                found = workload.call(*inputs)
                if leaves:
                    torch.autograd.grad(found.sum(), leaves)
            print(f"ran {workload.op} {workload.shape} {dtype}", flush=True)
    return len(first)


def large(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    x = x.to(device, dtype if x.is_floating_point() else None)
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def main() -> None:
    """Probe; exits with 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cases", choices=["one", "all", "large"])
    parser.add_argument("--impl", choices=["cuda", "cpu"], required=True)
    options = parser.parse_args()
    device = torch.device(options.impl)
    torch.backends.cudnn.allow_tf32 = False  # the reference is compared with float64
    tools = ("git", "nvcc", "compute-sanitizer", "ncu", "cuobjdump")
    print("here:", ", ".join(name for name in tools if shutil.which(name)) or "no tool")
    if options.cases == "large":
        print(f"{run_large(options.impl, device)} workloads ran")
        return
    cases = list(ONE_CASE_EACH.values())
    if options.cases == "one":
        cases = list({case.name.partition("-")[0]: case for case in cases}.values())
    right = [probe(case, dtype, options.impl, device) for case in cases for dtype in DTYPES]
    print(f"{sum(right)} of {len(right)} are right")
    if not all(right):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
