"""Measure a run's generator against its real images: `python launch/evaluate.py RUN`.

Runs in a single process, or divides the work among the ranks under `torchrun`. Scores go to
RUN/metrics.csv, those of single classes to RUN/metrics_classes.csv. With several checkpoints,
RUN/metrics_summary.csv holds the minimum, maximum, mean and SD over them, and RUN/metrics.png the
curves. Exit codes: 0 done, 1 no checkpoint could be measured, 2 invalid input.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from realness.data_pipeline import SourceOptions
from realness.launch.command_line import read_command_line
from realness.launch.evaluate_arguments import Command
from realness.launch.exit_status import run_as_script
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from realness.trainer.distributed.launcher import is_leader

if TYPE_CHECKING:
    import torch

    from realness.trainer.config import TrainConfig
    from realness.trainer.metrics import Evaluator, FeatureNetwork
    from realness.trainer.storage.scores import Record


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    leader = is_leader()
    command = read_command_line(Command, arguments, description=__doc__, console_outputs=leader)
    level = logging.WARNING if leader else logging.ERROR
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    from realness.trainer.config.plugins import load_plugins
    from realness.trainer.distributed.device import pick_device
    from realness.trainer.distributed.ranks import start_process_group, stop_process_group
    from realness.trainer.metrics import MeasureFailed

    try:
        load_plugins(command.plugin)
        device = pick_device(command.device)
        start_process_group(device)
        return _evaluate(command, device)
    except ValueError as error:
        _print_message(f"error: {error}")
        return EXIT_USAGE
    except MeasureFailed as error:
        _print_message(f"error: {error}")
        return EXIT_FAILED
    finally:
        stop_process_group()


def _evaluate(command: Command, device: torch.device) -> int:
    from realness.trainer.config import ConfigError
    from realness.trainer.distributed.collectives import on_all_ranks
    from realness.trainer.distributed.ranks import rank
    from realness.trainer.inference.widths import chosen_weights
    from realness.trainer.metrics import check_metrics, first_metric
    from realness.trainer.metrics.show import open_progress, report_scores
    from realness.trainer.storage.run_folder import read_config

    with ExitStack() as cleanup:
        config = on_all_ranks(lambda: read_config(command.run), failure=ConfigError)
        folders = on_all_ranks(lambda: _folders(command), failure=ConfigError)
        progress = open_progress(cleanup, enabled=rank() == 0)
        names = chosen_weights(
            command.weights, command.ema_width, single=command.checkpoint == "best"
        )
        evaluator, digest = _prepare(command, config, device, cleanup, progress)
        if command.checkpoint == "best":
            first = first_metric(command.metrics)
            others = [name for name in check_metrics(command.metrics) if name != first]
            folders, records = _find_best(
                command, evaluator.only(first), folders, digest, device, names[0]
            )
            evaluator = evaluator.only(*others) if others else None
        else:
            records = []
        if evaluator is not None:
            records += [
                record
                for folder in folders
                for weights in names
                for record in _measure(command, evaluator, folder, digest, device, weights)
            ]
    if not records:
        _print_message("no checkpoint could be measured")
        return EXIT_FAILED
    if rank() == 0:
        report_scores(command.run, records, command.from_iteration)
    return EXIT_OK


def _folders(command: Command) -> list[Path]:
    """The checkpoints to consider: all of them for `best`."""
    from realness.trainer.checkpoint.choosing import choose_checkpoints

    return choose_checkpoints(
        command.run, "all" if command.checkpoint == "best" else command.checkpoint
    )


def _measure(
    command: Command,
    evaluator: Evaluator,
    folder: Path,
    digest: str,
    device: torch.device,
    weights: str,
) -> list[Record]:
    """The scores of one checkpoint; empty, with a message, if it is damaged."""
    from realness.trainer.checkpoint import CheckpointError
    from realness.trainer.checkpoint.choosing import load_chosen
    from realness.trainer.inference.trained import load_generator
    from realness.trainer.metrics import CheckpointInfo

    started = time.monotonic()
    try:
        generator = load_chosen(
            lambda: _folders(command)[-1] if command.checkpoint == "latest" else folder,
            lambda chosen: load_generator(command.run, chosen, device, weights),
        )
    except CheckpointError as error:
        _print_message(f"skipped: {error}")
        return []
    if generator.data_digest != digest:
        _print_message(f"{folder.name} was not trained on the images that it is compared with")
    scores = evaluator.scores(generator)
    seconds = time.monotonic() - started
    images, iteration = generator.images_seen, generator.iteration
    info = CheckpointInfo(images, iteration, command.seed, digest, seconds, generator.weights)
    return info.records(scores)


def _find_best(
    command: Command,
    evaluator: Evaluator,
    folders: list[Path],
    digest: str,
    device: torch.device,
    weights: str,
) -> tuple[list[Path], list[Record]]:
    """The checkpoint with the best score, and the scores that had to be measured to know it.

    Scores in metrics.csv with the same settings are reused; all ranks read the same rows.
    """
    from realness.trainer.config import ConfigError
    from realness.trainer.distributed.collectives import on_all_ranks
    from realness.trainer.metrics import best_record, is_headline
    from realness.trainer.storage.scores import read_records

    (metric,) = evaluator.metrics
    there = {int(folder.name): folder for folder in folders}
    earlier = on_all_ranks(lambda: read_records(command.run), failure=ConfigError)
    known = [
        record
        for record in earlier
        if record.images in there
        and is_headline(record.metric, metric)
        and (record.seed, record.weights) == (command.seed, weights)
        and record.data == digest[:12]
        and evaluator.compares(record)
    ]
    measured: list[Record] = []
    for images, folder in there.items():
        if images not in {record.images for record in known}:
            measured += _measure(command, evaluator, folder, digest, device, weights)
    best = best_record([*known, *measured], metric)
    if best is None:
        return [], []
    _print_message(f"best: {best.metric} {best.value:.5g} after {best.images:,} images of training")
    return [there[best.images]], measured or [best]


def _prepare(
    command: Command,
    config: TrainConfig,
    device: torch.device,
    cleanup: ExitStack,
    progress: Callable[[str, int, int], None],
) -> tuple[Evaluator, str]:
    """The evaluator and the digest of the real images, after checking all inputs."""
    from realness.launch.evaluated_images import check_real_images, open_real_images
    from realness.trainer.config import ConfigError
    from realness.trainer.distributed.collectives import on_all_ranks
    from realness.trainer.metrics import (
        Evaluator,
        MeasurementPlan,
        RealImages,
        check_metrics,
        compared_classes,
    )

    def prepare() -> tuple[Evaluator, str]:
        metrics = check_metrics(command.metrics)
        data = config.data
        if command.decoder != "run":
            data = replace(data, decoder=command.decoder)
        options = SourceOptions(
            command.source_kind, command.wds_image, command.follow_links, command.labels
        )
        data, catalog = open_real_images(data, command.data, options)
        cleanup.callback(catalog.close)
        check_real_images(config.classes, data, catalog, _print_message)
        num_images = command.num_images
        num_real = min(command.num_real or len(catalog), len(catalog))
        classes = compared_classes(metrics, config.classes, catalog, num_images, num_real)
        if classes is not None and classes.note:
            _print_message(classes.note)
        plan = MeasurementPlan(
            metrics, num_images, num_real, command.batch_size, command.seed, classes
        )
        network = _open_network(command, device) if plan.needs_network else None
        real = RealImages(catalog, data, plan.batch_size)
        return Evaluator(plan, real, network, progress), catalog.digest

    return on_all_ranks(prepare, failure=ConfigError)


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


def _print_message(message: str) -> None:
    if is_leader():
        print(message, file=sys.stderr)


if __name__ == "__main__":
    run_as_script(main)
