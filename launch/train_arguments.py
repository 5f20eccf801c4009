"""The command line of training: every field of the configuration is a flag.

The flags are made from the fields when the command runs, because plugins add to them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from realness.launch.command_line import expanded, read_command_line
from realness.launch.machine_defaults import machine_defaults
from realness.launch.presets import DEFAULT, preset
from realness.launch.protocols import paper_protocol
from realness.trainer.config import ConfigError, TrainConfig, flag, flatten
from realness.trainer.config.automatic import resolve
from realness.trainer.config.components import DEFAULTS
from realness.trainer.config.fields import Leaf, assemble, leaves, sections
from realness.trainer.config.files import read_fields
from realness.trainer.config.plugins import check_recorded, load_plugins
from realness.trainer.config.tree import override

log = logging.getLogger("realness.trainer")

TITLES = {"": "run", "g": "generator", "d": "discriminator"}
"""Headings in --help of sections that are named differently in the configuration."""


@dataclass(frozen=True)
class Options:
    """What the command line adds to the configuration."""

    config_file: Annotated[str, tyro.conf.arg(name="config")] = ""
    """Take fields from this file: a run's config.json, or a TOML or YAML file of the same fields,
    in its sections or flat. Flags override the file, and the file overrides the preset, which its
    field preset names unless --preset does. It may give --run-dir and --data too, and a config.json
    does: that file alone resumes its run."""
    protocol: Literal["none", "paper"] = "none"
    """paper: train and score as the paper of the preset does. It sets --mirror, the metrics, their
    weights, resizing, numbers of images and schedule (every 10,000 iterations), and keeps the
    checkpoints of these. Other flags override it. It is not stored: config.json has the fields."""
    dry_run: bool = False
    """Build everything, print what would run and what it needs, then exit."""
    max_restarts: int = 0
    """After a failure, restart from the last checkpoint; give up after this many restarts without
    a new checkpoint."""


@dataclass(frozen=True)
class Command:
    """The arguments of the command: the configuration, and how to run it."""

    config: TrainConfig
    options: Options


def parse(
    arguments: Sequence[str], *, description: str = "", console_outputs: bool = True
) -> Command:
    """Parse the command line; flags override the file that it names, and the file the preset.

    Raises ConfigError for an unknown preset or component, for a file or plugin that is not valid,
    for a setting of a component that is not chosen, and for an invalid resulting configuration. For
    invalid flags, prints the problem (with `console_outputs`) and exits with code 2.
    """
    # The DeepSpeed launcher appends --local_rank=N, which repeats LOCAL_RANK.
    own = [item for item in expanded(arguments) if not item.startswith("--local_rank")]
    plugins = _values(own, "--plugin")
    digests = load_plugins(plugins)
    known = leaves(TrainConfig)
    start = _fields_before_flags(own, known)
    command: Any = Annotated[_command_type(known, start), tyro.conf.arg(name="")]
    parsed = read_command_line(
        command,
        own,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        console_outputs=console_outputs,
    )
    fields = {
        name: value
        for group, values in vars(parsed).items()
        if group != "options"
        for name, value in vars(values).items()
    }
    given = {name for name in fields if _is_given(own, flag(name))}
    _refuse_idle({name: fields[name] for name in given}, known, fields, "")
    if parsed.options.protocol == "paper":
        scored = {key: value for key, value in paper_protocol(fields).items() if key not in given}
        log.info("--protocol paper: %s", _as_flags(scored))
        fields |= scored
    decided = given | _given_by_file(own)
    if "init_from" in given:
        fields |= _transfer_defaults(fields, decided)
    if "precision" not in decided:
        fields |= machine_defaults(fields)
    fields |= {"plugin": tuple(plugins), "plugin_sha256": digests}
    fields, computed = resolve(fields)
    for line in computed:
        log.info(line)
    return Command(assemble(TrainConfig, fields), parsed.options)


TRANSFER = {"ema_rampup": 0.0, "augment_speed_kimg": 100.0}
"""Defaults for going on from trained networks, as published by Karras et al., "Training Generative
Adversarial Networks with Limited Data" (NeurIPS 2020)."""


