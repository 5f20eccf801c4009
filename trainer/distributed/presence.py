"""A connection from each rank to rank 0, which the system closes when either process ends.

A killed process cannot say so, and NCCL and a rendezvous may not notice for as long as the timeout
of a collective. The kernel closes its connections at once, on any node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from realness.trainer.distributed.exit_codes import RunFailed

PORT = "presence"
GOODBYE = b"."
TOKEN_BYTES = 16
POLL_SECONDS = 0.05
WAITING_LINE_SECONDS = 30.0
CONNECT_SECONDS, HELLO_SECONDS = 60.0, 5.0

log = logging.getLogger("realness.trainer")


class Host:
    """Rank 0's end of the connections to all other ranks.

    on_lost: called in a thread with the number of a rank that has gone without a goodbye.
    """

    def __init__(self, store: dist.Store, num_ranks: int, on_lost: Callable[[int], None]) -> None:
        self._missing = set(range(1, num_ranks))
        self._on_lost = on_lost
        self._present: dict[int, socket.socket] = {}
        self._listener, self._token = _listen(num_ranks), secrets.token_hex(TOKEN_BYTES)
        store.set(PORT, f"{self._listener.getsockname()[1]} {self._token}")
        threading.Thread(target=self._serve, daemon=True).start()

    def await_all(self, timeout_s: float) -> None:
        """Wait until all ranks have joined. Raises RunFailed naming those that do not in time."""
        begun = told = time.monotonic()
        while self._missing:
            time.sleep(POLL_SECONDS)
            now, missing = time.monotonic(), ", ".join(map(str, sorted(self._missing)))
            if now - begun > timeout_s:
                raise RunFailed(
                    f"rank {missing} did not join within {timeout_s:.0f} s; look into the output "
                    "of its node"
                )
            if now - told > WAITING_LINE_SECONDS:
                told = now
                log.warning("waiting for rank %s to join", missing)

    def wait_for_goodbyes(self) -> None:
        """Return when every other rank has left; a lost one is reported by `on_lost`."""
        while self._present:
            time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """Tell the others that the end of this process is not a loss."""
        for connection in list(self._present.values()):
            with contextlib.suppress(OSError):
                connection.sendall(GOODBYE)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        self._welcome(selector)
                    else:
                        self._hear(selector, key)

    def _welcome(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
            connection.settimeout(HELLO_SECONDS)
            hello = connection.recv(len(_hello(self._token, 0)), socket.MSG_WAITALL)
        except OSError:
            return
        rank = next((n for n in self._missing if hello == _hello(self._token, n)), None)
        if rank is None:  # a port scanner, or a process of another run
            connection.close()
            return
        self._present[rank] = connection
        selector.register(connection, selectors.EVENT_READ, rank)
        self._missing.discard(rank)

    def _hear(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        rank = key.data
        heard = _receive(self._present[rank])
        selector.unregister(key.fileobj)
        self._present[rank].close()
        if heard != GOODBYE:
            self._on_lost(rank)
        del self._present[rank]


class Guest:
    """The end of the connection to rank 0 on rank `rank`.

    on_lost: called in a thread when rank 0 has gone without a goodbye.
    """

    def __init__(self, store: dist.Store, rank: int, on_lost: Callable[[], None]) -> None:
        """Raises OSError if rank 0 cannot be reached."""
        self._on_lost = on_lost
        port, _, token = store.get(PORT).decode().partition(" ")
        address = os.environ["MASTER_ADDR"], int(port)
        self._connection = socket.create_connection(address, timeout=CONNECT_SECONDS)
        self._connection.sendall(_hello(token, rank))
        self._connection.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self) -> None:
        """Tell rank 0 that the end of this process is not a loss."""
        with contextlib.suppress(OSError):
            self._connection.sendall(GOODBYE)

    def _listen(self) -> None:
        if _receive(self._connection) != GOODBYE:
            self._on_lost()


def _hello(token: str, rank: int) -> bytes:
    """What a rank says first; its length is the same for all."""
    return f"{token} {rank:08d}".encode()


def _listen(backlog: int) -> socket.socket:
    """A socket on all interfaces, for IPv6 too where there is IPv6."""
    with contextlib.suppress(OSError, ValueError):
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=backlog)


def _receive(connection: socket.socket) -> bytes:
    """One byte, or nothing if the other end was closed."""
    try:
        return connection.recv(1)
    except OSError:
        return b""
