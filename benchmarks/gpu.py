"""Run all checks and measurements that need a GPU, in stages: `make gpu [STAGES="..."]`.

    python benchmarks/gpu.py [STAGE ...] [--out runs/gpu] [--minutes 10] [--wheels FOLDER]

The stages (benchmarks/gpu_stages.py) run in the order of their value, each with its own limit of
time; one that fails does not stop the next. Without names, those run that have not passed in this
folder yet; a name, or the name of a group (first, second, more), runs stages again. After each
stage OUT.tar.gz, which holds all logs, rows and traces, and OUT.txt, a summary of one screen, are
rewritten. Exits with 1 if a stage failed or was not reached.

Nothing is downloaded, and git is not needed. --wheels names a folder of wheels of packages that the
machine lacks; they are unpacked into OUT. Kernels built beforehand (python -m realness.kernels
--bundle) are used. --device cpu is a dry run of the whole chain at tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from gpu_stages import GROUPS, Command, Place, Stage, stages
from gpu_summary import summary

ROOT = Path(__file__).resolve().parent.parent
TIMED_OUT = 124
"""The status of a command whose time is over, as timeout(1) has it."""


def run_program(command: Command, log: Path, environment: dict[str, str], limit: float) -> int:
    """The exit status of a command that writes to `log`."""
    words = [*command.under, sys.executable, *command.words]
    with log.open("a") as file:
        try:
            process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        except FileNotFoundError:
            file.write(f"{words[0]} is not installed here\n")
            return 127
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _become(command: Command, log: Path, environment: dict[str, str]) -> None:
    """In a fork: what `python WORDS` does."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    os.chdir(ROOT)
    words = list(command.words)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(ROOT)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str((ROOT / words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


def run_fork(command: Command, log: Path, environment: dict[str, str], limit: float) -> int:
    """As `run_program`, for a dry run: in a fork, which need not import torch again."""
    process = multiprocessing.get_context("fork").Process(
        target=_become, args=(command, log, environment)
    )
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return TIMED_OUT
    return process.exitcode


def own_paths(place: Place) -> list[str]:
    """Where modules are found before all others."""
    return [str(place.out / "site"), str(ROOT / ".typings"), str(ROOT)]


def environment_of(place: Place) -> dict[str, str]:
    """The environment of every command."""
    own = {
        "PYTHONPATH": os.pathsep.join([*own_paths(place), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
        # One process, or several on one machine: no network is needed, and there may be none.
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_IB_DISABLE": "1",
    }
    if place.dry:
        own |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    else:
        own |= {"REALNESS_BUILD": "require", "REALNESS_REQUIRE_GPU": "1"}
    return {**os.environ, **own}


def run_stage(stage: Stage, place: Place, limit: float) -> dict[str, Any]:
    """Run a stage's commands, all of them also if one fails; returns its record."""
    log = place.out / f"{stage.name}.log"
    log.write_text("")
    begin, code = time.monotonic(), 0
    for command in stage.commands:
        with log.open("a") as file:
            file.write(f"$ {' '.join(command.words)}\n")
        left = limit - (time.monotonic() - begin)
        run = run_fork if place.dry else run_program
        environment = environment_of(place) | dict(command.environment)
        status = run(command, log, environment, left) if left > 0 else TIMED_OUT
        if status not in command.passing:
            code = code or status
    seconds = round(time.monotonic() - begin, 1)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return {"code": code, "seconds": seconds, "last": lines[-1] if lines else ""}


def save(place: Place, records: dict[str, Any]) -> str:
    """Write the records, the summary and the archive; returns the summary."""
    (place.out / "stages.json").write_text(json.dumps(records, indent=1))
    text = summary(place.out, records)
    (place.out / "summary.txt").write_text(text)
    place.out.with_name(place.out.name + ".txt").write_text(text)
    archive = place.out.with_name(place.out.name + ".tar.gz")
    staged = archive.with_suffix(".new")
    bulky = {"site", "images", "run", "pytest"}
    with tarfile.open(staged, "w:gz") as file:
        for path in sorted(place.out.iterdir()):
            if path.name not in bulky:
                file.add(path, f"{place.out.name}/{path.name}")
    os.replace(staged, archive)
    return text


def unpack_wheels(wheels: Path, site: Path) -> None:
    """Install the wheels of a folder into `site`, without an index."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--upgrade"]
    command += ["--quiet", "--target", str(site), *map(str, sorted(wheels.glob("*.whl")))]
    subprocess.run(command, check=True)


def chosen(names: list[str], known: list[Stage], records: dict[str, Any]) -> list[Stage]:
    """The stages to run. Raises SystemExit for an unknown name."""
    wanted = [one for name in names for one in GROUPS.get(name, (name,))]
    if unknown := sorted(set(wanted) - {stage.name for stage in known}):
        every = ", ".join([*GROUPS, *(stage.name for stage in known)])
        raise SystemExit(f"no stage is called {', '.join(unknown)}; there are {every}")
    if wanted:
        return [stage for stage in known if stage.name in wanted]
    passed = {name for name, record in records.items() if record["code"] == 0}
    usual = {*GROUPS["first"], *GROUPS["second"]}
    return [stage for stage in known if stage.name in usual - passed]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="names of stages or groups")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all stages together")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to use")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return parser.parse_args()


def main() -> None:
    """Run the stages."""
    options = parse_options()
    place = Place(options.out.resolve(), dry=options.device == "cpu")
    place.out.mkdir(parents=True, exist_ok=True)
    kept = place.out / "stages.json"
    records: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    todo = chosen(options.stages, stages(place), records)
    if options.wheels:
        unpack_wheels(options.wheels, place.out / "site")
    if place.dry:
        sys.path[1:1] = own_paths(place)
        import realness.trainer.run.loop  # noqa: F401 - what all forks need
    end = time.monotonic() + 60 * options.minutes
    for stage in todo:
        records[stage.name] = {"code": None, "seconds": 0.0, "last": "not reached"}
    for stage in todo:
        if (left := end - time.monotonic()) <= 0:
            break
        print(f"== {stage.name}, at most {min(stage.seconds, left):.0f} s", flush=True)
        records[stage.name] = run_stage(stage, place, min(stage.seconds, left))
        save(place, records)
    print(save(place, records))
    if any(records[stage.name]["code"] != 0 for stage in todo):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
