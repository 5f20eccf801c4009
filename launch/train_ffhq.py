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
from typing import Annotated

import tyro

from realness.data_pipeline import DataError
from realness.launch.restarts import is_supervised, supervise
from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.config.presets import DEFAULT, PRESETS, preset
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_USAGE, RunFailed


@dataclass(frozen=True)
class Command:
    """The arguments of the command: the configuration, and how to run it."""

    config: TrainConfig = field(default_factory=TrainConfig)
    dry_run: bool = False
    """Build everything, print what would run and what it needs, then exit."""
    max_restarts: int = 0
    """After a failure, restart from the last checkpoint; give up after this many restarts without
    a new checkpoint."""


def parse(arguments: Sequence[str]) -> Command:
    """Parse the command line; flags override the preset that it names.

    Raises ConfigError for an unknown preset. For invalid flags or values, prints the problem and
    exits with code 2.
    """
    # The DeepSpeed launcher appends --local_rank=N, which repeats LOCAL_RANK.
    own = [item for item in arguments if not item.startswith("--local_rank")]
    default = Command(config=preset(_preset_name(own)))
    description = f"{__doc__}\nPresets: {', '.join(PRESETS)}."
    return tyro.cli(
        Annotated[Command, tyro.conf.arg(name="")],
        args=own,
        default=default,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
        console_outputs=_is_leader(),
    )


def _preset_name(arguments: Sequence[str]) -> str:
    for position, item in enumerate(arguments):
        name, separator, value = item.partition("=")
        if name == "--preset":
            following = arguments[position + 1 : position + 2]
            return value if separator else "".join(following)
    return DEFAULT


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
