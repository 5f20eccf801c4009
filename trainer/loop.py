"""The training loop."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from realness.data_pipeline import Catalog, ImageStream, check_images, open_catalog
from realness.trainer import checkpoint
from realness.trainer.averages import Averages
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.distributed import (
    pick_device,
    rank,
    start_process_group,
    stop_process_group,
    together,
    world_size,
)
from realness.trainer.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from realness.trainer.memory import checkpoint_bytes
from realness.trainer.pace import Pace
from realness.trainer.process import StopRequest
from realness.trainer.randomness import Stream
from realness.trainer.reporting import Reporter, write_environment
from realness.trainer.run_folder import (
    check_free_space,
    lock_run_folder,
    open_run_folder,
    write_config,
)
from realness.trainer.schedule import is_due, lr_factor
from realness.trainer.sharded_gan import ShardedGan, build_gan
from realness.trainer.step import train_d, train_g

log = logging.getLogger("realness.trainer")


@dataclass
class Run:
    """One process's view of a run. `images` counts images seen by all ranks."""

    config: TrainConfig
    folder: Path
    catalog: Catalog
    gan: ShardedGan
    reporter: Reporter
    images: int

    def stream(self, stream: Stream, updates: int, batch: int) -> ImageStream:
        """Real images for `updates` updates of `batch` an iteration, from where the run stands."""
        data = self.config.data
        iteration = self.images // self.config.batch_size
        return ImageStream(
            self.catalog,
            resolution=data.resolution,
            global_batch=batch,
            rank=rank(),
            world_size=world_size(),
            seed=self.config.seed,
            purpose=int(stream),
            mirror=data.mirror,
            first_sample=iteration * updates * batch,
            decoder=data.decoder,
            device=self.gan.device,
            num_threads=data.decode_threads,
            max_bad_images=data.max_bad_images,
        )


def train(config: TrainConfig) -> int:
    """Train, or go on training, until `total_kimg` or a request to stop. Returns the exit code.

    Raises ConfigError, on every rank, for what cannot be run.
    """
    device = pick_device(config.engine.device)
    start_process_group(device)
    try:
        torch.backends.cuda.matmul.allow_tf32 = config.engine.tf32
        torch.backends.cudnn.allow_tf32 = config.engine.tf32
        folder, catalog = together(lambda: _check(config), failure=ConfigError)
        stop = StopRequest()
        with ExitStack() as cleanup:
            cleanup.enter_context(together(lambda: _lock(folder), failure=ConfigError))
            gan = build_gan(config, device)
            cleanup.callback(gan.close)
            images = _restore(config, folder, catalog, gan)
            reporter = Reporter(
                folder, total_images=config.num_images, start_images=images, enabled=rank() == 0
            )
            cleanup.callback(reporter.close)
            return _iterate(Run(config, folder, catalog, gan, reporter, images), stop)
    finally:
        stop_process_group()


def _check(config: TrainConfig) -> tuple[Path, Catalog]:
    """Everything that can be wrong with the input, before anything is built."""
    config.check_ranks(world_size())
    if not config.data.data:
        raise ConfigError("--data is missing: name a folder, zip or tar shards of images")
    catalog = open_catalog(config.data.data)
    check_images(catalog, config.data.resolution, max_bad_images=config.data.max_bad_images)
    folder = open_run_folder(config)
    check_free_space(folder, checkpoint_bytes(config), config.keep_checkpoints)
    return folder, catalog


def _lock(folder: Path) -> AbstractContextManager[object]:
    """Rank 0 holds the run's folder; the others hold nothing."""
    return lock_run_folder(folder) if rank() == 0 else nullcontext()


def _restore(config: TrainConfig, folder: Path, catalog: Catalog, gan: ShardedGan) -> int:
    """Take up the newest good checkpoint, if any; returns the images seen so far."""
    position = checkpoint.restore(folder / "checkpoints", gan.target_state(), log.warning)
    if position is None:
        log.info("starting a new run in %s", folder)
    else:
        gan.finish_loading(position.num_updates)
        log.info("going on at %.1f kimg", position.images / 1000)
        if position.data_digest != catalog.digest and not config.accept_config_change:
            raise ConfigError(
                f"--data={config.data.data} is another set of images than the one this run was "
                "trained on; give that one, or --accept-config-change to go on with this one"
            )
    if rank() == 0:
        write_config(folder, config)
        write_environment(folder, num_ranks=world_size())
    return position.images if position else 0


