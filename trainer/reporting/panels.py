"""Which curves the report shows, and which of a run's numbers they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from realness.trainer.reporting.runs import Run, is_number


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
    """What the numbers mean, in a sentence."""
    unit: str
    from_zero: bool
    """Whether the axis starts at 0: amounts do, losses and scores do not."""
    series: list[Series]


@dataclass(frozen=True)
class PanelKind:
    """A chart that is drawn where a run logged one of its keys."""

    title: str
    note: str
    curves: tuple[tuple[str, str, str], ...]
    """(key of the record, label, colour) of each curve."""
    unit: str = ""
    from_zero: bool = False
    only_if_varying: bool = False
    """Whether a constant, which the configuration states already, gets no chart."""


PANELS = (
    PanelKind(
        "Losses",
        "What D and G minimise, averaged over the interval.",
        (("loss_d", "D", "d"), ("loss_g", "G", "g")),
    ),
    PanelKind(
        "Scores",
        "Mean realness that D gives. The nearer the two, the less D tells them apart.",
        (("score_real", "real", "real"), ("score_fake", "fake", "fake")),
    ),
    PanelKind("R1", "Gradient penalty on real images.", (("r1", "R1", "a"),), from_zero=True),
    PanelKind(
        "Gradient norms",
        "Norm of each network's gradient before clipping.",
        (("grad_norm_d", "D", "d"), ("grad_norm_g", "G", "g")),
        from_zero=True,
    ),
    PanelKind(
        "Throughput",
        "Images trained on per second, all ranks together.",
        (("img_per_s", "img/s", "a"),),
        unit="img/s",
        from_zero=True,
    ),
    PanelKind(
        "Memory",
        "Rank 0: what the process holds, and the peak of its GPU.",
        (("memory_gib", "host", "a"), ("gpu_memory_gib", "GPU", "b")),
        unit="GiB",
        from_zero=True,
    ),
    PanelKind(
        "Data wait",
        "Share of the time in which training waited for images.",
        (("data_wait_percent", "waiting", "a"),),
        unit="%",
        from_zero=True,
    ),
    PanelKind(
        "Learning rates",
        "After warm-up and decay.",
        (("lr_d", "D", "d"), ("lr_g", "G", "g")),
        from_zero=True,
        only_if_varying=True,
    ),
)

# Part of the header or of the axis, not curves.
_NOT_CURVES = {"images", "kimg", "eta_s", "elapsed_s", "bad_images"}


def panels(run: Run) -> list[Panel]:
    """The charts of a run: the known ones it has numbers for, then one a number of its own."""
    known = {key for kind in PANELS for key, _, _ in kind.curves}
    own = sorted({key for record in run.records for key in record} - known - _NOT_CURVES)
    kinds = [*PANELS, *(PanelKind(key, "", ((key, key, "c"),)) for key in own)]
    drawn = [_panel(run, kind) for kind in kinds]
    return [panel for panel in drawn if panel.series]


def _panel(run: Run, kind: PanelKind) -> Panel:
    numbers = {key: run.values(key) for key, _, _ in kind.curves}
    # A constant 0 says that the thing is off (no R1, no GPU): no chart for that.
    shown = {key for key, values in numbers.items() if any(values)}
    if kind.only_if_varying and all(len(set(numbers[key])) == 1 for key in shown):
        shown = set()
    series = [_series(run, key, label, col) for key, label, col in kind.curves if key in shown]
    return Panel(kind.title, kind.note, kind.unit, kind.from_zero, series)


def _series(run: Run, key: str, label: str, colour: str) -> Series:
    records = [record for record in run.records if key in record]
    values = [record[key] if is_number(record[key]) else None for record in records]
    return Series(label, colour, [record["images"] for record in records], values)
