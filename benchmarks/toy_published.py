"""RealnessGAN's 2-D experiment as its published script runs it, over ten seeds.

`python benchmarks/toy_published.py` trains RealnessGAN, the standard GAN, LSGAN and the hinge loss
with all settings of the script (`--networks published` of `realness toy`) for 1,500 iterations, and
measures every 50. Reported are the chance that a run of RealnessGAN has more high-quality samples
than a run of another method, by iteration, and an exact test of one hypothesis, which was written
down before the first run (benchmarks/LOG.md).

Every seed is a task of its own; tasks in --work are not run again, so the same command continues
where it was stopped, and --report writes what is finished. Writes toy_published.csv, .md and .png
to benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import toy_published_report
from toy import RESULTS, ROOT, run_all, write_csv
from toy_plan import Task

NAMES = ("realness", "std", "lsgan", "hinge")
SEEDS, ITERATIONS, EVERY = 10, 1500, 50


def plan(seeds: int = SEEDS, iterations: int = ITERATIONS, every: int = EVERY) -> list[Task]:
    """A task per method and seed; the first seed of every method comes first."""
    ends = tuple(range(every, iterations + 1, every))
    return [
        Task("published", "grid9", name, 1, ends, networks="published", first_seed=seed)
        for seed in range(seeds)
        for name in NAMES
    ]


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="only report what is in --work")
    workers = os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=workers, help="processes of one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "toy-published")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers={options.workers} must be 1 or more")
    tasks = plan()
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.report:
        run_all(tasks, options.work, options.workers)
    finished = {
        task: task.load(options.work) for task in tasks if (options.work / task.file_name).exists()
    }
    methods = toy_published_report.by_method(finished)
    if set(methods) != set(NAMES):
        print(f"error: {options.work} has no finished run of each method", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    text = toy_published_report.report(methods, len(finished), len(tasks))
    print(text)
    (options.out / "toy_published.md").write_text(text)
    write_csv(options.out / "toy_published.csv", finished)
    toy_published_report.draw(methods, options.out / "toy_published.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
