"""What a run writes into its folder: records, checkpoints, grids."""

from __future__ import annotations

from realness.data_pipeline import ImageStream
from realness.trainer import checkpoint
from realness.trainer.distributed import rank
from realness.trainer.pace import Pace
from realness.trainer.randomness import Stream
from realness.trainer.recovery import check_skips
from realness.trainer.run import Run


def write_record(run: Run, means: dict[str, float], pace: Pace) -> None:
    """Report one interval. Raises Diverged for too many losses in a row that are not finite."""
    record = {"images": run.images, "kimg": run.images / 1000, **means}
    record |= pace.read(run.config.num_images - run.images)
    record |= {"lr_g": run.gan.g.lr, "lr_d": run.gan.d.lr}
    record |= check_skips(run, means)
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
