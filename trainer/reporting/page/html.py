"""`report.html`: a self-contained page about a run, which needs no other file and no network."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from html import escape
from itertools import chain
from pathlib import Path
from statistics import median

from realness.trainer.reporting.page import theme
from realness.trainer.reporting.page.charts import draw
from realness.trainer.reporting.page.classes import classes_section
from realness.trainer.reporting.page.distributions import draw_distributions
from realness.trainer.reporting.page.panels import panels
from realness.trainer.reporting.page.previews import MAX_BYTES, MAX_FRAMES, address, embed
from realness.trainer.reporting.page.runs import Frame, Run, load_run
from realness.trainer.reporting.page.sliders import image_figure
from realness.trainer.reporting.page.tables import run_tables
from realness.trainer.reporting.progress import duration
from realness.trainer.storage.files import atomic_writer

REPORT_FILE = "report.html"
MAX_SERIES = 6
"""Maximum number of series of grids, so that stray pictures do not bloat the page."""
MAX_PROBLEMS = 20

# Prevents the page from loading anything, whatever the texts of a run folder contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder, by default as `report.html` in it; returns its path.

    Reads no checkpoint. Raises RunFolderError (a ValueError) if the folder is not a run folder,
    OSError if the page cannot be written.
    """
    path = out or run_dir / REPORT_FILE
    write_parts(path, render(load_run(run_dir)))
    return path


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """Write a page, part by part: whole pages in memory would leave it fragmented."""
    with atomic_writer(path) as file:
        for part in parts:
            file.write(part.encode())


def render(run: Run) -> Iterator[str]:
    """The page of one run, in parts."""
    start = (_header(run), problems([run]))
    body = chain(start, _samples(run), (classes_section(run), _charts(run), run_tables(run)))
    return page(f"{run.name} · realness", body)


def page(title: str, body: Iterable[str]) -> Iterator[str]:
    """A whole HTML page, in parts."""
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{theme.STYLE}</style>\n</head>\n"
        "<body>\n"
    )
    yield from body
    yield f"{_footer()}\n<script>{theme.SCRIPT}</script>\n</body>\n</html>\n"


def _header(run: Run) -> str:
    total = run.total_images
    share = min(1.0, run.images / total) if total else 0.0
    width = f"{100 * share:.2f}"
    bar = f'<div class="bar {run.state}"><div style="width:{width}%"></div></div>' if total else ""
    return (
        f'<header><div class="title"><h1>{escape(run.name)}</h1>'
        f'<span class="chip">{escape(str(run.config.get("preset", "unknown preset")))}</span>'
        f'<span class="chip state {escape(run.state)}">{escape(run.state)}</span></div>'
        f"<p>{escape(_subtitle(run))}</p>{bar}"
        f'<dl class="tiles">{"".join(_tile(*tile) for tile in _tiles(run))}</dl></header>'
    )


def _subtitle(run: Run) -> str:
    """A one-line summary of the run: objective, resolution, batch size, ranks and device."""
    objective, data = run.config.get("objective"), run.config.get("data")
    parts = []
    if isinstance(objective, dict) and objective.get("objective") == "realness":
        parts.append(f"RealnessGAN, {objective.get('num_outcomes')} outcomes")
    elif isinstance(objective, dict) and objective.get("objective"):
        parts.append(f"{str(objective['objective']).capitalize()} GAN")
    if isinstance(data, dict) and data.get("resolution"):
        parts.append(f"{data['resolution']}×{data['resolution']}")
    if "batch_size" in run.config:
        parts.append(f"batch of {run.config['batch_size']}")
    ranks = run.environment.get("num_ranks")
    if ranks:
        devices = run.environment.get("devices") or [run.environment.get("cpu") or "CPU"]
        parts.append(f"{ranks} rank{'' if ranks == 1 else 's'} on {devices[0]}")
    return " · ".join(parts)


