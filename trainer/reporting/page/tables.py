"""Configuration and environment of runs as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from realness.trainer.reporting.page.runs import Run

MOST_ITEMS = 40
"""Items of a list that are shown, such as the numbers of images per class."""

_GROUPS = {
    "data": "Data",
    "classes": "Classes",
    "g": "Generator",
    "d": "Discriminator",
    "objective": "Objective",
    "penalty": "Penalties",
    "far": "Fakes as real",
    "optimizer": "Optimisation",
    "metrics": "Metrics",
    "engine": "Engine",
}

_SUBJECTS = {
    "Machine": (
        *("hostname", "devices", "compute_capabilities", "cuda"),
        *("cpu", "cpu_cores", "memory_gib", "platform"),
    ),
    "Process": ("num_ranks", "commit", "command"),
}


def run_tables(run: Run) -> str:
    """The configuration and environment of a run."""
    parts = []
    if run.config:
        parts.append(_section("Configuration", _config_tables(run.config)))
    if run.environment:
        parts.append(_section("Environment", _environment_tables(run.environment)))
    return "".join(parts)


def difference_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The fields of the configuration in which runs differ, one column per run."""
    flat = [_flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    differing = [key for key in keys if len({_plain(values.get(key)) for values in flat}) > 1]
    if not differing:
        return ""
    heads = "".join(f'<th><i class="r{i}"></i>{escape(name)}</th>' for i, name in enumerate(names))
    rows = "".join(
        f"<tr><td>{escape(key)}</td>"
        + "".join(f"<td>{escape(_plain(values.get(key)))}</td>" for values in flat)
        + "</tr>"
        for key in differing
    )
    return (
        "<section><h2>Configuration <small>where the runs differ</small></h2>"
        f'<div class="card wide"><table><tr><th></th>{heads}</tr>{rows}</table></div></section>'
    )


def _config_tables(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The configuration by groups: the top-level fields, then one table per nested group."""
    own = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups: list[tuple[str, Mapping[str, Any]]] = [("Run", own)]
    for key, value in config.items():
        if isinstance(value, dict):
            groups.append((_GROUPS.get(key, key), _flat(value)))
    return groups


def _environment_tables(environment: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The environment by subject; all other keys are versions of software."""
    subjects = {key: title for title, keys in _SUBJECTS.items() for key in keys}
    tables: dict[str, dict[str, Any]] = {"Software": {}, **{title: {} for title in _SUBJECTS}}
    for key, value in environment.items():
        tables[subjects.get(key, "Software")][key] = value
    return [(title, values) for title, values in tables.items() if values]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _section(title: str, tables: list[tuple[str, Mapping[str, Any]]]) -> str:
    cards = "".join(
        f'<div class="card"><h3>{escape(name)}</h3><table>{_rows(values)}</table></div>'
        for name, values in tables
    )
    return f'<section><h2>{escape(title)}</h2><div class="tables">{cards}</div></section>'


def _rows(values: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(_plain(value))}</td></tr>"
        for key, value in values.items()
    )


def _plain(value: Any) -> str:
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return str(value)
    more = f", … ({len(value):,} in all)" if len(value) > MOST_ITEMS else ""
    return ", ".join(str(item) for item in value[:MOST_ITEMS]) + more
