"""Two nodes on one machine: `python -m tests.helpers.two_nodes` (as root, on Linux with iproute2).

Each node is a network namespace with one rank, started by `deepspeed --no_ssh --node_rank R`, and
a virtual cable joins them; each holds one of the two parts of the images. One run trains to its
end. In a second run the cable is pulled midway: both nodes must end by themselves and name the lost
ranks. The cable is reconnected, the same commands are run again, and the run must end with exactly
the weights of the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from tests.helpers import ROOT
from tests.helpers.ranks import TRAIN, tiny_arguments, write_images

ADDRESSES = ("10.203.7.1", "10.203.7.2")
RANK_TIMEOUT_S = 30
LIMIT_S = 300


class Nodes:
    """Two namespaces and the cable between them."""

    def __init__(self) -> None:
        self._names = [f"realness{os.getpid()}{letter}" for letter in "ab"]
        self._cables = [f"rn{os.getpid()}{letter}" for letter in "ab"]

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Both nodes, connected, for the duration of the block."""
        first, second = self._cables
        try:
            for name in self._names:
                _ip("netns", "add", name)
            _ip("link", "add", first, "type", "veth", "peer", "name", second)
            for node, (name, cable) in enumerate(zip(self._names, self._cables, strict=True)):
                _ip("link", "set", cable, "netns", name)
                _ip("-n", name, "addr", "add", f"{ADDRESSES[node]}/24", "dev", cable)
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", cable, "up")
            yield
        finally:
            for name in self._names:
                subprocess.run(["ip", "netns", "del", name], check=False)

    def cable(self, state: str) -> None:
        """Disconnect the cable (`down`) or reconnect it (`up`)."""
        _ip("-n", self._names[0], "link", "set", self._cables[0], state)

    def start(
        self, arguments: list[list[str]], hosts: Path, log: Path
    ) -> list[subprocess.Popen[bytes]]:
        """The training command with each node's arguments; each appends to its own log."""
        return [
            subprocess.Popen(
                [
                    *("ip", "netns", "exec", self._names[node]),
                    *(str(Path(sys.executable).with_name("deepspeed")), "--hostfile", str(hosts)),
                    *("--no_ssh", "--node_rank", str(node), "--master_addr", ADDRESSES[0]),
                    *(str(TRAIN), "--device", "cpu", *arguments[node]),
                ],
                env=self._environment(node),
                cwd=ROOT,
                stdout=log.with_suffix(f".node{node}").open("ab"),
                stderr=subprocess.STDOUT,
            )
            for node in range(2)
        ]

    def _environment(self, node: int) -> dict[str, str]:
        # gloo would look up the host name, and find the same address on both nodes.
        own = {"GLOO_SOCKET_IFNAME": self._cables[node], "DS_ACCELERATOR": "cpu"}
        return {**os.environ, **own, "OMP_NUM_THREADS": "1"}


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def wait_for(ranks: list[subprocess.Popen[bytes]], log: Path) -> list[int]:
    """Exit codes of both nodes."""
    try:
        return [rank.wait(timeout=LIMIT_S) for rank in ranks]
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.kill()
        raise SystemExit(f"a node did not end in {LIMIT_S} s:\n{read(log)}") from None


def read(log: Path) -> str:
    """The output of both nodes."""
    return "\n".join(log.with_suffix(f".node{node}").read_text() for node in range(2))


def weights(run_dir: Path) -> dict[str, object]:
    """Sizes and checksums of the newest checkpoint's files."""
    name = (run_dir / "checkpoints" / "latest").read_text().strip()
    return json.loads((run_dir / "checkpoints" / name / "checkpoint.json").read_text())["files"]


def require(condition: bool, what: str, log: Path) -> None:
    """Print that `what` holds, or exit with the logs."""
    if not condition:
        raise SystemExit(f"FAILED: {what}\n{read(log)}")
    print(f"ok: {what}", flush=True)


def data_of_nodes(folder: Path) -> list[Path]:
    """A set in two parts, as each node holds it: index and all, but only its own shards."""
    images, whole = write_images(folder / "images"), folder / "whole"
    prepare(images, whole, Conversion(32), parts=2, num_workers=1)
    nodes = [folder / f"data{node}" for node in range(2)]
    for node, data in enumerate(nodes):
        shutil.copytree(whole, data, ignore=shutil.ignore_patterns(f"part-00{1 - node}"))
    return nodes


def main() -> None:
    """Run the whole scenario; raises SystemExit with the logs if it fails."""
    nodes = Nodes()
    with tempfile.TemporaryDirectory() as name, nodes.up():
        folder = Path(name)
        nodes_data, hosts = data_of_nodes(folder), folder / "hosts"
        hosts.write_text("node-a slots=1\nnode-b slots=1\n")
        intervals = ("--total-kimg", "1.6", "--checkpoint-kimg", "0.16")

        def arguments(run_dir: Path) -> list[list[str]]:
            timeout = ("--rank-timeout-s", str(RANK_TIMEOUT_S))
            return [tiny_arguments(data, run_dir, *intervals, *timeout) for data in nodes_data]

        log = folder / "straight"
        codes = wait_for(nodes.start(arguments(folder / "run"), hosts, log), log)
        what = "a run over two nodes, with half of the images on each, ends with code 0 on both"
        require(codes == [0, 0], what, log)
        require("2 parts of images; this rank (0) reads part 0" in read(log), "it says so", log)

        log, cut = folder / "cut", folder / "cut-run"
        ranks = nodes.start(arguments(cut), hosts, log)
        while not (cut / "checkpoints" / "latest").is_file():
            time.sleep(0.2)
            if any(rank.poll() is not None for rank in ranks):
                raise SystemExit(f"FAILED: training has ended early\n{read(log)}")
        nodes.cable("down")
        pulled = time.monotonic()
        codes = wait_for(ranks, log)
        require(0 not in codes, f"both nodes end with an error: codes {codes}", log)
        said = [line for line in read(log).splitlines() if "stopped or lost" in line]
        require(any("rank 1 has not" in line for line in said), "node a names rank 1", log)
        require(any("rank 0 at 10." in line for line in said), "node b names rank 0", log)
        print("\n".join(f"    {line}" for line in said))
        print(f"    {time.monotonic() - pulled:.0f} s after the cut, limit {RANK_TIMEOUT_S} s")

        nodes.cable("up")
        codes = wait_for(nodes.start(arguments(cut), hosts, log), log)
        require(codes == [0, 0], "the same commands complete the run", log)
        same = weights(cut) == weights(folder / "run")
        require(same, "its last checkpoint equals the undisturbed run's, byte for byte", log)


if __name__ == "__main__":
    main()
