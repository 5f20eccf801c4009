"""Training on two nodes: network namespaces joined by a virtual cable, which is disconnected."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.helpers import two_nodes


def namespaces_work() -> bool:
    """Whether this machine allows creating a network namespace."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"realness{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not namespaces_work(), reason="needs root, iproute2 and network namespaces")
def test_a_pulled_cable_is_named_and_the_run_resumes_bit_for_bit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    two_nodes.main()
    said = capsys.readouterr().out
    assert "node a names rank 1" in said
    assert "node b names rank 0" in said
    assert "byte for byte" in said
