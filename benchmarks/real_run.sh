#!/usr/bin/env bash
# A real run from end to end: trains, is killed with -9 after its first checkpoint, resumes from it,
# and is asked to stop when its time is over. Its records, versions and last grid of samples are
# saved as benchmarks/results/real_run.{jsonl,json,png}.
# Usage: benchmarks/real_run.sh IMAGES MINUTES [FLAG ...]     (flags of launch/train_ffhq.py)
# PYTHON names the interpreter (default python3), RUN the run's folder (default runs/real).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/.typings${PYTHONPATH:+:$PYTHONPATH}
images=$1 minutes=$2
shift 2
run=${RUN:-runs/real}
results=benchmarks/results
command=("${PYTHON:-python3}" launch/train_ffhq.py --data "$images" --run-dir "$run" "$@")

"${command[@]}" &
training=$!
until [[ -e $run/checkpoints/latest ]]; do
  kill -0 "$training" 2>/dev/null || { echo "ended before its first checkpoint" >&2; exit 1; }
  sleep 0.2
done
kill -9 "$training"
wait "$training" || echo "killed after $(cat "$run/checkpoints/latest") images"

code=0
timeout --signal=TERM --kill-after=120 $((60 * minutes)) "${command[@]}" || code=$?
# timeout exits with 124 although the run saved a checkpoint and exited with 75.
((code == 0 || code == 124)) || exit "$code"
cp "$run/stats.jsonl" "$results/real_run.jsonl"
cp "$run/environment.json" "$results/real_run.json"
cp "$(find "$run/samples" -name '0*.png' | sort | tail -n 1)" "$results/real_run.png"
echo "stopped after $(cat "$run/checkpoints/latest") images"
