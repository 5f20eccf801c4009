"""The tree of modules in pickles of PyTorch networks: tensors and settings by name.

NVIDIA's have their source text in them; others are stored by the names of their classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from realness.trainer.inference.public.names import MODULES, PERSISTENT
from realness.trainer.inference.public.pickles import (
    ModelFileError,
    mapping_of,
    origin_of,
    plain_values,
)
from realness.trainer.inference.public.tensors import (
    Lazy,
    TensorReader,
    is_scalar,
    number_of,
    sizes_and_names,
)

MOST_DEPTH, MOST_MODULES = 8, 2_000


@dataclass(frozen=True)
class ModuleTree:
    """The modules of a network by path, such as "synthesis.b4.conv1".

    kinds: the names of their classes. settings: their attributes that are numbers or texts.
    tensors: their parameters and buffers, by path and name.
    """

    kinds: dict[str, str]
    settings: dict[str, dict[str, Any]]
    tensors: dict[str, Lazy]


def class_of(value: Any) -> str:
    """The name of a module's class; empty for other values."""
    if origin_of(value) in MODULES:
        return origin_of(value).rpartition(".")[2]
    if origin_of(value) != PERSISTENT or not value.args:
        return ""
    name = mapping_of(value.args[0]).get("class_name")
    return name if isinstance(name, str) else ""


def state_of(value: Any) -> dict[str, Any]:
    """The attributes of a module. Its source text, if any, is not looked at."""
    if origin_of(value) in MODULES:
        return sizes_and_names(value.state)
    if origin_of(value) != PERSISTENT or not value.args:
        return {}
    return sizes_and_names(mapping_of(value.args[0]).get("state"))


def read_tree(network: Any, reader: TensorReader) -> ModuleTree:
    """The modules of a network.

    Raises ModelFileError for a tree that is deeper or larger than that of a network, or damaged.
    """
    tree = ModuleTree({}, {}, {})
    for path, module in _modules(network, "", 0):
        if len(tree.kinds) >= MOST_MODULES:
            raise ModelFileError(f"it has more than {MOST_MODULES:,} modules")
        state = state_of(module)
        numbers = {name: number_of(value) for name, value in state.items() if is_scalar(value)}
        tree.kinds[path], tree.settings[path] = class_of(module), plain_values(state) | numbers
        for group in ("_parameters", "_buffers"):
            for name, value in sizes_and_names(state.get(group)).items():
                found = reader.find(value)
                if found is not None:
                    tree.tensors[f"{path}.{name}".lstrip(".")] = found
                elif value is not None:
                    raise ModelFileError(f"{path}.{name} is {origin_of(value)!r}, not a tensor")
    return tree


def _modules(module: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MOST_DEPTH:
        raise ModelFileError(f"its modules are nested more than {MOST_DEPTH} deep")
    yield path, module
    for name, inner in sizes_and_names(state_of(module).get("_modules")).items():
        if inner is not None:
            yield from _modules(inner, f"{path}.{name}".lstrip("."), depth + 1)
