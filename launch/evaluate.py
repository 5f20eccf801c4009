"""Measure a run's generator against its real images: `python launch/evaluate.py RUN`.

Works on one process, and shares the work out under `torchrun`. Scores go into RUN/metrics.csv. Exit
codes: 0 done, 1 no checkpoint could be measured, 2 wrong input.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from realness.trainer.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE

if TYPE_CHECKING:
    import torch

    from realness.trainer.config import TrainConfig
    from realness.trainer.metrics import Evaluator, FeatureNetwork, Record, Summary


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    metrics: str = "fid,swd"
    """Comma-separated: swd, fid, kid, is (Inception Score), pr (precision and recall), ppl
    (perceptual path length). swd needs no feature network."""
    checkpoint: str = "latest"
    """latest, all, or the images seen by one of them."""
    num_images: int = 50_000
    """Images to generate. SWD takes 16,384 of them at most, and no more than there are real."""
    num_real: int = 0
    """Real images to compare with; 0 takes all."""
    batch_size: int = 32
    """Images a process works on at a time."""
    data: str = ""
    """Real images; by default those of the run."""
    network: Literal["inception", "efflite0"] = "inception"
    """Feature network: the Inception of FID, downloaded once, or EfficientNet-lite0, which the
    extra offline-features installs."""
    network_file: str = ""
    """Path or URL of a TorchScript file to use instead; its scores bear its name."""
    network_sha256: str = ""
    """Its hash, by default Inception's. TorchScript is code: another hash is not loaded."""
    network_size: int = 299
    """Side of the images that such a network takes."""
    resize: Literal["clean", "bilinear", "network"] = "clean"
    """How images come to its size: clean is antialiased bicubic, bilinear is not antialiased,
    network leaves it to the network."""
    seed: int = 0
    """Of latents, patches, directions and subsets: the same seed gives the same scores."""
    from_iteration: int = 20_000
    """Where the summary over checkpoints begins."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes CUDA where there is a device."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    leader = os.environ.get("RANK", "0") == "0"
    command = tyro.cli(Command, args=arguments, description=__doc__, console_outputs=leader)
    level = logging.WARNING if leader else logging.ERROR
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    from realness.trainer.distributed import (
        pick_device,
        start_process_group,
        stop_process_group,
    )

    try:
        device = pick_device(command.device)
        start_process_group(device)
        return _evaluate(command, device)
    except ValueError as error:
        if leader:
            print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        stop_process_group()


def _evaluate(command: Command, device: torch.device) -> int:
    from realness.trainer.checkpoint import CheckpointError
    from realness.trainer.config import ConfigError
    from realness.trainer.distributed import rank, together
    from realness.trainer.run_folder import read_config
    from realness.trainer.trained import choose_checkpoints, load_generator

    with ExitStack() as cleanup:
        config = together(lambda: read_config(command.run), failure=ConfigError)
        folders = together(
            lambda: choose_checkpoints(command.run, command.checkpoint), failure=ConfigError
        )
        progress = _open_progress(cleanup, enabled=rank() == 0)
        evaluator, digest = _prepare(command, config, device, cleanup, progress)
        records: list[Record] = []
        for folder in folders:
            started = time.monotonic()
            try:
                generator = load_generator(command.run, folder, device)
            except CheckpointError as error:
                _say(f"passed over: {error}")
                continue
            if generator.data_digest != digest:
                _say(f"{folder.name} was trained on another set of images than it is compared with")
            scores = evaluator.scores(generator)
            place = (generator.images_seen, generator.iteration)
            records += _record(command, place, digest, scores, time.monotonic() - started)
    if not records:
        _say("no checkpoint could be measured")
        return EXIT_FAILED
    if rank() == 0:
        _report(command, records)
    return EXIT_OK


def _prepare(
    command: Command,
    config: TrainConfig,
    device: torch.device,
    cleanup: ExitStack,
    progress: Callable[[str, int, int], None],
) -> tuple[Evaluator, str]:
    """The evaluator, and the digest of the real images; everything that can be wrong is checked."""
    from realness.data_pipeline import check_images, open_catalog
    from realness.trainer.config import ConfigError
    from realness.trainer.distributed import together
    from realness.trainer.metrics import Evaluator, Plan, RealImages, check_metrics

    def prepare() -> tuple[Evaluator, str]:
        metrics = check_metrics(command.metrics)
        if not command.data and not config.data.data:
            raise ConfigError("the run does not tell its images; name them with --data")
        catalog = open_catalog(command.data or config.data.data)
        cleanup.callback(catalog.close)
        check_images(catalog, config.data.resolution, max_bad_images=config.data.max_bad_images)
        plan = Plan(
            metrics,
            num_images=command.num_images,
            num_real=min(command.num_real or len(catalog), len(catalog)),
            batch_size=command.batch_size,
            seed=command.seed,
        )
        network = _open_network(command, device) if plan.needs_network else None
        real = RealImages(
            catalog, config.data.resolution, plan.batch_size, config.data.decode_threads
        )
        return Evaluator(plan, real, network, progress), catalog.digest

    return together(prepare, failure=ConfigError)


def _open_network(command: Command, device: torch.device) -> FeatureNetwork:
    from realness.trainer.metrics import INCEPTION, NetworkFile, open_network

    file = None
    if command.network_file:
        file = NetworkFile(command.network_file, command.network_sha256 or INCEPTION.sha256)
    return open_network(
        command.network,
        file=file,
        size=command.network_size,
        resize=command.resize,
        device=device,
    )


def _record(
    command: Command, place: tuple[int, int], digest: str, scores: Sequence, seconds: float
) -> list[Record]:
    from realness.trainer.metrics import Record

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return [
        Record(
            time=now,
            images=place[0],
            iteration=place[1],
            metric=score.metric,
            value=score.value,
            num_images=score.num_images,
            num_real=score.num_real,
            network=score.network,
            resize=score.resize,
            seed=command.seed,
            data=digest[:12],
            seconds=round(seconds, 1),
        )
        for score in scores
    ]


def _open_progress(cleanup: ExitStack, *, enabled: bool) -> Callable[[str, int, int], None]:
    """A bar with the time that is left, which begins anew with each stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("remaining"), Remaining(),
    )  # fmt: skip
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not enabled)
    cleanup.enter_context(bar)
    task = bar.add_task("loading", total=None)
    stage = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal stage, task
        if what != stage:
            bar.remove_task(task)
            stage, task = what, bar.add_task(what, total=total)
        bar.update(task, completed=done)
        if done == total:
            stage = ""

    return show


