#!/usr/bin/env bash
# Runs everything that needs a GPU, the most valuable parts first, each with a time limit and a
# separate log. A part that fails does not stop the next. Ends with a summary, and exits with 1 if
# any part failed or was not reached within REALNESS_GPU_MINUTES (default 30).
# Usage: benchmarks/on_a_gpu.sh [PART ...]     (all parts, in the order of the list below)
# PYTHON names the interpreter (default python3): it needs torch and pytest, and for the last parts
# the packages of pyproject.toml. Nothing is installed. Logs, rows and figures go to runs/gpu/.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD/.typings${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export REALNESS_BUILD=require REALNESS_REQUIRE_GPU=1
out=${REALNESS_GPU_OUT:-runs/gpu}
budget=$((60 * ${REALNESS_GPU_MINUTES:-30}))
mkdir -p "$out"
pytest=("$PYTHON" -m pytest -q -m gpu -p no:cacheprovider)
figures=("$PYTHON" benchmarks/kernels.py --csv "$out/kernels.csv")
wanted=" $* "
summary=()
failed=0

# part NAME SECONDS COMMAND...
part() {
  local name=$1 limit=$2 begin=$SECONDS left=$((budget - SECONDS)) code
  shift 2
  [[ $wanted == "  " || $wanted == *" $name "* ]] || return
  if ((left <= 0)); then
    summary+=("$name: not reached")
    failed=1
    return
  fi
  echo "== $name (log: $out/$name.log)"
  timeout --kill-after=10 $((limit < left ? limit : left)) "$@" >"$out/$name.log" 2>&1
  code=$?
  tail -n 3 "$out/$name.log"
  case $code in
    0) summary+=("$name: passed in $((SECONDS - begin)) s") ;;
    124 | 137) summary+=("$name: TIMED OUT after $((SECONDS - begin)) s") ;;
    *) summary+=("$name: FAILED with $code after $((SECONDS - begin)) s") ;;
  esac
  ((code == 0)) || failed=1
}

part build 300 "$PYTHON" -m realness.kernels --rebuild
part tests 420 "${pytest[@]}" tests/kernels
part kernels 240 "${figures[@]}" --impl ours eager library
for tool in memcheck racecheck initcheck synccheck; do
  part "$tool" 240 tests/kernels/compute_sanitizer.sh "$tool"
done
part compiled 420 "${figures[@]}" --impl ours eager compile --plot "$out/kernels.png"
part other-tests 120 "${pytest[@]}" tests --ignore=tests/kernels --continue-on-collection-errors
part step 480 "$PYTHON" benchmarks/train_step.py --ranks 1 --rounds 5
[[ ! -e data/orl-faces-64 ]] || part modes 300 "$PYTHON" benchmarks/speed_modes.py
part loader 240 "$PYTHON" benchmarks/loader.py --device cuda
# REALNESS_GPU_IMAGES names its images: FFHQ at 1024, or any of that size.
[[ -z ${REALNESS_GPU_IMAGES:-} ]] ||
  part real-run 600 benchmarks/real_run.sh "$REALNESS_GPU_IMAGES" 6 --precision bf16 \
    --checkpoint-kimg 1 --log-kimg 0.25 --sample-kimg 1
printf '%s\n' "== summary" "${summary[@]}"
exit $failed
