"""The store that all ranks share, and the verdict in it: why the run ends."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from realness.trainer.distributed.exit_codes import EXIT_FAILED
from realness.trainer.distributed.ranks import launched_as, naming_port_in_use

VERDICT = "verdict"


class Verdict(NamedTuple):
    """Why the run ends, and with which exit code."""

    why: str
    code: int = EXIT_FAILED

    @staticmethod
    def decode(text: bytes) -> Verdict:
        """The verdict that `encode` wrote."""
        code, _, why = text.decode().partition(" ")
        return Verdict(why, int(code))

    def encode(self) -> str:
        """As a value of the store."""
        return f"{self.code} {self.why}"


def open_store(name: str, timeout_s: float, *, join: bool = False) -> dist.Store:
    """A connection to the ranks' common store, which is on rank 0 or in torchrun's agent.

    join: only connect to it. Requests on one connection are serialised, so each thread that waits
    needs one of its own. name: prefix of the keys. Raises ConfigError if the port is in use.
    """
    rank, _ = launched_as()
    by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    with naming_port_in_use():
        store = dist.TCPStore(
            store_host(),
            int(os.environ["MASTER_PORT"]),
            is_master=rank == 0 and not (join or by_torchrun),
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
        )
    # torchrun keeps its store when it restarts the ranks.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"realness/{name}/{attempt}", store)


def publish(store: dist.Store, verdict: Verdict) -> Verdict:
    """Set the verdict unless there is one already; returns the actual one."""
    return Verdict.decode(store.compare_set(VERDICT, "", verdict.encode()))


def read_verdict(store: dist.Store) -> Verdict | None:
    """The verdict, if there is one."""
    return Verdict.decode(store.get(VERDICT)) if store.check([VERDICT]) else None


def store_host() -> str:
    """The address of rank 0's node."""
    return os.environ["MASTER_ADDR"]
