"""The cluster examples: their shell code is clean and passes on signals and exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from realness.trainer.distributed.exit_codes import EXIT_STOPPED
from tests.helpers import ROOT
from tests.helpers.ranks import TIMEOUT_SECONDS

SBATCH = ROOT / "launch" / "cluster" / "slurm.sbatch"
KUBERNETES = ROOT / "launch" / "cluster" / "kubernetes.yaml"
DOCKERFILE = ROOT / "Dockerfile"

# Stand-in for the launcher: starts one rank, and ends with that rank's code.
LAUNCHER = """#!{python}
import subprocess, sys
sys.exit(subprocess.run([sys.executable, {rank!r}, "--local_rank={tag}"]).returncode)
"""
RANK = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
Path({ready!r}).write_text("")
time.sleep(60)
"""


def pod_script() -> str:
    """The shell script inside the pod's container."""
    lines = KUBERNETES.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == "- |") + 1
    indent = len(lines[start]) - len(lines[start].lstrip())
    body = []
    for line in lines[start:]:
        if len(line) - len(line.lstrip()) < indent:
            break
        body.append(line)
    return textwrap.dedent("\n".join(body)) + "\n"


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    pod = tmp_path / "pod.sh"
    pod.write_text("#!/usr/bin/env bash\n" + pod_script())
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run(
        [str(shellcheck), str(SBATCH), str(pod)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_sbatch_directives_are_whole() -> None:
    """Slurm reads directives only before the first command, and one per line."""
    lines = SBATCH.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first_command = next(
        number for number, line in enumerate(lines) if line and not line.startswith("#")
    )
    assert directives
    assert max(directives) < first_command


@pytest.mark.skipif(shutil.which("pkill") is None, reason="the pod's script needs pkill")
def test_a_pod_passes_sigterm_to_its_ranks_and_their_code_on(tmp_path: Path) -> None:
    ready, rank = tmp_path / "ready", tmp_path / "rank.py"
    rank.write_text(RANK.format(ready=str(ready)))
    launcher = tmp_path / "deepspeed"
    tag = f"pod-{os.getpid()}-"  # no other test's ranks may get the signal
    launcher.write_text(LAUNCHER.format(python=sys.executable, rank=str(rank), tag=tag))
    launcher.chmod(0o755)
    script = pod_script().replace("local_rank=", f"local_rank={tag}").replace("/tmp", str(tmp_path))
    pod = subprocess.Popen(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NODE_RANK": "0"},
    )
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pod.terminate()
    assert pod.wait(timeout=TIMEOUT_SECONDS) == EXIT_STOPPED


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def test_the_image_has_what_the_pod_needs() -> None:
    steps = instructions()
    runs = " ".join(arguments for word, arguments in steps if word == "RUN")
    (directory,) = [arguments for word, arguments in steps if word == "WORKDIR"]
    assert f"workingDir: {directory}\n" in KUBERNETES.read_text()
    assert "pkill" in pod_script()
    assert " procps " in runs
    copied = [arguments.split() for word, arguments in steps if word == "COPY"]
    assert [path for *sources, _ in copied for path in sources if not (ROOT / path).exists()] == []
    # The repository is there before it is installed, and torch before the repository.
    order = [steps.index(("COPY", ". ."))]
    order.insert(0, next(n for n, step in enumerate(steps) if " torch==" in step[1]))
    order.append(next(n for n, step in enumerate(steps) if '".[dali]"' in step[1]))
    assert order == sorted(order)


def test_the_image_has_the_locked_versions() -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    runs = [arguments for word, arguments in instructions() if word == "RUN"]
    pinned = re.findall(r"[\w-]+==[\w.]+", " ".join(runs))
    assert pinned
    assert [pin for pin in pinned if pin not in lock] == []
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    assert [part for part in installs if "-c requirements.lock" not in part] == []
