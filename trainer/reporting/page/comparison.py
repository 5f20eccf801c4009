"""Several runs on one page: curves in shared charts, grids and distributions side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain
from pathlib import Path

from realness.trainer.reporting.page.charts import draw
from realness.trainer.reporting.page.distributions import draw_distributions
from realness.trainer.reporting.page.html import (
    axis_end,
    grid_figure,
    page,
    problems,
    samples_section,
    write_parts,
)
from realness.trainer.reporting.page.panels import compared_panels
from realness.trainer.reporting.page.previews import MAX_BYTES, MAX_FRAMES
from realness.trainer.reporting.page.runs import Run, RunFolderError, load_run
from realness.trainer.reporting.page.tables import difference_table

MAX_RUNS = 8
"""Number of distinguishable colours."""


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the page of several runs to `out`; returns `out`.

    Raises RunFolderError for a folder that is not a run folder, or for more than MAX_RUNS runs;
    OSError if the page cannot be written.
    """
    if len(run_dirs) > MAX_RUNS:
        raise RunFolderError(
            f"{len(run_dirs)} runs are too many for one page; use at most {MAX_RUNS}"
        )
    write_parts(out, render_comparison([load_run(run_dir) for run_dir in run_dirs]))
    return out


def render_comparison(runs: Sequence[Run]) -> Iterator[str]:
    """The page of several runs, in parts."""
    names = _names(runs)
    body = chain(
        (_header(runs, names), problems(runs), _charts(runs, names)),
        _samples(runs, names),
        (_realness(runs, names), difference_table(runs, names)),
    )
    return page(" · ".join([*names, "realness"]), body)


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the folders, or their paths if names are not unique."""
    count = Counter(run.name for run in runs)
    return [run.name if count[run.name] == 1 else str(run.path) for run in runs]


def _header(runs: Sequence[Run], names: Sequence[str]) -> str:
    rows = "".join(
        f'<tr><td><i class="r{number}"></i>{escape(name)}</td>'
        f"<td>{escape(str(run.config.get('preset', '–')))}</td>"
        f'<td><span class="state {escape(run.state)}">{escape(run.state)}</span></td>'
        f"<td>{run.images:,} images</td></tr>"
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
    )
    return (
        f'<header><div class="title"><h1>{len(runs)} runs</h1></div>'
        f'<div class="card wide runs"><table>{rows}</table></div></header>'
    )


def _charts(runs: Sequence[Run], names: Sequence[str]) -> str:
    x_end = axis_end(runs)
    figures = "".join(draw(panel, x_end) for panel in compared_panels(runs, names))
    if not figures:
        figures = '<p class="card">Nothing has been logged yet.</p>'
    note = "over images seen; bold is a moving average, faint the logged values"
    return (
        f"<section><h2>Curves <small>{note}</small></h2>"
        f'<div class="charts">{figures}</div></section>'
    )


def _samples(runs: Sequence[Run], names: Sequence[str]) -> Iterator[str]:
    """Each run's longest series of grids."""
    figures = (
        grid_figure(
            name, max(run.grids.values(), key=len), MAX_FRAMES // len(runs), MAX_BYTES // len(runs)
        )
        for run, name in zip(runs, names, strict=True)
        if run.grids
    )
    return samples_section(chain.from_iterable(figures))


def _realness(runs: Sequence[Run], names: Sequence[str]) -> str:
    figures = "".join(
        draw_distributions(run.realness, name) for run, name in zip(runs, names, strict=True)
    )
    return f'<section><h2>Realness</h2><div class="grids">{figures}</div></section>' * bool(figures)
