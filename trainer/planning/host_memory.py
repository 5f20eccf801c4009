"""How much host memory there is for this process to take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can be had without swapping: what the machine has, or the job's control group.

    Slurm, Kubernetes and Docker limit a job to less than the machine by a control group, and the
    kernel kills what exceeds it.
    """
    return min(psutil.virtual_memory().available, *_left_in_groups(MEMBERSHIP, CGROUPS))


def _left_in_groups(membership: Path, root: Path) -> Iterator[int]:
    """Bytes that this process's control group, and each above it, still allow; of versions 1, 2.

    Yields the largest integer if there is none, so that there always is a number.
    """
    yield 2**63 - 1
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit, usage, idle = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, idle = root / "memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container the path may be the host's, of which only the top is there.
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            allowed = group / limit
            if allowed.exists() and (text := allowed.read_text().strip()) != "max":
                used = int((group / usage).read_text())
                yield max(0, int(text) - used + _read_statistic(group / "memory.stat", idle))
            group = group.parent


def _read_statistic(path: Path, name: str) -> int:
    """A number of a `memory.stat`: file pages not in use count as used, but are given back."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return next((int(value) for key, value in pairs if key == name), 0)
