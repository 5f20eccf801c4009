"""A run's checkpoints: starting to write one, checking how it ended, retrying."""

from __future__ import annotations

import logging
import time

from realness.trainer.checkpoint import Outcome, Position
from realness.trainer.distributed.ranks import world_size
from realness.trainer.run.state import Run
from realness.trainer.storage.checkpoint_folder import checkpoint_root, read_latest

WAIT_WORTH_SAYING_SECONDS = 1.0

log = logging.getLogger("realness.trainer")


def save_checkpoint(run: Run) -> None:
    """Start writing a checkpoint, after the one in progress, if any; collective."""
    started, had_to_wait = time.monotonic(), run.saver.is_writing
    await_checkpoint(run)
    waited = time.monotonic() - started
    if had_to_wait and waited > WAIT_WORTH_SAYING_SECONDS:
        run.reporter.warn(
            f"training waited {waited:.1f} s for one checkpoint to be written before the next, at "
            f"{run.images / 1000:.1f} kimg; raise --checkpoint-kimg, or use a faster disk"
        )
    position = Position(run.images, run.gan.num_updates(), run.catalog.digest)
    # Resuming here does not make earlier snapshots again, so they must be on disk first.
    run.saver.start(run.gan.owned_state(), position, after=run.snapshots)


def await_checkpoint(run: Run) -> None:
    """Wait until the checkpoint in progress is written; collective."""
    failed_before = run.saver.failed
    _report_outcome(run, run.saver.wait(), failed_before)


def save_after_exception(run: Run) -> None:
    """Try to save what an exception would lose, where that is possible.

    It must leave a run of one process (other ranks are in the middle of an update, and a checkpoint
    needs all of them) between two iterations (in between, weights, moments and statistics are not
    those of any number of images).
    """
    if world_size() > 1 or not run.is_between_updates:
        return
    try:
        await_checkpoint(run)
        if run.images > int(read_latest(checkpoint_root(run.folder)) or 0):
            save_checkpoint(run)
            await_checkpoint(run)
            log.warning("an error ends the run; its state at %d images is saved", run.images)
    except Exception:
        log.exception("no checkpoint at %d images", run.images)


def retry_is_due(run: Run) -> bool:
    """Whether the last checkpoint could not be written and must be retried; collective.

    Called once per logging interval, so that a full disk costs at most one attempt per interval.
    """
    failed_before = run.saver.failed
    _report_outcome(run, run.saver.poll(), failed_before)
    return run.saver.failed


def _report_outcome(run: Run, outcome: Outcome | None, failed_before: bool) -> None:
    if outcome is None:
        return
    at = f"at {outcome.images / 1000:.1f} kimg"
    if outcome.problem:
        run.reporter.warn(
            f"NO CHECKPOINT {at}: {outcome.problem}; the previous one is still in place. Training "
            f"continues, and saving is retried every --log-kimg={run.config.log_kimg:g}"
        )
    elif failed_before:
        run.reporter.message(f"the checkpoint {at} is written: saving works again")
