"""Opening, locking and checking a run's folder and its configuration."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from realness.trainer.config import (
    ConfigError,
    TrainConfig,
    from_dict,
    to_json,
    trajectory_differences,
)
from realness.trainer.config.plugins import changed_plugins, check_recorded
from realness.trainer.storage.environment import ENVIRONMENT_FILE
from realness.trainer.storage.files import sync, sync_folder, write_text

log = logging.getLogger("realness.trainer")

CONFIG_FILE = "config.json"
PROBE_BYTES = 1 << 20
LOCK_WAIT_SECONDS = 30


def open_run_folder(config: TrainConfig) -> Path:
    """Create the run's folder, or check that it holds a run of this configuration.

    Raises ConfigError for a missing --run-dir, a folder that cannot be written, a full disk, or a
    folder with a different configuration (naming each difference and its flag).
    """
    if not config.run_dir:
        raise ConfigError("--run-dir is missing: give the folder to keep this run in")
    folder = Path(config.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise ConfigError(f"--run-dir={folder} cannot be written: {error.strerror}") from error
    if holds_run(folder):
        _check_same_run(config, read_config(folder))
    return folder


def lock_run_folder(folder: Path) -> IO[str]:
    """Lock the folder for this process until the returned file is closed or the process ends.

    Waits up to LOCK_WAIT_SECONDS, because, for example, the ranks of a killed launcher need some
    time to write their checkpoint; then raises ConfigError. Raises it at once if the file system
    has no locks.
    """
    path = folder / ".lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                file.close()
                raise ConfigError(
                    f"--run-dir={folder} is in use by another run; wait for it, stop it, or use "
                    "another --run-dir"
                ) from error
            time.sleep(1)
        except OSError as error:
            file.close()
            raise ConfigError(
                f"{path} cannot be locked: {error.strerror}; use a --run-dir on another file "
                "system, mount this one with locks, or give --no-lock and make sure that no two "
                "runs use the folder at once"
            ) from error


def warn_of_power_cuts(folder: Path) -> None:
    """Log a warning if the file system cannot sync folders. Raises ConfigError if that fails."""
    try:
        synced = sync_folder(folder)
    except OSError as error:
        raise ConfigError(f"--run-dir={folder} cannot be synced: {error.strerror}") from error
    if not synced:
        log.warning(
            "the file system of --run-dir=%s cannot sync folders: a power cut may cost the last "
            "checkpoint, and the run then resumes from the one before",
            folder,
        )


def holds_run(folder: Path) -> bool:
    """Whether a run was started in this folder."""
    return (folder / CONFIG_FILE).exists()


def read_config(folder: Path) -> TrainConfig:
    """The configuration in a run folder.

    Raises ConfigError when it is missing or unreadable, and when it needs a plugin that has not
    been loaded.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a valid configuration: {error}") from error
    plugins = values.get("plugin", ()), values.get("plugin_sha256", ())
    check_recorded(*plugins, path)
    for plugin in changed_plugins(*plugins):
        log.warning(
            "the plugin %s differs from the one that %s was made with, so results may differ too",
            plugin,
            folder,
        )
    return from_dict(values)


def read_pass(folder: Path) -> tuple[int, int]:
    """(images per rank and pass, number of ranks) of the run in `folder` when it last started.

    Raises ConfigError if its files are missing or unreadable.
    """
    config, path = read_config(folder), folder / ENVIRONMENT_FILE
    try:
        ranks = int(json.loads(path.read_text())["num_ranks"])
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(f"{path} does not state the number of ranks: {error!r}") from error
    return config.batch_size // ranks // config.num_passes(ranks), ranks


def claim_empty_folder(folder: Path) -> None:
    """Create a command's output folder. Raises ConfigError unless it is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; empty it, or use another one")
    folder.mkdir(parents=True, exist_ok=True)


def write_config(folder: Path, config: TrainConfig) -> None:
    """Record the configuration that the run continues with."""
    # --accept-config-change is a permission of this command: --config must not repeat it.
    write_text(folder / CONFIG_FILE, to_json(replace(config, accept_config_change=False)))


def _probe(folder: Path) -> None:
    """Write and remove a small file, because the reported free space ignores quotas."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
        sync(probe)
    finally:
        probe.unlink(missing_ok=True)


def _check_same_run(config: TrainConfig, started: TrainConfig) -> None:
    differences = trajectory_differences(started, config)
    if differences and not config.accept_config_change:
        listed = "\n  ".join(differences)
        raise ConfigError(
            f"{config.run_dir} holds a run with a different configuration:\n  {listed}\n"
            "use the run's values to resume it, --accept-config-change to resume it with these, "
            "or another --run-dir to start a new run"
        )
