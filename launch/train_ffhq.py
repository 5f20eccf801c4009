"""Train a GAN: `deepspeed launch/train_ffhq.py --data FFHQ --run-dir runs/ffhq`.

Works under `deepspeed`, under `torchrun`, and as plain `python` in a single process. To resume a
run, give the same command again. Exit codes: 0 done, 1 failed, 2 invalid input, 75 stopped by
SIGTERM, SIGUSR1 or Ctrl-C after writing a checkpoint.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from realness.data_pipeline import DataError
from realness.launch.restarts import is_supervised, supervise
from realness.trainer.config import ConfigError, TrainConfig, flag, flatten
from realness.trainer.config.files import read_fields
from realness.trainer.config.presets import DEFAULT, PRESETS, preset
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_USAGE, RunFailed


@dataclass(frozen=True)
class Command:
    """The arguments of the command: the configuration, and how to run it."""

    config: TrainConfig = field(default_factory=TrainConfig)
    config_file: Annotated[str, tyro.conf.arg(name="config")] = ""
    """Take fields from this file: a run's config.json, or a TOML or YAML file of the same fields,
    in its sections or flat. Flags override the file, and the file overrides the preset, which its
    field preset names unless --preset does. It may give --run-dir and --data too, and a config.json
    does: that file alone resumes its run."""
    dry_run: bool = False
    """Build everything, print what would run and what it needs, then exit."""
    max_restarts: int = 0
    """After a failure, restart from the last checkpoint; give up after this many restarts without
    a new checkpoint."""


def parse(arguments: Sequence[str]) -> Command:
    """Parse the command line; flags override the file that it names, and the file the preset.

    Raises ConfigError for an unknown preset and for a file that is not valid. For invalid flags or
    an invalid resulting configuration, prints the problem and exits with code 2.
    """
    # The DeepSpeed launcher appends --local_rank=N, which repeats LOCAL_RANK.
    own = [item for item in arguments if not item.startswith("--local_rank")]
    file, name = _last_value(own, "--config"), _last_value(own, "--preset")
    fields = read_fields(Path(file).expanduser()) if file else {}
    base = _base(name, fields)
    description = f"{__doc__}\nPresets: {', '.join(PRESETS)}."
    return tyro.cli(
        Annotated[Command, tyro.conf.arg(name="")],
        # Of a flag that is given twice the last counts.
        args=[*_as_flags(fields, base), *own],
        default=Command(config=base),
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        console_outputs=_is_leader(),
    )


def _last_value(arguments: Sequence[str], name: str) -> str | None:
    """The value of a flag, before the command line is parsed; None without the flag."""
    found = None
    for position, item in enumerate(arguments):
        spelled, separator, value = item.partition("=")
        if spelled == name:
            found = value if separator else "".join(arguments[position + 1 : position + 2])
    return found


def _base(name: str | None, fields: dict[str, Any]) -> TrainConfig:
    """The preset that the command line names, else the one of the file, else the default one."""
    plain = TrainConfig()
    if name is None and fields.get("preset") == plain.preset:
        return plain  # a run that was started from no preset
    return preset(fields.get("preset", DEFAULT) if name is None else name)


def _as_flags(fields: dict[str, Any], base: TrainConfig) -> list[str]:
    """The fields of a file that differ from `base` as flags, except the name of the preset.

    Only the whole configuration is checked in this way: a flag may put right what does not fit.
    """
    before = flatten(base)
    changed = {name: value for name, value in fields.items() if value != before[name]}
    changed.pop("preset", None)
    return [
        flag(name if value else f"no_{name}")
        if isinstance(value, bool)
        else f"{flag(name)}={value}"
        for name, value in changed.items()
    ]


def _is_leader() -> bool:
    """Whether this process prints for all ranks."""
    return os.environ.get("RANK", "0") == "0"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the process's exit code."""
    logging.basicConfig(
        level=logging.INFO if _is_leader() else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        command = parse(arguments)
        if command.dry_run:
            from realness.trainer.run.dry_run import dry_run

            return dry_run(command.config)
        if command.max_restarts > 0 and not is_supervised():
            return supervise(
                [sys.executable, *sys.orig_argv[1:]],
                command.max_restarts,
                Path(command.config.run_dir),
                command.config.engine.rank_timeout_s / 2,
            )
        from realness.trainer.run.loop import train

        return train(command.config)
    except ConfigError as error:
        if _is_leader():
            print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RunFailed as error:
        if _is_leader():
            print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
