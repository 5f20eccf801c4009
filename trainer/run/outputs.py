"""The records and grids that a run writes into its folder."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from realness.data_pipeline import BatchShare, parts_of_rank
from realness.trainer.augment.strength import leak_warning
from realness.trainer.checkpoint.retention import point_to_best
from realness.trainer.distributed.collectives import gather, on_all_ranks
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.distributed.streams import open_stream
from realness.trainer.inference.pixels import to_unit
from realness.trainer.inference.trained import TrainedGenerator, trained_generator
from realness.trainer.metrics import MeasureFailed
from realness.trainer.objectives.realness import RealnessObjective
from realness.trainer.randomness import Stream
from realness.trainer.reporting.grid import SAMPLES_FOLDER
from realness.trainer.reporting.page.html import REPORT_FILE
from realness.trainer.reporting.realness import Realness
from realness.trainer.run.recovery import skip_counts
from realness.trainer.run.state import Run
from realness.trainer.run.throughput import Pace
from realness.trainer.storage.checkpoint_folder import checkpoint_root
from realness.trainer.updates.ema import Ema
from realness.trainer.updates.schedule import is_due, schedules


def write_record(run: Run, means: dict[str, float], pace: Pace) -> None:
    """Report one logging interval."""
    record = {"images": run.images, "kimg": run.images / 1000, **means}
    record |= pace.read(run.config.num_images - run.images)
    for engine in (run.gan.g, run.gan.d):
        name = engine.name.lower()
        record[f"lr_{name}"] = engine.lr
        if engine.grad_norm is not None:
            record[f"grad_norm_{name}"] = engine.grad_norm.read()
    record["checkpoint_stall_s"] = run.saver.take_stalled_seconds()
    record |= skip_counts(run)
    if run.config.growth.grow_kimg:
        stage = run.config.growth.at(run.images, run.config.data.resolution)
        record |= {"side": stage.side, "side_share": stage.alpha}
    record |= _scheduled_values(run)
    run.reporter.log(record)
    if busy := run.busy.advise(record["core_wait_percent"] / 100, record["elapsed_s"]):
        run.reporter.message(busy)
    _warn_of_leaks(run, record.get("augment_p", 0.0))


def _scheduled_values(run: Run) -> dict[str, float]:
    """What the scheduled values are after the images seen; the half-life is that after ramp-up."""
    found = schedules(run.config)
    values = {name: schedule.at(run.images) for name, schedule in found.items()}
    if isinstance(run.gan.ema, Ema) and "ema_halflife_kimg" in values:
        values["ema_halflife_kimg"] = run.gan.ema.halflife(run.images) / 1000
    return values


def _warn_of_leaks(run: Run, p: float) -> None:
    """Warn when the probability of augmentation becomes so high that G may learn the changes."""
    warning = leak_warning(p) if run.config.augment.can_leak else ""
    if warning and not run.warned_of_leaks:
        run.reporter.warn(f"WARNING: {warning}")
    run.warned_of_leaks = bool(warning)


def save_reals(run: Run) -> None:
    """Write a grid of real images, to compare samples with."""
    if rank() == 0:
        run.reporter.save_grid(_shown_reals(run)[0], "reals", images_seen=0)


def _shown_reals(run: Run) -> tuple[Tensor, Tensor | None]:
    """The real images of the grid, [num_samples, 3, R, R] in [-1, 1]: always the same ones.

    With their labels [num_samples, num_classes], if they have any.

    All are of the first part that this rank reads; that is part 0 on rank 0, whose grid is shown.
    """
    count, num_parts = run.config.num_samples, run.catalog.num_parts
    part = parts_of_rank(rank(), world_size(), num_parts)[0]
    with open_stream(
        run.config.data,
        run.catalog,
        Stream.SHOWN,
        BatchShare(count * num_parts, part, num_parts),
        seed=run.config.seed,
    ) as stream:
        images = to_unit(next(stream))
        return images, stream.labels if run.config.classes.conditional else None


def save_samples(run: Run) -> None:
    """Write a grid of the moving average's images for the run's fixed latents; collective.

    If D outputs distributions, also record its distributions of these and of real images.
    """
    objective = run.gan.objective
    if rank() == 0 or isinstance(objective, RealnessObjective):
        count = run.config.num_samples
        average = _moving_average(run).with_shown_classes(count)
        images = average.shown(count, run.config.engine.micro_batch or run.gan.local_batch)
        index, names = average.in_rows(torch.arange(count))
        run.reporter.save_grid(images, f"{run.images:012d}", row_names=names)
        _announce_samples(run)
        if isinstance(objective, RealnessObjective):
            condition = average.condition(index, run.config.seed, Stream.SHOWN)
            _save_realness(run, objective, images, condition)


def _announce_samples(run: Run) -> None:
    """Say once where the grids and the report are."""
    if not run.told_samples:
        run.reporter.message(
            f"samples: {run.folder / SAMPLES_FOLDER}, a new grid every "
            f"{run.config.sample_kimg:g} kimg; report: {run.folder / REPORT_FILE}"
        )
    run.told_samples = True


def _save_realness(
    run: Run, objective: RealnessObjective, fakes: Tensor, condition: Tensor | None
) -> None:
    """Record D's mean distributions; collective, because ZeRO 3 gathers D's layers."""
    anchors = objective.anchors.typical
    real, fake = (
        _mean_distribution(run, objective, *shown)
        for shown in (_shown_reals(run), (fakes, condition))
    )
    if all(map(math.isfinite, real + fake)):
        run.reporter.save_realness(
            Realness(run.images, real, fake, anchors.real.tolist(), anchors.fake.tolist())
        )


@torch.no_grad()
def _mean_distribution(
    run: Run, objective: RealnessObjective, images: Tensor, condition: Tensor | None
) -> list[float]:
    """The mean over images [B, 3, R, R] of D's distribution over outcomes, [N]."""
    module = run.gan.d.module
    was_training = module.training
    module.eval()
    try:
        inputs = [images] if condition is None else [images, condition]
        parts = zip(
            *(item.to(run.gan.device).split(run.gan.local_batch) for item in inputs), strict=True
        )
        found = [objective.distribution(module(*part)) for part in parts]
    finally:
        module.train(was_training)
    return torch.cat(found).double().mean(0).tolist()