def _iterate(run: Run, stop: StopRequest) -> int:
    config, gan, optimizer = run.config, run.gan, run.config.optimizer
    batch, averages, saved, stopping = config.batch_size, Averages(), True, False
    with ExitStack() as cleanup:
        real_d, real_g = _open_streams(run, cleanup)
        pace = Pace(run.catalog, [stream for stream in (real_d, real_g) if stream])
        if run.images == 0:
            save_reals(run)
        while run.images < config.num_images and not stopping:
            gan.set_lr_factor(lr_factor(config, run.images))
            for update in range(optimizer.k_d):
                first = run.images * optimizer.k_d + update * batch
                real = gan.normalise(next(real_d), Stream.D_REAL, first)
                averages.add(train_d(gan, real, first))
            for update in range(optimizer.k_g):
                first = run.images * optimizer.k_g + update * batch
                real = gan.normalise(next(real_g), Stream.G_REAL, first) if real_g else None
                averages.add(train_g(gan, real, first))
            run.images += batch
            gan.ema.update(gan.g.module, batch, run.images)
            pace.add(batch)

            stopping = stop.poll()
            complete = run.images >= config.num_images
            if stopping or complete or is_due(config.log_kimg, run.images, batch):
                write_record(run, averages.read(), pace)
            # Before the samples: after SIGTERM there may be little time.
            if stopping or complete or is_due(config.checkpoint_kimg, run.images, batch):
                saved = save_checkpoint(run)
            if complete or is_due(config.sample_kimg, run.images, batch):
                save_samples(run)
                run.reporter.write_report()
        stop.settle()
    if not saved:
        return EXIT_FAILED
    return _say_end(run, stop.reason or "asked by another rank")


def _open_streams(run: Run, cleanup: ExitStack) -> tuple[ImageStream, ImageStream | None]:
    """Real images for D's updates, and for G's where its objective compares with them."""
    config = run.config
    real_d = run.stream(Stream.D_REAL, config.optimizer.k_d, config.num_real)
    cleanup.enter_context(real_d)
    if not run.gan.objective.needs_real_in_g_step:
        return real_d, None
    real_g = run.stream(Stream.G_REAL, config.optimizer.k_g, config.batch_size)
    return real_d, cleanup.enter_context(real_g)


def _say_end(run: Run, reason: str) -> int:
    if run.images < run.config.num_images:
        run.reporter.message(f"stopped ({reason}); the same command resumes")
        return EXIT_STOPPED
    run.reporter.message(
        f"{run.images / 1000:,.1f} kimg are done; see {run.folder / 'report.html'}"
    )
    return EXIT_OK


def write_record(run: Run, means: dict[str, float], pace: Pace) -> None:
    """Report one interval."""
    record = {"images": run.images, "kimg": run.images / 1000, **means}
    record |= pace.read(run.config.num_images - run.images)
    record |= {"lr_g": run.gan.g.lr, "lr_d": run.gan.d.lr}
    run.reporter.log(record)


def save_checkpoint(run: Run) -> bool:
    """Write a checkpoint; a failure (a full disk, say) is loud and leaves the last one in place."""
    position = checkpoint.Position(run.images, run.gan.num_updates(), run.catalog.digest)
    try:
        checkpoint.save(
            run.folder / "checkpoints",
            run.gan.owned_state(),
            position,
            keep=run.config.keep_checkpoints,
        )
    except checkpoint.CheckpointError as error:
        run.reporter.warn(f"NO CHECKPOINT at {run.images / 1000:.1f} kimg: {error}")
        return False
    return True


def save_reals(run: Run) -> None:
    """Write a grid of real images, to hold the samples against."""
    if rank() != 0:
        return
    data, count = run.config.data, run.config.num_samples
    with ImageStream(
        run.catalog,
        resolution=data.resolution,
        global_batch=count,
        seed=run.config.seed,
        purpose=int(Stream.SHOWN),
        mirror=False,
        max_bad_images=data.max_bad_images,
    ) as stream:
        images = next(stream) / 127.5 - 1
    run.reporter.save_grid(images, "reals", images_seen=0)


def save_samples(run: Run) -> None:
    """Write a grid of the moving average's images for the run's fixed latents."""
    if rank() == 0:
        images = run.gan.samples(run.config.num_samples)
        run.reporter.save_grid(images, f"{run.images:012d}")
