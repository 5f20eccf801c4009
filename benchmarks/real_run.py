"""A real run from end to end: `python benchmarks/real_run.py IMAGES [--minutes 10] [--flags ...]`.

Trains, is killed with -9 after its first checkpoint, resumes from it, and is asked to stop when its
time is over. Its records, versions and last grid of samples are saved as real_run.{jsonl,json,png}
in --results. --flags are those of launch/train_ffhq.py.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STOPPED = 75
"""The status of a run that was asked to stop and has saved a checkpoint."""


def train_and_kill(command: list[str], latest: Path) -> None:
    """Train until there is a checkpoint. Raises SystemExit if training ends before."""
    training = subprocess.Popen(command)
    while not latest.exists():
        if training.poll() is not None:
            raise SystemExit(f"ended with {training.returncode} before its first checkpoint")
        time.sleep(0.02)
    training.kill()
    training.wait()
    print(f"killed after {latest.read_text()} images", flush=True)


def resume(command: list[str], seconds: float) -> None:
    """Train on, for at most `seconds`. Raises SystemExit if it fails."""
    training = subprocess.Popen(command)
    try:
        code = training.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        training.terminate()
        code = training.wait(timeout=120)
    if code not in (0, STOPPED):
        raise SystemExit(f"ended with {code} after it was resumed")


def main() -> None:
    """Run, kill, resume, and keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", help="any source of images")
    parser.add_argument("--minutes", type=float, default=10.0, help="after it was resumed")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "real", help="run folder")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    shutil.rmtree(options.run, ignore_errors=True)
    script = ROOT / "launch" / "train_ffhq.py"
    command = [sys.executable, str(script), "--data", options.images, "--run-dir", str(options.run)]
    command += options.flags
    latest = options.run / "checkpoints" / "latest"
    train_and_kill(command, latest)
    resume(command, 60 * options.minutes)
    for name, suffix in (("stats.jsonl", "jsonl"), ("environment.json", "json")):
        shutil.copy(options.run / name, options.results / f"real_run.{suffix}")
    if grids := sorted(options.run.glob("samples/0*.png")):
        shutil.copy(grids[-1], options.results / "real_run.png")
    print(f"stopped after {latest.read_text()} images")


if __name__ == "__main__":
    main()
