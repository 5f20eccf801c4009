"""`environment.json`: the software and hardware of a run, to put its numbers in context later."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from realness.trainer.storage.files import write_text

ENVIRONMENT_FILE = "environment.json"

_DISTRIBUTIONS = {
    "realness": ("realness",),
    "torch": ("torch",),
    "deepspeed": ("deepspeed",),
    "dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
    "simplejpeg": ("simplejpeg",),
}


def describe_environment(*, num_ranks: int = 1) -> dict[str, Any]:
    """Versions, devices, ranks and commit of this process, as plain JSON values.

    Installed versions are looked up without importing the packages; values that are unknown or
    belong to missing packages are None. `commit` is set if a git checkout tracks this package's
    files, with "+changes" if they differ from it. Does not touch the CUDA driver without a device.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(*names) for name, names in _DISTRIBUTIONS.items()},
        **_devices(),
        "num_ranks": num_ranks,
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "hostname": platform.node(),
        "commit": _commit(Path(__file__).resolve().parent),
        "command": " ".join(sys.argv),
    }


def write_environment(run_dir: Path, *, num_ranks: int) -> dict[str, Any]:
    """Write `environment.json` into the run folder; returns its contents.

    It is replaced on resume, and then describes the machine that the run resumed on.
    """
    environment = describe_environment(num_ranks=num_ranks)
    write_text(run_dir / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")
    return environment


def _version(*distributions: str) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _devices() -> dict[str, Any]:
    import torch  # not at the top: rebuilding a report does not need it

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    capabilities = [torch.cuda.get_device_capability(i) for i in range(len(names))]
    return {
        "cuda": torch.version.cuda,
        "devices": names,
        "compute_capabilities": [f"{major}.{minor}" for major, minor in capabilities],
    }


def _cpu_name() -> str | None:
    """The processor's name as Linux reports it; not reported on ARM."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _commit(folder: Path) -> str | None:
    """The commit of the checkout that tracks `folder`; None for an installed copy or without git.

    A virtual environment inside another checkout does not count: its files are not tracked there.
    """
    if not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changes else commit


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
