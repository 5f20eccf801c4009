"""Conversion of the configuration tree to and from JSON, changes of it, and comparison of two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from realness.trainer.config.base import require
from realness.trainer.config.components import DEFAULTS, component
from realness.trainer.config.fields import assemble, flatten, leaves, nest
from realness.trainer.config.train import TrainConfig
from realness.trainer.config.values import read_values


def to_json(config: TrainConfig) -> str:
    """The contents of a run folder's `config.json`."""
    return json.dumps(nest(config), indent=2) + "\n"


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration in a run's `config.json`; missing fields get their defaults.

    Raises ConfigError for fields that this version of the program does not know.
    """
    fields, problems = read_values(values)
    require(
        not problems,
        "\n  ".join(["config.json is of a different version of this program:", *problems]),
    )
    return assemble(TrainConfig, fields)


def with_fields(config: TrainConfig, **fields: Any) -> TrainConfig:
    """The configuration with other values of some fields, by flag names: lr_g=0.001.

    Changed components start as `override` describes. Raises ConfigError for names that no field
    has, and for settings of a component that is not chosen.
    """
    unknown = sorted(set(fields) - set(leaves(TrainConfig)))
    require(not unknown, f"no field of the configuration is named {', '.join(unknown)}")
    result = assemble(TrainConfig, override(flatten(config), fields))
    idle = sorted(set(fields) - set(flatten(result)))
    require(not idle, f"not a setting of the chosen components: {', '.join(idle)}")
    return result


def override(before: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a tree, by flag names, after some of them were changed; checks no values.

    If this changes a component, its settings are the new component's defaults, except those of the
    old one that were changed from their defaults and that both have. Raises ConfigError for an
    unknown component.
    """
    kept = dict(before)
    defaults: dict[str, Any] = {}
    for kind in DEFAULTS:
        chosen = fields.get(kind, before[kind])
        defaults |= flatten(component(kind, chosen)())
        if chosen != before[kind]:
            for name, value in flatten(component(kind, before[kind])()).items():
                if kept.get(name) == value:
                    del kept[name]
    return {**defaults, **kept, **fields}


def trajectory_differences(started: TrainConfig, now: TrainConfig) -> list[str]:
    """The fields that would change a run's trajectory if it resumed with `now`, one line each."""
    before, after = flatten(started), flatten(now)
    return [
        f"{leaf.label}: the run has {_shown(before, name)}, this command has {_shown(after, name)}"
        for name, leaf in leaves(TrainConfig).items()
        if not leaf.resumable and before.get(name, _ABSENT) != after.get(name, _ABSENT)
    ]


_ABSENT = object()


def _shown(flat: Mapping[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "no such setting"


def portable_config(config: TrainConfig) -> TrainConfig:
    """The configuration without the fields that are specific to the training machine."""
    own = config.data.labels in ("auto", "folders", "none")
    data = replace(config.data, data="", labels=config.data.labels if own else "auto")
    engine = replace(config.engine, device="auto", impl="auto", deepspeed_config="")
    return replace(
        config,
        run_dir="",
        plugin=tuple(Path(path).name for path in config.plugin),
        data=data,
        transfer=replace(config.transfer, init_from=""),
        engine=engine,
    )
