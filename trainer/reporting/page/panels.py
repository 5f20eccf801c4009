"""The charts of the report, and the numbers of a run that each one shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from realness.trainer.reporting.page.runs import Run, is_number
from realness.trainer.reporting.stats import METRIC_PREFIX
from realness.trainer.storage.scores import Record, chart_of, curves, describe


@dataclass(frozen=True)
class Series:
    """One curve: y over x (images seen); None is a gap."""

    label: str
    colour: str
    """A colour of the theme: d, g, real, fake, a, b, c."""
    x: list[float]
    y: list[float | None]


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    note: str
    """A sentence that explains the numbers."""
    unit: str
    from_zero: bool
    """Whether the axis starts at 0: amounts do, losses and scores do not."""
    series: list[Series]
    mark: int | None = None
    """Images at which a line marks the best checkpoint."""


@dataclass(frozen=True)
class PanelKind:
    """A chart that is drawn if a run has logged one of its keys."""

    title: str
    note: str
    curves: tuple[tuple[str, str, str], ...]
    """(key of the record, label, colour) of each curve."""
    unit: str = ""
    from_zero: bool = False
    only_if_varying: bool = False
    """Whether to omit the chart of a constant, which the configuration already states."""


PANELS = (
    PanelKind(
        "Losses",
        "The losses of D and G, averaged over the interval.",
        (("loss_d", "D", "d"), ("loss_g", "G", "g")),
    ),
    PanelKind(
        "Scores",
        "Mean score that D assigns. The closer the two, the less D distinguishes them.",
        (("score_real", "real", "real"), ("score_fake", "fake", "fake")),
    ),
    PanelKind("R1", "Gradient penalty on real images.", (("r1", "R1", "a"),), from_zero=True),
    PanelKind(
        "Augmentation",
        "Probability p of each transform, and r_t, the mean sign of D's scores of real images: p "
        "rises while r_t is above its target. Above p = 0.8, G may learn the transforms.",
        (("augment_p", "p", "a"), ("r_t", "r_t", "b")),
    ),
    PanelKind(
        "Gradient norms",
        "Norm of each network's gradient before clipping, averaged over the interval.",
        (("grad_norm_d", "D", "d"), ("grad_norm_g", "G", "g")),
        from_zero=True,
    ),
    PanelKind(
        "Throughput",
        "Training images per second, over all ranks.",
        (("img_per_s", "img/s", "a"),),
        unit="img/s",
        from_zero=True,
    ),
    PanelKind(
        "Memory",
        "Rank 0: memory of the process, and peak memory of its GPU.",
        (("memory_gib", "host", "a"), ("gpu_memory_gib", "GPU", "b")),
        unit="GiB",
        from_zero=True,
    ),
    PanelKind(
        "Waiting",
        "Percentage of the time that training waited for images, and rank 0's threads for a core.",
        (("data_wait_percent", "images", "a"), ("core_wait_percent", "core", "b")),
        unit="%",
        from_zero=True,
    ),
    PanelKind(
        "Time of metrics",
        "Duration of each measurement; not counted as training.",
        (("metrics_s", "metrics", "a"),),
        unit="s",
        from_zero=True,
    ),
    PanelKind(
        "Checkpoint stalls",
        "Seconds per interval that training waited for checkpoints.",
        (("checkpoint_stall_s", "stalled", "a"),),
        unit="s",
        from_zero=True,
    ),
    PanelKind(
        "Learning rates",
        "After warm-up and decay.",
        (("lr_d", "D", "d"), ("lr_g", "G", "g")),
        from_zero=True,
        only_if_varying=True,
    ),
    PanelKind(
        "Schedule of gamma",
        "Weights of the penalties R1 and R2 (--r1-gamma-final, --r2-gamma-final).",
        (("r1_gamma", "R1", "a"), ("r2_gamma", "R2", "b")),
        from_zero=True,
    ),
    PanelKind(
        "Schedule of beta2",
        "Adam's second-moment decay (--beta2-final).",
        (("beta2", "beta2", "a"),),
    ),
    PanelKind(
        "Schedule of the half-life",
        "Half-life of G's moving average, after ramp-up (--ema-halflife-final-kimg).",
        (("ema_halflife_kimg", "half-life", "a"),),
        unit="kimg",
        from_zero=True,
    ),
)

# Part of the header or of the axis, not curves.
_NOT_CURVES = {"images", "kimg", "eta_s", "elapsed_s", "bad_images"}


# Charts of losses, scores and R1 come before the metrics, the rest after them.
_FIRST = 3
_COLOURS = tuple(f"r{number}" for number in range(8))
_METRIC_NOTES = {
    "SWD": "Sliced Wasserstein distance, times 1,000: the mean, and per resolution.",
    "Precision and recall": "Fraction of generated images near real ones, and vice versa.",
    "IS": "Inception Score. Higher is better.",
    "intra-FID": "FID of each class, averaged over classes.",
}


def panels(run: Run) -> list[Panel]:
    """The charts of a run: the known ones that it has numbers for, then one per other number."""
    drawn = [_panel(run, kind) for kind in _kinds([run])]
    ordered = [*drawn[:_FIRST], *_metric_panels(run), *drawn[_FIRST:]]
    return [panel for panel in ordered if panel.series]


def compared_panels(runs: Sequence[Run], names: Sequence[str]) -> list[Panel]:
    """The charts of several runs: one per number, with one curve per run, labelled by its name."""
    found: list[Panel] = []
    for kind in _kinds(runs):
        for key, label, _ in kind.curves:
            title = f"{kind.title}: {label}" if len(kind.curves) > 1 else kind.title
            series = [
                _series(run, key, name, f"r{number}")
                for number, (run, name) in enumerate(zip(runs, names, strict=True))
                if any(run.values(key))
            ]
            if not (kind.only_if_varying and all(len(set(line.y)) == 1 for line in series)):
                found.append(Panel(title, kind.note, kind.unit, kind.from_zero, series))
    first = [panel for panel in found if panel.series]
    count = sum(panel.title.startswith(("Losses", "Scores", "R1")) for panel in first)
    return [*first[:count], *_compared_metrics(runs, names), *first[count:]]


def _kinds(runs: Sequence[Run]) -> list[PanelKind]:
    known = {key for kind in PANELS for key, _, _ in kind.curves}
    keys = {key for run in runs for record in run.records for key in record}
    own = sorted(k for k in keys - known - _NOT_CURVES if not k.startswith(METRIC_PREFIX))
    return [*PANELS, *(PanelKind(key, "", ((key, key, "c"),)) for key in own)]


def _metric_panels(run: Run) -> list[Panel]:
    """One chart per metric, with one curve for each way in which it was measured."""
    charts: dict[str, list[list[Record]]] = {}
    for curve in curves(run.scores):
        if chart := chart_of(curve[0].metric):
            charts.setdefault(chart, []).append(curve)
    return [_metric_panel(chart, parts, run.best) for chart, parts in charts.items()]


def _metric_panel(chart: str, parts: list[list[Record]], best: int | None) -> Panel:
    ways = {describe(curve[0]) for curve in parts}
    series = []
    for number, curve in enumerate(parts):
        name = curve[0].metric
        label = f"{name} ({describe(curve[0])})" if len(ways) > 1 else name
        series.append(_score_series(curve, label, _COLOURS[number % len(_COLOURS)]))
    note = _METRIC_NOTES.get(chart, "")
    details = f"{next(iter(ways))}." if len(ways) == 1 else ""
    marked = "" if best is None else "Dashed: the best checkpoint."
    note = " ".join(filter(None, [note, details, marked]))
    return Panel(chart, note, "", True, series, best)


def _compared_metrics(runs: Sequence[Run], names: Sequence[str]) -> list[Panel]:
    charts: dict[tuple[str, str], list[Series]] = {}
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        for curve in curves(run.scores):
            if chart_of(curve[0].metric):
                key = (curve[0].metric, describe(curve[0]))
                charts.setdefault(key, []).append(_score_series(curve, name, f"r{number}"))
    return [Panel(metric, f"{way}.", "", True, series) for (metric, way), series in charts.items()]


def _score_series(curve: Sequence[Record], label: str, colour: str) -> Series:
    return Series(label, colour, [item.images for item in curve], [item.value for item in curve])


def _panel(run: Run, kind: PanelKind) -> Panel:
    numbers = {key: run.values(key) for key, _, _ in kind.curves}
    # A constant 0 means that the feature is off (no R1, no GPU): omit the chart.
    shown = {key for key, values in numbers.items() if any(values)}
    if kind.only_if_varying and all(len(set(numbers[key])) == 1 for key in shown):
        shown = set()
    series = [_series(run, key, label, col) for key, label, col in kind.curves if key in shown]
    return Panel(kind.title, kind.note, kind.unit, kind.from_zero, series)


def _series(run: Run, key: str, label: str, colour: str) -> Series:
    records = [record for record in run.records if key in record]
    values = [record[key] if is_number(record[key]) else None for record in records]
    return Series(label, colour, [record["images"] for record in records], values)
