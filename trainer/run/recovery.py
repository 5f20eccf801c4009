"""Going back to the last checkpoint when losses are no longer finite."""

from __future__ import annotations

from realness.trainer import checkpoint
from realness.trainer.distributed.exit_codes import RunFailed
from realness.trainer.run.saving import await_checkpoint
from realness.trainer.run.snapshots import await_snapshot, remove_later_snapshots
from realness.trainer.run.state import Run, open_reporter
from realness.trainer.storage.checkpoint_folder import checkpoint_root


class Diverged(RuntimeError):
    """Too many losses in a row were not finite; raised on all ranks alike."""


def raise_if_diverged(run: Run, means: dict[str, float]) -> None:
    """Raise Diverged, on all ranks alike, after too many consecutive non-finite losses.

    means: the interval's means of losses and scores, for the message.
    """
    for engine in (run.gan.g, run.gan.d):
        _, in_a_row = engine.skips.read()
        if in_a_row >= run.config.max_skipped:
            statistics = ", ".join(f"{key} {value:.4g}" for key, value in means.items())
            raise Diverged(
                f"the last {in_a_row} losses of {engine.name} were not finite at "
                f"{run.images / 1000:.1f} kimg; means of the finite ones: {statistics}"
            )


def skip_counts(run: Run) -> dict[str, float]:
    """Number of updates of each network skipped so far, for the record."""
    return {
        f"skipped_{engine.name.lower()}": engine.skips.read()[0]
        for engine in (run.gan.g, run.gan.d)
    }


def go_back(run: Run, error: Diverged) -> None:
    """Return to the last checkpoint; collective.

    Raises RunFailed, on every rank, if there is none or the run already went back to that one.
    """
    run.reporter.warn(str(error))
    await_checkpoint(run)
    await_snapshot(run)
    position = checkpoint.restore(
        checkpoint_root(run.folder), run.gan.target_state(), run.reporter.warn
    )
    if position is None or position.images == run.went_back_to:
        # The same images and draws led here twice, so it is not a hardware fault.
        raise RunFailed(
            f"{error}; going back to the last checkpoint does not help. Lower --lr-g and --lr-d, "
            "use --r1-gamma or --clip-grad-norm, or --precision fp32, with --accept-config-change"
        ) from error
    run.gan.finish_loading(position.num_updates)
    run.images = run.went_back_to = position.images
    if run.monitor is not None:
        run.monitor.improvement.cut_back(run.images)
    remove_later_snapshots(run.folder, run.images)
    run.reporter.close()
    run.reporter = open_reporter(run.config, run.folder, run.images)
    run.reporter.warn(f"went back to the checkpoint at {run.images / 1000:.1f} kimg")
