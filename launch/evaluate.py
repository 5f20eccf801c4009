"""Measure a run's generator against its real images: `python launch/evaluate.py RUN`.

Runs in a single process, or divides the work among the ranks under `torchrun`. Scores go to
RUN/metrics.csv. With several checkpoints, RUN/metrics_summary.csv holds the minimum, maximum, mean
and SD over them, and RUN/metrics.png the curves. Exit codes: 0 done, 1 no checkpoint could be
measured, 2 invalid input.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from realness.data_pipeline import SourceKind, SourceOptions
from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_as_script
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from realness.trainer.distributed.launcher import is_leader

if TYPE_CHECKING:
    import torch

    from realness.trainer.config import TrainConfig
    from realness.trainer.metrics import Evaluator, FeatureNetwork
    from realness.trainer.storage.scores import Record


@dataclass(frozen=True)
class Command:
    """The arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run (its --run-dir)."""
    metrics: str = "fid,swd"
    """Comma-separated: swd, fid, kid, is (Inception Score), pr (precision and recall), ppl
    (perceptual path length). swd needs no feature network."""
    checkpoint: str = "latest"
    """latest, all, best, or the number of images seen by one checkpoint. best is the checkpoint
    with the best score in the first of the --metrics (for pr: precision); scores that metrics.csv
    lacks are measured."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of G: ema, their moving average, or raw, as the last update left them."""
    ema_width: str = ""
    """Measure moving averages of these widths, such as 0.08,0.12, computed from a run with --ema
    power or both. By default the average that training used."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plugin that the run was trained with; may be given several times. THE FILE IS EXECUTED."""
    num_images: int = 50_000
    """Images to generate. SWD uses at most 16,384 of them, and at most the number of real ones."""
    num_real: int = 0
    """Number of real images to compare with; 0 uses all."""
    batch_size: int = 32
    """Images per process and batch."""
    data: str = ""
    """Source of the real images; by default the run's training data, opened as the run did."""
    source_kind: SourceKind = "auto"
    """What --data is. A folder with several kinds, such as images and tar shards, needs the choice;
    auto finds out."""
    wds_image: str = ""
    """Extension of the pictures to take from WebDataset's shards in --data, such as jpg, or several
    with commas between them. all takes every picture."""
    follow_links: bool = False
    """Follow symbolic links that leave the folder of images --data."""
    labels: str = "run"
    """Where the classes of the images --data come from: auto, folders, none or a CSV, as in
    training; run uses the choice that the run was trained with."""
    decoder: Literal["run", "auto", "dali", "threads"] = "run"
    """Decoder of the real images; run uses the decoder that the run was trained with."""
    network: Literal["inception", "efflite0"] = "inception"
    """Feature network: the Inception network of FID, downloaded once, or EfficientNet-lite0, which
    the extra offline-features installs."""
    network_file: str = ""
    """Path or URL of a TorchScript file to use instead; its name is recorded with the scores."""
    network_sha256: str = ""
    """SHA-256 of the --network-file, by default that of Inception. TorchScript is code, so a file
    with another hash is not loaded."""
    network_size: int = 299
    """Side in pixels of the images that the --network-file takes."""
    resize: Literal["clean", "bilinear", "network"] = "clean"
    """How images are resized for the --network-file: clean is antialiased bicubic, bilinear is not
    antialiased, network leaves resizing to the network."""
    seed: int = 0
    """Seed of latents, patches, directions and subsets; the same seed gives the same scores."""
    from_iteration: int = 20_000
    """First iteration included in the summary over checkpoints."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto uses CUDA if a device is available."""


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
    from realness.data_pipeline import check_images, check_shards
    from realness.launch.evaluated_images import differing_classes, open_real_images
    from realness.trainer.config import ConfigError
    from realness.trainer.distributed.collectives import on_all_ranks
    from realness.trainer.distributed.ranks import rank, world_size
    from realness.trainer.metrics import Evaluator, MeasurementPlan, RealImages, check_metrics

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
        for message in [*catalog.messages(), *differing_classes(config.classes, catalog)]:
            _print_message(message)
        check_shards(catalog, rank(), world_size())
        check_images(catalog, data.resolution, max_bad_images=data.max_bad_images)
        plan = MeasurementPlan(
            metrics,
            num_images=command.num_images,
            num_real=min(command.num_real or len(catalog), len(catalog)),
            batch_size=command.batch_size,
            seed=command.seed,
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
