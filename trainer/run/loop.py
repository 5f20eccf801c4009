"""The training loop."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from realness import kernels
from realness.data_pipeline import Catalog, ImageStream
from realness.trainer import checkpoint
from realness.trainer.checkpoint import Retention, Saver
from realness.trainer.checkpoint.retention import check_free_space, point_to_best
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.distributed.device import pick_device
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from realness.trainer.distributed.launcher import check_launcher
from realness.trainer.distributed.numerics import set_numerics
from realness.trainer.distributed.ranks import (
    rank,
    start_process_group,
    stop_process_group,
    world_size,
)
from realness.trainer.distributed.stop import StopRequest
from realness.trainer.distributed.watchdog import Watch, end_process
from realness.trainer.planning.auto_batch import choose_micro_batch
from realness.trainer.planning.memory import checkpoint_bytes
from realness.trainer.randomness import Stream
from realness.trainer.reporting import write_environment
from realness.trainer.run.averages import Averages
from realness.trainer.run.data import check_same_images, open_data, with_classes
from realness.trainer.run.initial import start_from
from realness.trainer.run.monitor import Monitor, open_monitor
from realness.trainer.run.outputs import measure_if_due, save_reals, save_samples, write_record
from realness.trainer.run.recovery import Diverged, go_back, raise_if_diverged
from realness.trainer.run.saving import (
    await_checkpoint,
    retry_is_due,
    save_after_exception,
    save_checkpoint,
)
from realness.trainer.run.snapshots import (
    await_snapshot,
    check_averages,
    open_snapshots,
    remove_later_snapshots,
    save_snapshot_if_due,
)
from realness.trainer.run.state import Run, open_reporter
from realness.trainer.run.throughput import Pace
from realness.trainer.storage.checkpoint_folder import checkpoint_root
from realness.trainer.storage.origin import read_origin
from realness.trainer.storage.run_folder import (
    lock_run_folder,
    open_run_folder,
    warn_of_power_cuts,
    write_config,
)
from realness.trainer.updates.cuda_graphs import capturing_stream
from realness.trainer.updates.iteration import choose_updates, run_iteration
from realness.trainer.updates.schedule import is_due
from realness.trainer.updates.sharded_gan import ShardedGan, build_gan

log = logging.getLogger("realness.trainer")


def train(config: TrainConfig) -> int:
    """Start or resume training, until `total_kimg` or a request to stop. Returns the exit code.

    Raises, on every rank, ConfigError if the run cannot start and RunFailed if it cannot continue.
    """
    check_launcher()
    watch = Watch(config.engine.rank_timeout_s)
    # The first two are outside of everything, from the rendezvous to the last rank's goodbye.
    with (
        StopRequest(watch.end_all, end_process) as stop,
        watch,
        ExitStack() as cleanup,
        watch.announcing(),
    ):
        device = pick_device(config.engine.device)
        cleanup.callback(stop_process_group)
        start_process_group(device, config.engine.rank_timeout_s, watch.store)
        return _train(config, device, stop, cleanup)


def _train(given: TrainConfig, device: torch.device, stop: StopRequest, cleanup: ExitStack) -> int:
    """`train`, in the process group; what must be closed is added to `cleanup`."""
    set_numerics(given.engine)
    config, folder, catalog = on_all_ranks(lambda: _check(given), failure=ConfigError)
    check_same_images(catalog)
    cleanup.enter_context(kernels.implementation(config.engine.impl))
    cleanup.enter_context(capturing_stream(config, device))
    cleanup.enter_context(on_all_ranks(lambda: _lock(config, folder), failure=ConfigError))
    config = choose_micro_batch(config, device)
    monitor = on_all_ranks(lambda: open_monitor(config, catalog, device), failure=ConfigError)
    gan = build_gan(config, device)
    cleanup.callback(gan.close)
    images = _restore(config, folder, catalog, gan)
    saver = Saver(checkpoint_root(folder), _retention(config, monitor))
    cleanup.callback(saver.close)
    is_over = _recall_scores(saver, folder, images, monitor)
    snapshots = open_snapshots(config, folder)
    if snapshots is not None:
        cleanup.callback(snapshots.close)
    reporter = open_reporter(config, folder, images)
    run = Run(config, folder, catalog, gan, saver, reporter, images, monitor, snapshots)
    # A closure: going back replaces the reporter.
    cleanup.callback(lambda: run.reporter.close())
    if is_over and images < config.num_images:
        run.is_over = True
        return _finish(run, "")
    stop.begin_training()
    while True:
        try:
            return _iterate(run, stop)
        except Diverged as error:
            go_back(run, error)
        except Exception:
            save_after_exception(run)
            raise


def _check(config: TrainConfig) -> tuple[TrainConfig, Path, Catalog]:
    """Check all of the input before anything is built; the classes are set, if it needs any."""
    config.check_ranks(world_size())
    if not config.data.data:
        raise ConfigError("--data is missing: give a folder, zip or tar shards of images")
    catalog = open_data(config)
    config = with_classes(config, catalog)
    folder = open_run_folder(config)
    plan = _retention(config)
    check_free_space(folder, checkpoint_bytes(config), plan, config.num_images)
    check_averages(config, folder)
    return config, folder, catalog


def _retention(config: TrainConfig, monitor: Monitor | None = None) -> Retention:
    """Which checkpoints to keep. Without a monitor: those of a run that has measured nothing."""
    losses = {} if config.metrics.metrics_kimg else None
    if monitor is not None:
        losses = monitor.improvement.losses
    return Retention(config.keep_checkpoints, config.keep_checkpoint_kimg * 1000, losses)


def _recall_scores(saver: Saver, folder: Path, images: int, monitor: Monitor | None) -> bool:
    """Find the best checkpoint of a resumed run again; returns whether `--stop-after` had ended it.

    Collective: rank 0 reads the scores, and decides.
    """
    if monitor is None:
        return False
    if rank() == 0 and images:
        monitor.recall(folder, images)
        point_to_best(checkpoint_root(folder), saver.retention)
    return gather(monitor.improvement.is_over)[0]


def _lock(config: TrainConfig, folder: Path) -> AbstractContextManager[object]:
    """Lock the run's folder on rank 0, and test what its file system can do there."""
    if rank() != 0:
        return nullcontext()
    warn_of_power_cuts(folder)
    return lock_run_folder(folder) if config.lock else nullcontext()


