"""Connections that show that a process has ended."""

from __future__ import annotations

import socket
from queue import SimpleQueue

import pytest
import torch.distributed as dist

from realness.trainer.distributed.exit_codes import RunFailed
from realness.trainer.distributed.presence import Guest, Host

PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def nothing() -> None:
    """Nobody waits for this."""


def end(connection: socket.socket) -> None:
    """What the system does to the connections of a process that ends."""
    connection.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_closes_without_a_goodbye_is_a_loss() -> None:
    store, lost = dist.HashStore(), SimpleQueue[int]()
    host = Host(store, 4, lost.put)
    guests = [Guest(store, rank, nothing) for rank in (1, 2, 3)]
    host.await_all(PATIENCE_SECONDS)
    guests[0].leave()
    for guest in guests[:2]:
        end(guest._connection)
    assert lost.get(timeout=PATIENCE_SECONDS) == 2
    guests[2].leave()
    host.wait_for_goodbyes()
    assert lost.empty()


def test_the_loss_of_rank_0_is_noticed_by_the_others() -> None:
    store, lost = dist.HashStore(), SimpleQueue[int]()
    host = Host(store, 3, lambda _: None)
    for rank in (1, 2):
        Guest(store, rank, lambda rank=rank: lost.put(rank))
    host.await_all(PATIENCE_SECONDS)
    for connection in list(host._present.values()):
        end(connection)
    assert {lost.get(timeout=PATIENCE_SECONDS) for _ in range(2)} == {1, 2}


def test_ranks_that_do_not_join_are_named() -> None:
    store = dist.HashStore()
    host = Host(store, 4, lambda _: None)
    Guest(store, 2, nothing)
    with pytest.raises(RunFailed, match="rank 1, 3 did not join within"):
        host.await_all(0.2)


def test_a_stranger_is_turned_away() -> None:
    """A scanner, or a rank of another run that has the same address."""
    store, lost = dist.HashStore(), SimpleQueue[str]()
    host = Host(store, 2, lambda rank: lost.put(f"rank {rank}"))
    port = store.get("presence").partition(b" ")[0].decode()
    other = dist.HashStore()
    other.set("presence", f"{port} {'0' * 32}")
    Guest(other, 1, lambda: lost.put("the stranger"))
    assert lost.get(timeout=PATIENCE_SECONDS) == "the stranger"
    Guest(store, 1, nothing)
    host.await_all(PATIENCE_SECONDS)
