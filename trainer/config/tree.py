"""Conversion of the configuration tree to JSON and flags, and comparison of two trees."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import Any

from realness.trainer.config.base import flag, require
from realness.trainer.config.train import TrainConfig


def flatten(config: Any) -> dict[str, Any]:
    """All fields of the tree by their flag names, without the grouping: {"lr_g": 0.0002, ...}."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        flat.update(flatten(value) if dataclasses.is_dataclass(value) else {item.name: value})
    return flat


def to_json(config: TrainConfig) -> str:
    """The contents of a run folder's `config.json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Rebuild a config from the output of `dataclasses.asdict`; missing keys get their defaults.

    Raises ConfigError for keys that this version of the program does not know.
    """
    known = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    require(not unknown, f"config.json has unknown fields {unknown}; a different version wrote it")
    arguments = dict(values)
    for name, item in known.items():
        factory = item.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory) and name in arguments:
            arguments[name] = from_dict(factory, arguments[name])
    return kind(**arguments)


def _any_time_fields(kind: type) -> set[str]:
    names: set[str] = set()
    for item in dataclasses.fields(kind):
        if isinstance(item.default_factory, type) and dataclasses.is_dataclass(
            item.default_factory
        ):
            names |= _any_time_fields(item.default_factory)
        elif item.metadata.get("any_time"):
            names.add(item.name)
    return names


def trajectory_differences(started: TrainConfig, now: TrainConfig) -> list[str]:
    """The fields that would change a run's trajectory if it resumed with `now`, one line each."""
    before, after = flatten(started), flatten(now)
    return [
        f"{flag(name)}: the run has {before[name]!r}, this command has {after[name]!r}"
        for name in before
        if name not in _any_time_fields(TrainConfig) and before[name] != after[name]
    ]


def portable_config(config: TrainConfig) -> TrainConfig:
    """The configuration without the fields that are specific to the training machine."""
    engine = replace(config.engine, device="auto", impl="auto", deepspeed_config="")
    return replace(config, run_dir="", data=replace(config.data, data=""), engine=engine)