def _restore(config: TrainConfig, folder: Path, catalog: Catalog, gan: ShardedGan) -> int:
    """Load the newest undamaged checkpoint, if any; returns the images seen so far."""
    position = checkpoint.restore(checkpoint_root(folder), gan.target_state(), log.warning)
    if position is None:
        log.info("starting a new run in %s", folder)
        if config.transfer.init_from:
            start_from(config, gan, folder)
    else:
        gan.finish_loading(position.num_updates)
        log.info("resuming at %.1f kimg", position.images / 1000)
        # A converted model was trained on images that are not known.
        differs = position.data_digest not in ("", catalog.digest)
        if differs and not config.accept_config_change:
            raise ConfigError(
                f"--data={config.data.data} is not the set of images that this run was trained on; "
                "give that one, or --accept-config-change to continue with this one"
            )
    remove_later_snapshots(folder, position.images if position else 0)
    if rank() == 0:
        if (origin := read_origin(folder)) and origin.notice:
            log.warning("%s", origin.notice)
        write_config(folder, config)
        write_environment(folder, num_ranks=world_size())
    return position.images if position else 0


def _iterate(run: Run, stop: StopRequest) -> int:
    """Train to the end, or until asked to stop. Raises Diverged if the run must go back."""
    config, gan, batch = run.config, run.gan, run.config.batch_size
    averages, updates, stopping = Averages(), choose_updates(config.engine), False
    with ExitStack() as cleanup:
        streams = _open_streams(run, cleanup)
        pace = Pace(run.catalog, list(streams.values()))

        def real_of(stream: Stream, first_sample: int) -> Tensor:
            images = next(streams[stream])
            run.is_between_updates = False
            return gan.as_grown(gan.normalise(images, stream, first_sample), run.images)

        def labels_of(stream: Stream) -> Tensor | None:
            return streams[stream].labels if gan.classes else None

        if run.images == 0:
            save_reals(run)
        while run.images < config.num_images and not stopping and not run.is_over:
            gan.follow_schedules(run.images)
            gan.grow(run.images)
            for stats in run_iteration(gan, updates, real_of, run.images, labels_of):
                averages.add(stats)
            run.images += batch
            gan.update_average(run.images)
            run.is_between_updates = True
            pace.add(batch)

            stopping = stop.poll()
            complete = run.images >= config.num_images
            saving = is_due(config.checkpoint_kimg, run.images, batch)
            if stopping or complete or is_due(config.log_kimg, run.images, batch):
                means = averages.read()
                raise_if_diverged(run, means)
                write_record(run, means, pace)
                saving = stopping or complete or retry_is_due(run) or saving
            save_snapshot_if_due(run)
            if saving:
                save_checkpoint(run)
            improved, run.is_over = measure_if_due(run, pace, stopping=stopping, complete=complete)
            if (improved or run.is_over) and not saving:
                save_checkpoint(run)
            if complete or run.is_over or is_due(config.sample_kimg, run.images, batch):
                save_samples(run)
                if complete or run.is_over:
                    await_checkpoint(run)  # which may be the best one that the report marks
                run.reporter.write_report()
        stop.settle()
    await_checkpoint(run)
    await_snapshot(run)
    return _finish(run, stop.reason or "asked by another rank")


def _open_streams(run: Run, cleanup: ExitStack) -> dict[Stream, ImageStream]:
    """Real images for D's updates, and for G's if its objective compares with them."""
    config = run.config
    streams = {Stream.D_REAL: run.stream(Stream.D_REAL, config.optimizer.k_d, config.num_real)}
    if run.gan.objective.needs_real_in_g_step:
        batch = config.batch_size
        streams[Stream.G_REAL] = run.stream(Stream.G_REAL, config.optimizer.k_g, batch)
    for stream in streams.values():
        cleanup.enter_context(stream)
    return streams


def _finish(run: Run, reason: str) -> int:
    """Report how the run ended; returns the exit code. reason: why it stopped, if it did."""
    if run.saver.failed:
        run.reporter.warn(
            "ended without a checkpoint of the last images; when the disk can hold it, the same "
            "command resumes from the checkpoint before"
        )
        return EXIT_FAILED
    if run.is_over and run.monitor is not None:
        run.reporter.message(run.monitor.improvement.describe_end())
        return EXIT_OK
    if run.images < run.config.num_images:
        run.reporter.message(f"stopped ({reason}); the same command resumes")
        return EXIT_STOPPED
    run.reporter.message(
        f"{run.images / 1000:,.1f} kimg are done; see {run.folder / 'report.html'}"
    )
    return EXIT_OK
