"""The classes of a conditional run as a table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from realness.trainer.reporting.page.runs import Run, is_number

MAX_ROWS = 100
"""Classes in the table; more would bury the rest of the page."""


def classes_section(run: Run) -> str:
    """Names and numbers of images of the classes, and the newest FID of each that was measured.

    Empty for a run without classes.
    """
    counts, names = _classes(run)
    if not counts:
        return ""
    title, note, scores = _newest_scores(run)
    most = max(max(counts), 1)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        f'<td class="share"><div style="width:{100 * count / most:.1f}%"></div></td>'
        f"<td>{count:,}</td>{_cell(scores, name)}</tr>"
        for name, count in zip(names[:MAX_ROWS], counts, strict=False)
    )
    heads = "<th></th><th></th><th>images</th>" + (f"<th>{escape(title)}</th>" if scores else "")
    more = f"the first {MAX_ROWS} of {len(counts):,}" if len(counts) > MAX_ROWS else ""
    small = ", ".join(filter(None, [more or f"{len(counts):,}", f"{sum(counts):,} images", note]))
    return (
        f"<section><h2>Classes <small>{escape(small)}</small></h2>"
        f'<div class="card wide classes"><table><tr>{heads}</tr>{rows}</table></div></section>'
    )


def _classes(run: Run) -> tuple[list[int], list[str]]:
    """Numbers of images and names of the classes, as config.json has them; empty if it has none."""
    recorded = run.config.get("classes")
    if not isinstance(recorded, dict) or recorded.get("conditional") is not True:
        return [], []
    counts, names = recorded.get("class_counts"), recorded.get("class_names")
    if not isinstance(counts, list) or not all(map(is_number, counts)):
        return [], []
    if not isinstance(names, list) or len(names) != len(counts):
        names = list(range(len(counts)))
    return [round(count) for count in counts], list(map(str, names))


def _newest_scores(run: Run) -> tuple[str, str, Mapping[str, float]]:
    """The name of the metric, how far G was trained, and the values by class; empty if there are
    none."""
    if not run.class_scores:
        return "", "", {}
    last = run.class_scores[-1]
    metric = last.metric.partition("/")[0]
    values = {}
    for record in run.class_scores:
        name, _, label = record.metric.partition("/")
        if (name, record.images, record.weights) == (metric, last.images, last.weights):
            values[label] = record.value
    return metric, f"{metric} after {last.images:,} images of training", values


def _cell(scores: Mapping[str, float], name: str) -> str:
    if not scores:
        return ""
    return f"<td>{scores[name]:.4g}</td>" if name in scores else "<td>–</td>"
