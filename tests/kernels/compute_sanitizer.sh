#!/usr/bin/env bash
# Runs the values and gradients of every CUDA kernel under compute-sanitizer's four tools.
# Usage: tests/kernels/compute_sanitizer.sh [TOOL ...]   (memcheck racecheck initcheck synccheck)
# Needs a GPU and compute-sanitizer (CUDA toolkit); PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# -eq 0 ]; then
  set -- memcheck racecheck initcheck synccheck
fi
# One allocation per tensor: inside the caching allocator's large blocks nothing is out of bounds.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
export REALNESS_BUILD=require REALNESS_REQUIRE_GPU=1
for tool in "$@"; do
  echo "== $tool"
  # Only our kernels; failing CUDA API calls during torch's start-up do not matter.
  # CUDA 13 calls the option --kernel-name and still accepts the older name.
  compute-sanitizer --tool "$tool" --error-exitcode 86 --report-api-errors no \
    --kernel-regex kns=realness \
    "${PYTHON:-python}" -m pytest -q -x -m gpu -p no:cacheprovider \
    tests/kernels/test_ops.py tests/kernels/test_philox.py \
    -k "float64_reference or layout_is_kept or philox"
done
