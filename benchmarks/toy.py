"""The papers' 2-D experiments, all methods: `python benchmarks/toy.py [--quick | --full]`.

Trains every method on the same data with the same networks and budget, several seeds as one batched
network. Prints the tables of RealnessGAN's section 4.1 with the paper's numbers next to the
measured ones, the effect of the number of outcomes and of the anchors, and FAR-GAN's experiments
(section 6.1). --quick is the main table with one seed; --full is everything.

Finished tasks are kept in --work and not run again: the same command continues where it was
stopped, and --report writes the tables of the finished tasks. Writes toy.csv, toy.md and toy_*.png
(toy_quick.* with --quick) to benchmarks/results.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import toy_figures
import toy_tables
from toy_plan import Arrays, Task, full_plan, quick_plan

from realness.trainer.reporting import describe_environment
from realness.trainer.reporting.progress import duration

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def work(task: Task, folder: Path) -> Arrays:
    """Run one task in a worker process with one thread."""
    import torch

    torch.set_num_threads(1)
    return task.run_once(folder)


def run_all(tasks: list[Task], folder: Path, workers: int) -> None:
    """Run the tasks that `folder` lacks, in the plan's order; print a line per finished task."""
    missing = [task for task in tasks if not (folder / task.file_name).exists()]
    start, total, done = time.monotonic(), sum(task.cost for task in missing), 0.0
    os.environ.update(ONE_THREAD)
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(work, task, folder): task for task in missing}
        for number, future in enumerate(as_completed(futures), start=1):
            task, arrays = futures[future], future.result()
            done += task.cost
            elapsed = time.monotonic() - start
            print(
                f"[{number}/{len(missing)}] {task.part}: {task.label} on {task.data}, "
                f"{float(arrays['cpu_seconds']):.0f} CPU-s; {duration(elapsed)} in all, "
                f"ETA {duration(elapsed / done * (total - done))}",
                flush=True,
            )


def write_csv(path: Path, finished: dict[Task, Arrays]) -> None:
    """A row for every task, checkpoint and seed."""
    environment = describe_environment()
    origin = {key: environment.get(key) for key in ("cpu", "python", "torch", "commit")}
    measures = ("high_quality", "num_modes", "sigma", "distance")
    rows = []
    for task, arrays in finished.items():
        config = task.config
        for number, seed in enumerate(arrays["seed"]):
            rows.append(
                {
                    "part": task.part,
                    "data": task.data,
                    "method": task.method,
                    "changes": " ".join(f"{key}={value:g}" for key, value in task.changes),
                    "k_g": config.optimizer.k_g,
                    "k_d": config.optimizer.k_d,
                    "iteration": int(arrays["iteration"][number]),
                    "seed": int(seed),
                    **{
                        key: f"{arrays[key][number]:.5g}" if key in arrays else ""
                        for key in measures
                    },
                    "task_cpu_seconds": f"{float(arrays['cpu_seconds']):.0f}",
                    **origin,
                }
            )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="the main table, one seed (default)")
    mode.add_argument("--full", action="store_true", help="every experiment")
    parser.add_argument("--report", action="store_true", help="only report what is in --work")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "toy-benchmark")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers={options.workers} must be 1 or more")
    tasks = full_plan() if options.full else quick_plan()
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.report:
        run_all(tasks, options.work, options.workers)
    finished = {
        task: task.load(options.work) for task in tasks if (options.work / task.file_name).exists()
    }
    if not finished:
        print(f"error: no task of this plan is in {options.work}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    stem = "toy" if options.full else "toy_quick"
    text = toy_tables.report(finished, num_planned=len(tasks))
    print(text)
    (options.out / f"{stem}.md").write_text(text)
    write_csv(options.out / f"{stem}.csv", finished)
    toy_figures.draw_all(finished, options.out, stem)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
