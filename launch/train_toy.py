"""Train GANs on points in the plane: `python launch/train_toy.py --data grid9 --method realness`.

The 2-D experiments of RealnessGAN (section 4.1) and FAR-GAN (section 6.1), run with the same
objectives and update code as image training. Several seeds train side by side as one batched
network. Prints a table, and writes samples.png, measures.csv and config.json to --out.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_as_script
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed.exit_codes import EXIT_OK, EXIT_USAGE
from realness.trainer.storage.run_folder import write_config
from realness.trainer.toy import METHODS, NETWORKS_OF, DataName, Networks, method_config

if TYPE_CHECKING:
    from torch import Tensor

    from realness.trainer.toy.results import Result

PLAIN_LINE_SECONDS = 10.0
MAX_PANELS = 8


@dataclass(frozen=True)
class ToyCommand:
    """Data, method and output folder of an experiment; None keeps the paper's value."""

    data: DataName = "grid9"
    """Distribution of the points."""
    method: str = "realness"
    """Method; the names are listed above."""
    iterations: int = 2000
    """Iterations, each with k_D updates of D and k_G updates of G."""
    seeds: int = 5
    """Independent runs, with seeds 0, 1, ..."""
    checkpoints: int = 4
    """Number of measurements, equally spaced up to the end."""
    networks: Networks | None = None
    """Paper whose networks and optimiser to use, by default the paper that the data comes from;
    published is all that RealnessGAN's published script does: z in 128 dimensions, histogram
    anchors drawn once per iteration, points in shuffled epochs, batch normalisation's weights
    from N(1, 0.02)."""
    num_outcomes: int | None = None
    """Number of outcomes N of a realness method."""
    anchor_kl: float | None = None
    """D_KL(A1 || A0) of a realness method."""
    k_g: int | None = None
    """Updates of G per iteration."""
    k_d: int | None = None
    """Updates of D per iteration."""
    lr: float | None = None
    """Learning rate of both networks."""
    optimizer: str | None = None
    """adam or rmsprop."""
    spacing: float | None = None
    """Distance between neighbouring modes of grid9 and grid25."""
    std: float | None = None
    """Standard deviation of the modes of grid9 and grid25."""
    num_points: int | None = None
    """Number of training points."""
    out: Path = Path("runs/toy")
    """Folder for the results."""

    def config(self) -> TrainConfig:
        """The trainer's configuration. Raises ConfigError for invalid arguments."""
        for name in ("iterations", "seeds", "checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}={getattr(self, name)} must be 1 or more")
        if self.optimizer not in (None, "adam", "rmsprop"):
            raise ConfigError(f"--optimizer={self.optimizer} is unknown; choose adam or rmsprop")
        return method_config(
            self.method,
            networks=self.chosen_networks,
            num_outcomes=self.num_outcomes,
            anchor_kl=self.anchor_kl,
            k_g=self.k_g,
            k_d=self.k_d,
            lr_g=self.lr,
            lr_d=self.lr,
            optimizer=self.optimizer,
        )

    @property
    def chosen_networks(self) -> Networks:
        """The requested networks, or those of the data's paper."""
        return self.networks or NETWORKS_OF[self.data]

    def measured_at(self) -> list[int]:
        """Iterations at which to measure."""
        count = min(self.checkpoints, self.iterations)
        return [math.ceil(self.iterations * k / count) for k in range(1, count + 1)]


class IterationLine:
    """Progress and remaining time: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, total: int, cleanup: ExitStack) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        self._total, self._start, self._printed = total, time.monotonic(), time.monotonic()
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = None
        if self._console.is_terminal:
            columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
            remaining = TimeRemainingColumn(compact=True)
            self._bar = Progress(*columns, remaining, console=self._console)
            cleanup.enter_context(self._bar)
            self._task = self._bar.add_task("iterations", total=total)

    def __call__(self, iteration: int, stats: object) -> None:
        from realness.trainer.reporting.progress import duration

        if self._bar is not None:
            self._bar.update(self._task, completed=iteration)
            return
        now = time.monotonic()
        if now - self._printed >= PLAIN_LINE_SECONDS:
            self._printed = now
            eta = (now - self._start) / iteration * (self._total - iteration)
            self._console.print(f"iteration {iteration:,} / {self._total:,}  ETA {duration(eta)}")


def run(command: ToyCommand) -> None:
    """Train, print the table, write the files. Raises ConfigError for invalid arguments."""
    config = command.config()
    from realness.trainer.toy.data import build_data
    from realness.trainer.toy.experiment import build_experiment
    from realness.trainer.toy.results import train

    data = build_data(
        command.data, spacing=command.spacing, std=command.std, num_points=command.num_points
    )
    command.out.mkdir(parents=True, exist_ok=True)
    write_config(command.out, config)
    experiment = build_experiment(config, data, range(command.seeds), command.chosen_networks)
    with ExitStack() as cleanup:
        line = IterationLine(command.iterations, cleanup)
        results = train(experiment, data, command.measured_at(), line)
    print(table(results))
    write_csv(command.out / "measures.csv", results)
    draw(command, data.training_points(), results)
    print(f"samples: {command.out / 'samples.png'}")
    print(f"measures: {command.out / 'measures.csv'}")


def table(results: Sequence[Result]) -> str:
    """The table: every seed at the last iteration, and the medians at each measurement."""
    from realness.trainer.toy.results import medians

    has_modes = results[0].modes is not None
    head = f"{'iteration':>9}  {'seed':>6}"
    head += f"  {'HQ %':>6}  {'modes':>5}  {'sigma':>6}" if has_modes else ""
    lines = [head + f"  {'energy distance':>15}"]

    def add(iteration: int, seed: str, row: dict[str, float]) -> None:
        modes = ""
        if has_modes:
            modes = f"  {row['high_quality']:6.1f}  {row['num_modes']:5g}  {row['sigma']:6.3f}"
        lines.append(f"{iteration:9d}  {seed:>6}{modes}  {row['distance']:15.4f}")

    last = results[-1].iteration
    for result in results:
        if result.iteration == last:
            add(last, str(result.seed), medians([result]))
    for iteration in sorted({result.iteration for result in results}):
        add(iteration, "median", medians([r for r in results if r.iteration == iteration]))
    return "\n".join(lines)


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write one row per seed and checkpoint."""
    from realness.trainer.toy.results import medians

    rows = [
        {"seed": result.seed, "iteration": result.iteration, **medians([result])}
        for result in results
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(command: ToyCommand, real: Tensor, results: Sequence[Result]) -> None:
    """Draw the data, and the final samples of every seed."""
    from realness.trainer.toy.figures import Panel, draw_panels

    last = [result for result in results if result.iteration == results[-1].iteration]
    panels = [Panel("data", f"{len(real):,} points")]
    for result in last[: MAX_PANELS - 1]:
        note = f"distance {result.distance:.4f}"
        if result.modes is not None:
            note = f"{result.modes.high_quality:.1f}% HQ, {result.modes.num_modes} modes"
        panels.append(Panel(f"seed {result.seed}", note, result.samples))
    draw_panels(
        command.out / "samples.png",
        real,
        panels,
        columns=min(4, len(panels)),
        title=f"{METHODS[command.method].label} on {command.data}, {command.iterations} iterations",
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the process's exit code."""
    methods = "\n".join(f"  {name}: {method.label}" for name, method in METHODS.items())
    command = read_command_line(
        Annotated[ToyCommand, tyro.conf.arg(name="")],
        arguments,
        description=f"{__doc__}\nMethods:\n{methods}",
    )
    try:
        run(command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_OK


if __name__ == "__main__":
    run_as_script(main)