class Verdict(NamedTuple):
    """What a measurement says of the run, the same on all ranks.

    improved: it is the best one. is_over: the run is to end (`--stop-after`).
    """

    improved: bool = False
    is_over: bool = False


def measure_if_due(run: Run, pace: Pace, *, stopping: bool, complete: bool) -> Verdict:
    """Measure every `metrics_kimg` and at the end, excluded from the throughput; collective.

    A run that was asked to stop does not start a measurement.
    """
    if run.monitor is None or stopping:
        return Verdict()
    if not complete and not is_due(
        run.config.metrics.metrics_kimg, run.images, run.config.batch_size
    ):
        return Verdict()
    make = _copy_of_g if run.config.metrics.metrics_weights == "raw" else _moving_average
    pace.exclude(run.monitor.measure(lambda: make(run), run.reporter, run.folder, run.images))
    if rank() == 0:
        point_to_best(checkpoint_root(run.folder), run.saver.retention)
    improvement = run.monitor.improvement
    return gather(Verdict(improvement.best == run.images, improvement.is_over and not complete))[0]


def _copy_of_g(run: Run) -> TrainedGenerator:
    """G itself, in the form of the moving average: whole and in evaluation mode. Collective.

    Raises MeasureFailed on every rank if one has no memory for it.
    """
    module = on_all_ranks(
        lambda: copy.deepcopy(run.gan.ema.module), failure=MeasureFailed, what="a copy of G: "
    )
    with run.gan.g.weights_gathered():
        module.load_state_dict(run.gan.g.module.state_dict())
    return trained_generator(run.config, module, run.images, run.catalog.digest, "raw")


def _moving_average(run: Run) -> TrainedGenerator:
    return trained_generator(run.config, run.gan.ema.module, run.images, run.catalog.digest)