def _tiles(run: Run) -> Iterable[tuple[str, str, str]]:
    """(label, value, detail) of the key figures."""
    total = run.total_images
    share = f"{100 * run.images / total:.1f}% of {total:,}" if total else ""
    yield "Images seen", f"{run.images:,}", share
    if run.best is not None:
        yield "Best checkpoint", f"{run.best:,}", "images seen"
    rates = run.values("img_per_s")
    if rates:
        yield "Throughput", f"{median(rates):.4g} img/s", f"now {rates[-1]:.4g}"
    eta = run.latest("eta_s")
    if run.seconds:
        left = f"{duration(eta)} to go" if eta and run.state != "finished" else ""
        yield "Time", duration(run.seconds), left
    loss_d, loss_g = run.latest("loss_d"), run.latest("loss_g")
    if loss_d is not None and loss_g is not None:
        yield "Loss of D", f"{loss_d:.4g}", f"G {loss_g:.4g}"
    real, fake = run.latest("score_real"), run.latest("score_fake")
    if real is not None and fake is not None:
        yield "Score gap", f"{real - fake:.3g}", f"real {real:.2f} · fake {fake:.2f}"
    key = "gpu_memory_gib" if any(run.values("gpu_memory_gib")) else "memory_gib"
    memory = run.values(key)
    if memory:
        yield "Peak memory", f"{max(memory):.3g} GiB", "GPU" if key.startswith("gpu") else "host"
    if run.latest("bad_images"):
        yield "Bad images", f"{run.latest('bad_images'):,.0f}", "replaced"


def _tile(label: str, value: str, detail: str) -> str:
    value, detail = (text.replace("-", "−") for text in (value, detail))
    small = f"<small>{escape(detail)}</small>" if detail else ""
    return f'<div class="card"><dt>{escape(label)}</dt><dd>{escape(value)}{small}</dd></div>'


def problems(runs: Sequence[Run]) -> str:
    """The problems found while reading the runs."""
    found = [problem for run in runs for problem in run.problems]
    if len(found) > MAX_PROBLEMS:
        found[MAX_PROBLEMS:] = [f"And {len(found) - MAX_PROBLEMS:,} more problems of this kind."]
    lines = "".join(f"<p>{escape(problem)}</p>" for problem in found)
    return f'<section class="card problems">{lines}</section>' if lines else ""


def _samples(run: Run) -> Iterator[str]:
    """Sample grids and realness distributions, whose sliders move together."""
    # The series with the most grids is the one to watch; single pictures such as reals follow.
    ranked = sorted(run.grids.items(), key=lambda item: (len(item[1]) == 1, item[0]))[:MAX_SERIES]
    share = max(1, sum(len(frames) > 1 for _, frames in ranked))
    figures = (
        grid_figure(name, frames, MAX_FRAMES // share, MAX_BYTES // share)
        for name, frames in ranked
    )
    yield from samples_section(chain.from_iterable(figures))
    if run.realness:
        figure = draw_distributions(run.realness, "Real and generated images")
        yield f'<section><h2>Realness</h2><div class="grids">{figure}</div></section>'


def samples_section(figures: Iterator[str]) -> Iterator[str]:
    """The section of the sample grids, in parts; empty for none."""
    if first := next(figures, ""):
        yield f'<section><h2>Samples</h2><div class="grids">{first}'
        yield from figures
        yield "</div></section>"


def grid_figure(title: str, frames: Sequence[Frame], limit: int, max_bytes: int) -> Iterator[str]:
    """A series of grids with a slider, in parts; empty if none can be read."""
    pictures = [
        (frame.images_seen, partial(address, jpeg), frame.path.name)
        for frame, jpeg in embed(frames, limit, max_bytes)
    ]
    rows = frames[-1].row_names
    note = f"Rows from top to bottom: {', '.join(rows)}." if rows else ""
    return image_figure(title, pictures, note) if pictures else iter(())


def _charts(run: Run) -> str:
    if not run.records and not run.scores:
        return '<section><h2>Curves</h2><p class="card">Nothing has been logged yet.</p></section>'
    x_end = axis_end([run])
    figures = "".join(draw(panel, x_end) for panel in panels(run))
    note = "over images seen; bold is a moving average, faint the logged values"
    return (
        f"<section><h2>Curves <small>{note}</small></h2>"
        f'<div class="charts">{figures}</div></section>'
    )


def axis_end(runs: Sequence[Run]) -> int:
    """The right end of the charts, in images."""
    return max([1, *(r.images for r in runs), *(item.images for r in runs for item in r.scores)])


def _footer() -> str:
    now = datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    try:
        version = importlib.metadata.version("realness")
    except importlib.metadata.PackageNotFoundError:
        version = "(not installed)"
    return f"<footer>Written {escape(now)} by realness {escape(version)}</footer>"
