"""The host memory available to this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes available without swapping, on the machine and within the job's control group.

    Slurm, Kubernetes and Docker limit the memory of a job by a control group, and the kernel kills
    processes that exceed it.
    """
    return min(psutil.virtual_memory().available, *_left_in_groups(MEMBERSHIP, CGROUPS))


def _left_in_groups(membership: Path, root: Path) -> Iterator[int]:
    """Bytes left in this process's control group and in each parent group (cgroup v1 and v2).

    Also yields the largest integer, so that there is always a value.
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
        # In a container the path may be the host's, of which only the root exists.
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            allowed = group / limit
            if allowed.exists() and (text := allowed.read_text().strip()) != "max":
                used = int((group / usage).read_text())
                yield max(0, int(text) - used + _read_statistic(group / "memory.stat", idle))
            group = group.parent


def _read_statistic(path: Path, name: str) -> int:
    """A value of a `memory.stat`: unused file pages count as used, but are reclaimable."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return next((int(value) for key, value in pairs if key == name), 0)
