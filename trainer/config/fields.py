"""The fields of the configuration tree by the names of their flags, and trees of such fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_type_hints

from realness.trainer.config.base import ConfigError, flag, flag_prefix
from realness.trainer.config.components import (
    DEFAULTS,
    Component,
    component,
    is_kind,
    registered,
)


@dataclass(frozen=True)
class Slot:
    """An attribute of a section of the tree: a field, or a section inside it."""

    attribute: str
    name: str
    """The name of the field's flag without the dashes, such as "lr_g": unique over the tree."""
    type: Any
    prefix: str
    """What the names of the fields in this section begin with."""
    default: Any
    metadata: Mapping[str, Any]

    @property
    def is_section(self) -> bool:
        return dataclasses.is_dataclass(self.type)


@cache
def slots(section: type) -> tuple[Slot, ...]:
    """The attributes of a dataclass in the tree, in their order."""
    hints = get_type_hints(section)
    found = []
    for item in dataclasses.fields(section):
        prefix = flag_prefix(section, item.name)
        name = prefix + item.name
        found.append(Slot(item.name, name, hints[item.name], prefix, item.default, item.metadata))
    return tuple(found)


@dataclass(frozen=True)
class Leaf:
    """A field of the tree.

    section: the path of its section, such as "objective.anchor". kind, components: the kind and the
    names of the components that have it; empty if it does not depend on them. docs: its
    documentation, with the components that have this one.
    """

    name: str
    type: Any
    section: str
    default: Any
    metadata: Mapping[str, Any]
    docs: dict[str, tuple[str, ...]]
    kind: str = ""
    components: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its place in a run's config.json, such as "objective.anchor.skew_real"."""
        return f"{self.section}.{self.name}".lstrip(".")

    @property
    def help(self) -> str:
        """What it means, and for which components if not for all of its kind."""
        if len(self.docs) == 1:
            (text,) = self.docs
            everywhere = not self.kind or self.components == tuple(registered(self.kind))
            return text if everywhere else f"{text} ({', '.join(self.components)})"
        return " ".join(f"{', '.join(names)}: {text}" for text, names in self.docs.items())

    @property
    def resumable(self) -> bool:
        """Whether it may change when a run is resumed."""
        return bool(self.metadata.get("resumable"))

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.metadata.get("label", flag(self.name))

    @property
    def is_automatic(self) -> bool:
        """Whether a flag or a file may set it to "auto"."""
        return bool(self.metadata.get("automatic"))

    @property
    def is_flag(self) -> bool:
        """Whether the command line sets it."""
        return "label" not in self.metadata


def leaves(section: type, path: str = "") -> dict[str, Leaf]:
    """All fields of a section and of those inside it by name, of all registered components.

    Raises ConfigError if two different fields have the same name.
    """
    found: dict[str, Leaf] = {}
    for leaf in _leaves(section, path, "", "", ()):
        known = found.get(leaf.name)
        found[leaf.name] = leaf if known is None else _merged(known, leaf)
    return found


def _leaves(
    section: type, path: str, prefix: str, kind: str, owner: tuple[str, ...]
) -> Iterator[Leaf]:
    if is_kind(section):
        yield _chooser(section, path)
        for name, configuration in registered(section.kind).items():
            yield from _leaves(configuration, path, "", section.kind, (name,))
        return
    docs = field_docs(section)
    for slot in slots(section):
        name = prefix + slot.name
        if slot.is_section:
            inside = f"{path}.{slot.attribute}".lstrip(".")
            yield from _leaves(slot.type, inside, prefix + slot.prefix, kind, owner)
        else:
            text = {docs.get(slot.attribute, ""): owner}
            yield Leaf(name, slot.type, path, slot.default, slot.metadata, text, kind, owner)


def _chooser(base: type[Component], path: str) -> Leaf:
    """The field that names the component of a kind."""
    known = registered(base.kind)
    text = "; ".join(f"{name}: {_summary(kind)}" for name, kind in known.items()) + "."
    names: Any = Literal[tuple(known)]  # type: ignore[valid-type]
    return Leaf(base.kind, names, path, DEFAULTS[base.kind], {}, {text: ()})


def _summary(kind: type) -> str:
    """The first sentence of a docstring."""
    text = " ".join((kind.__doc__ or kind.__qualname__).split())
    return text.partition(". ")[0].rstrip(".")


def _merged(known: Leaf, other: Leaf) -> Leaf:
    """The field that several components of one kind share."""
    if known.section != other.section or known.type != other.type or not known.components:
        raise ConfigError(
            f"two fields have the flag {flag(known.name)}: one of {_owner(known)} and one of "
            f"{_owner(other)}; rename one of them"
        )
    docs = dict(known.docs)
    for text, names in other.docs.items():
        docs[text] = docs.get(text, ()) + names
    return dataclasses.replace(known, docs=docs, components=known.components + other.components)


def _owner(leaf: Leaf) -> str:
    section = f"section {leaf.section or 'run'}"
    return f"{section} ({', '.join(leaf.components)})" if leaf.components else section


@cache
def field_docs(section: type) -> dict[str, str]:
    """The docstrings that follow the fields of a dataclass and of its base classes, on one line."""
    docs: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if "__dataclass_fields__" not in base.__dict__:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for item, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[item.target.id] = " ".join(str(after.value.value).split())
    return docs


# --- trees


def flatten(config: Any) -> dict[str, Any]:
    """All fields of a tree by their flag names, without the grouping: {"lr_g": 0.0002, ...}."""
    return _without_sections(nest(config))


def _without_sections(nested: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _without_sections(value) if isinstance(value, dict) else {name: value}
    return flat


def nest(config: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a tree by their flag names, in the tree's sections."""
    nested: dict[str, Any] = {}
    if isinstance(config, Component):
        nested[config.kind] = config.name
    for slot in slots(type(config)):
        value = getattr(config, slot.attribute)
        if slot.is_section:
            nested[slot.attribute] = nest(value, prefix + slot.prefix)
        else:
            nested[prefix + slot.name] = value
    return nested


def sections(section: type, path: str = "") -> dict[str, type]:
    """The dataclasses of all sections by path: {"": TrainConfig, "optimizer": ...}."""
    found = {path: section}
    kinds = registered(section.kind).values() if is_kind(section) else (section,)
    for kind in kinds:
        for slot in slots(kind):
            if slot.is_section:
                found |= sections(slot.type, f"{path}.{slot.attribute}".lstrip("."))
    return found


def assemble(section: type, fields: Mapping[str, Any], prefix: str = "") -> Any:
    """The tree that has these fields, by flag names; fields that are not given get their defaults.

    Fields of components that are not chosen are ignored. Raises ConfigError for an unknown
    component and for values that are not valid.
    """
    if is_kind(section):
        section = component(section.kind, fields.get(section.kind, DEFAULTS[section.kind]))
    arguments: dict[str, Any] = {}
    for slot in slots(section):
        name = prefix + slot.name
        if slot.is_section:
            arguments[slot.attribute] = assemble(slot.type, fields, prefix + slot.prefix)
        elif name in fields:
            arguments[slot.attribute] = fields[name]
    return section(**arguments)
