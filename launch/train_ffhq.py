"""Train a GAN: `deepspeed launch/train_ffhq.py --data FFHQ --run-dir runs/ffhq`.

Works under `deepspeed`, under `torchrun`, and as plain `python` in a single process. To resume a
run, give the same command again. Exit codes: 0 done, 1 failed, 2 invalid input, 75 stopped by a
signal (SIGTERM, SIGHUP, SIGUSR1, Ctrl-C) after writing a checkpoint, 130 interrupted by Ctrl-C
without one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from realness.data_pipeline import DataError
from realness.launch.exit_status import run_as_script
from realness.launch.presets import PRESETS
from realness.launch.restarts import is_supervised, supervise
from realness.launch.train_arguments import parse
from realness.trainer.config import ConfigError
from realness.trainer.distributed.exit_codes import EXIT_FAILED, EXIT_USAGE, RunFailed
from realness.trainer.distributed.launcher import is_leader


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the process's exit code."""
    logging.basicConfig(
        level=logging.INFO if is_leader() else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        description = f"{__doc__}\nPresets: {', '.join(PRESETS)}."
        command = parse(arguments, description=description, console_outputs=is_leader())
        config, options = command.config, command.options
        if options.dry_run:
            from realness.trainer.run.dry_run import dry_run

            return dry_run(config)
        if options.max_restarts > 0 and not is_supervised():
            return supervise(
                [sys.executable, *sys.orig_argv[1:]],
                options.max_restarts,
                Path(config.run_dir),
                config.engine.rank_timeout_s / 2,
            )
        from realness.trainer.run.loop import train

        return train(config)
    except ConfigError as error:
        if is_leader():
            print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RunFailed as error:
        if is_leader():
            print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    run_as_script(main)