def _report(command: Command, records: list[Record]) -> None:
    from realness.trainer.metrics import append_records, read_records, summarise

    path = append_records(command.run, records)
    _print_scores(records)
    settings = {record.settings for record in records}
    curves = [record for record in read_records(command.run) if record.settings in settings]
    if len({record.images for record in curves}) > 1:
        summaries = summarise(curves, command.from_iteration)
        if summaries:
            _print_summary(summaries, f"from iteration {command.from_iteration:,} on")
        else:
            _print_summary(
                summarise(curves), f"all are before {command.from_iteration:,} iterations"
            )
    print(f"{path}: {len(records)} rows added")


def _print_scores(records: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("images seen", Column("metric", no_wrap=True), "value")
    for name in ("generated", "real", "network", "resize", "s"):
        table.add_column(name)
    for record in records:
        table.add_row(
            f"{record.images:,}", record.metric, f"{record.value:.5g}", f"{record.num_images:,}",
            f"{record.num_real:,}", record.network, record.resize, f"{record.seconds:.0f}",
        )  # fmt: skip
    Console().print(table)


def _print_summary(summaries: list[Summary], note: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "metric", "min", "max", "mean", "SD", "checkpoints", title=f"Over training, {note}"
    )
    for item in summaries:
        numbers = (item.least, item.greatest, item.mean, item.deviation)
        table.add_row(item.metric, *(f"{number:.5g}" for number in numbers), str(item.count))
    Console().print(table)


def _say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