def _transfer_defaults(fields: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The fields that --init-from sets unless they are given; logs them."""
    chosen = {name: value for name, value in TRANSFER.items() if name not in given}
    if fields["augment"] != "ada":
        chosen.pop("augment_speed_kimg", None)
        log.info(
            "--init-from: this run has --augment %s; below some 30,000 images, use --augment ada",
            fields["augment"],
        )
    if chosen:
        log.info("--init-from, as published for fine-tuning: %s", _as_flags(chosen))
    return chosen


def _given_by_file(own: Sequence[str]) -> set[str]:
    """The fields that the file of --config gives."""
    file = _value(own, "--config")
    return set(read_fields(Path(file))) if file else set()


# --- before the flags


def _fields_before_flags(own: Sequence[str], known: Mapping[str, Leaf]) -> dict[str, Any]:
    """The fields that the preset and the file give, for the components that will be used."""
    file, name = _value(own, "--config"), _value(own, "--preset")
    fields = read_fields(Path(file)) if file else {}
    check_recorded(fields.pop("plugin", ()), fields.pop("plugin_sha256", ()), Path(file or ""))
    start = override(flatten(_base(name, fields)), {**fields, **({"preset": name} if name else {})})
    _refuse_idle(fields, known, start, f"--config={file}: ")
    given = {kind: _value(own, flag(kind)) for kind in DEFAULTS}
    return override(start, {kind: chosen for kind, chosen in given.items() if chosen is not None})


def _base(name: str | None, fields: Mapping[str, Any]) -> TrainConfig:
    """The preset that the command line names, else the one of the file, else the default one."""
    plain = TrainConfig()
    if name is None and fields.get("preset") == plain.preset:
        return plain  # a run that was started from no preset
    return preset(fields.get("preset", DEFAULT) if name is None else name)


def _refuse_idle(
    given: Mapping[str, Any], known: Mapping[str, Leaf], fields: Mapping[str, Any], source: str
) -> None:
    """Refuse settings of components that are not chosen, unless they have their default values."""
    for name, value in given.items():
        leaf = known[name]
        if leaf.kind and fields[leaf.kind] not in leaf.components and value != leaf.default:
            raise ConfigError(
                f"{source}{flag(name)}={value} is a setting of {flag(leaf.kind)} "
                f"{' or '.join(leaf.components)}, but this run has {flag(leaf.kind)} "
                f"{fields[leaf.kind]}; leave it out"
            )


# --- flags


def _command_type(known: Mapping[str, Leaf], defaults: Mapping[str, Any]) -> type:
    """A dataclass whose fields are the options and one dataclass of flags per section."""
    groups: dict[str, Any] = {"options": Options}
    for path, section in sections(TrainConfig).items():
        inside = [leaf for leaf in known.values() if leaf.section == path and leaf.is_flag]
        title = TITLES.get(path, path.rpartition(".")[2])
        if inside:
            groups[title] = _group_type(title, section, inside, defaults)
    # tyro reads annotations of the class, so they are types here, not text.
    fields = [(name, kind, field(default_factory=kind)) for name, kind in groups.items()]
    return make_dataclass("Train", fields, frozen=True)


def _group_type(
    title: str, section: type, inside: Iterable[Leaf], defaults: Mapping[str, Any]
) -> type:
    fields = []
    for leaf in inside:
        settings = tyro.conf.arg(help=leaf.help)
        accepted = leaf.type | Literal["auto"] if leaf.is_automatic else leaf.type
        kind = Annotated[accepted, settings]
        if leaf.name == "plugin":
            kind = Annotated[leaf.type, settings, tyro.conf.UseAppendAction]
        default = defaults.get(leaf.name, leaf.default)
        fields.append((leaf.name, kind, field(default=default)))
    group = make_dataclass(title, fields, frozen=True)
    group.__doc__ = (section.__doc__ or "").partition("\n\n")[0]
    return group


def _as_flags(fields: Mapping[str, Any]) -> str:
    """Fields as they are written on a command line."""
    texts = []
    for name, value in fields.items():
        if isinstance(value, bool):
            texts.append(flag(name) if value else flag(f"no_{name}"))
        else:
            texts.append(f"{flag(name)} {value}")
    return " ".join(texts)


def _values(arguments: Sequence[str], name: str) -> list[str]:
    """The values of a flag, before the command line is parsed."""
    found = []
    for position, item in enumerate(arguments):
        spelled, separator, value = item.partition("=")
        if spelled.replace("_", "-") == name:
            found.append(value if separator else "".join(arguments[position + 1 : position + 2]))
    return found


def _value(arguments: Sequence[str], name: str) -> str | None:
    """The last value of a flag; None without the flag."""
    return next(reversed(_values(arguments, name)), None)


def _is_given(arguments: Sequence[str], name: str) -> bool:
    """Whether a flag, or its negation, is on the command line."""
    spellings = {name, name.replace("--", "--no-", 1)}
    return any(item.partition("=")[0].replace("_", "-") in spellings for item in arguments)
