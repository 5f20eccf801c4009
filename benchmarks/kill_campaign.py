"""Kill training repeatedly: `python benchmarks/kill_campaign.py [--kills 100]`.

Runs of a tiny network on two ranks are killed by SIGKILL: one rank, all ranks, or their launcher,
in turn while they start, train, write a checkpoint and end. The same command then resumes the run.
After each kill the newest checkpoint on the disk is verified; at the end a run must be bit for bit
the same as without kills.

The ranks are real processes with the real training command; to save time, they and their launcher
(a process in place of `deepspeed`) are forked from a process that has imported everything. Prints a
table, and appends one row per kind to kill_campaign.csv in --out, where the log of a lost run is
kept too. Exit codes: 0 nothing lost, 1 a run or an image lost.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from realness.trainer import checkpoint
from realness.trainer.checkpoint.format import file_entry
from realness.trainer.reporting import describe_environment, read_stats
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    folder_name,
    is_being_written,
    read_latest,
)

RESULTS = Path(__file__).parent / "results"
KINDS = ("one rank", "all ranks", "launcher")
PHASES = ("start_up", "training", "saving", "end")
BATCH, TOTAL, RANKS = 8, 640, 2
KILLS_A_RUN = len(PHASES)
PATIENCE_SECONDS = 180.0  # the limit for a hang
LOOK_SECONDS = 0.002
FIRST_LINE = b" images ("  # in the progress line: training has begun


@dataclass
class Tally:
    """Results of the kills of one kind."""

    kills: int = 0
    start_up: int = 0
    """Kills in this phase, and in the three others: as it was when the kill came."""
    training: int = 0
    saving: int = 0
    end: int = 0
    runs_lost: int = 0
    images_lost: int = 0
    """Images in `latest` before the kill that the newest complete checkpoint lacks."""
    images_repeated: int = 0
    """Images trained on again, because they came after that checkpoint."""
    seconds: float = 0.0


class RunLost(Exception):
    """A run does not resume, or differs from the uninterrupted run."""


class Durations(NamedTuple):
    """Seconds from the start of a run to its first record, and from its last one to its end."""

    start_up: float
    end: float


class Attempt:
    """The training command on two ranks under a launcher."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["realness.trainer.run.loop", "deepspeed"])
        receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_launch, args=(arguments, log, sender))
        self._process.start()
        self.ranks: list[int] = receiver.recv()

    def is_running(self) -> bool:
        """Whether the launcher is alive; it ends with its last rank."""
        return self._process.is_alive()

    def kill(self, kind: str, chance: random.Random) -> None:
        """Send SIGKILL to the processes that `kind` names."""
        launcher = self._process.pid
        assert launcher is not None
        victims = {"one rank": [chance.choice(self.ranks)], "all ranks": self.ranks}
        for pid in victims.get(kind, [launcher]):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)

    def finish(self) -> int | None:
        """Wait for all processes; returns the launcher's exit code. Raises RunLost for a hang."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.is_running() or any(map(_is_alive, self.ranks)):
            if time.monotonic() > deadline:
                for pid in filter(_is_alive, self.ranks):
                    os.kill(pid, signal.SIGKILL)
                raise RunLost(f"processes were still alive after {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.02)
        self._process.join()
        return self._process.exitcode


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _launch(arguments: list[str], log: Path, sender: Any) -> None:
    """Act as a launcher: start the ranks, report their ids, end the others when one fails."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = [os.fork() or _be_rank(rank, port, arguments) for rank in range(RANKS)]
    sender.send(pids)
    first_failure, running = 0, set(pids)
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if (code := os.waitstatus_to_exitcode(status)) and not first_failure:
            first_failure = code
            # Otherwise a rank that waits for the dead one to join would wait for minutes.
            for other in running:
                os.kill(other, signal.SIGTERM)
    sys.exit(first_failure)


def _be_rank(rank: int, port: int, arguments: list[str]) -> int:
    code = 1
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=str(port))
        os.environ.update(WORLD_SIZE=str(RANKS), LOCAL_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1")
        import torch

        from realness.launch import train_ffhq

        torch.set_num_threads(1)
        code = train_ffhq.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def training_command(data: Path, run: Path) -> list[str]:
    """Flags of a run that takes seconds and saves every fifth iteration."""
    return [
        *("--preset", "cifar10-realness-dcgan", "--data", str(data), "--run-dir", str(run)),
        *("--g-width", "4", "--d-width", "4", "--z-dim", "16", "--batch-size", str(BATCH)),
        *("--total-kimg", str(TOTAL / 1000), "--checkpoint-kimg", str(5 * BATCH / 1000)),
        *("--log-kimg", str(BATCH / 1000), "--sample-kimg", "0.32", "--num-samples", "4"),
        *("--decoder", "threads", "--decode-threads", "1", "--device", "cpu"),
    ]


def newest_checkpoint(run: Path) -> int:
    """Images seen at the checkpoint that `latest` names; 0 if there is none yet."""
    return int(read_latest(checkpoint_root(run)) or 0)


def verified_checkpoint(run: Path) -> int:
    """The same, after checking every byte of it. Raises RunLost if it is not complete."""
    images = newest_checkpoint(run)
    if images:
        folder = checkpoint_root(run) / folder_name(images)
        try:
            files = checkpoint.read_manifest(folder)["files"]
            whole = all(file_entry(folder / name) == entry for name, entry in files.items())
        except (OSError, checkpoint.CheckpointError) as error:
            raise RunLost(f"{folder}: {error}") from error
        if not whole:
            raise RunLost(f"{folder} is not what its manifest says")
    return images


def is_saving(run: Path) -> bool:
    """Whether a checkpoint is half-written."""
    return is_being_written(checkpoint_root(run))


class Observer:
    """How far an attempt that is about to start has come, from what it writes."""

    def __init__(self, run: Path, log: Path) -> None:
        self._run, self._log, self._has_begun = run, log, False
        self._log_before = log.stat().st_size if log.exists() else 0

    def images(self) -> int:
        """Images of the newest record of this attempt; 0 if there is none yet."""
        if not self._has_begun and self._log.exists():
            self._has_begun = FIRST_LINE in self._log.read_bytes()[self._log_before :]
        return trained_images(self._run) if self._has_begun else 0

    def phase(self) -> str:
        """The phase of PHASES in which the attempt is."""
        images = self.images()
        if images >= TOTAL:
            return "end"
        if is_saving(self._run):
            return "saving"
        return "training" if images else "start_up"


def trained_images(run: Path) -> int:
    """Images of the newest record of a run."""
    return max((record["images"] for record in read_stats(run / "stats.jsonl")), default=0)


def instant(
    phase: str, durations: Durations, observer: Observer, before: int, chance: random.Random
) -> Callable[[], bool]:
    """A function that returns whether the instant of a kill has come, a random one of `phase`.

    before: images at the checkpoint from which the attempt starts.
    """
    share, started = chance.random(), time.monotonic()
    images = before + share * (TOTAL - before) / 2
    ended = [0.0]

    def at_the_end() -> bool:
        if not ended[0] and observer.images() >= TOTAL:
            ended[0] = time.monotonic()
        return bool(ended[0]) and time.monotonic() - ended[0] >= share * durations.end

    instants = {
        "start_up": lambda: time.monotonic() - started >= share * durations.start_up,
        "training": lambda: observer.images() > images,
        "saving": lambda: observer.images() > images and observer.phase() == "saving",
        "end": at_the_end,
    }
    return instants[phase]


def kill_once(
    command: list[str], run: Path, log: Path, aim: tuple[str, str, Durations], chance: random.Random
) -> Tally | None:
    """Start the command and kill it; returns its part of the tally, None if it ended first.

    aim: what to kill, of KINDS; the phase, of PHASES; and how long the first and last of them take.
    """
    kind, phase, durations = aim
    started, before = time.monotonic(), newest_checkpoint(run)
    observer = Observer(run, log)
    has_come = instant(phase, durations, observer, before, chance)
    attempt, seen = Attempt(command, log), before
    while attempt.is_running() and not has_come():
        seen = max(seen, newest_checkpoint(run))
        time.sleep(LOOK_SECONDS)
    if phase == "saving":
        time.sleep(chance.uniform(0, 0.02))
    if not attempt.is_running():
        code = attempt.finish()
        if code:
            raise RunLost(f"ended with exit code {code} before it was killed")
        return None
    seen = max(seen, newest_checkpoint(run))
    actual_phase = observer.phase()
    attempt.kill(kind, chance)
    attempt.finish()
    tally, whole = Tally(kills=1), verified_checkpoint(run)
    setattr(tally, actual_phase, 1)
    tally.images_lost = max(0, seen - whole)
    tally.images_repeated = max(0, trained_images(run) - whole)
    tally.seconds = time.monotonic() - started
    return tally


def outcome(run: Path) -> dict[str, Any]:
    """Everything in a run that must not depend on the kills."""
    name = folder_name(verified_checkpoint(run))
    manifest = checkpoint.read_manifest(checkpoint_root(run) / name)
    records = read_stats(run / "stats.jsonl")
    keys = ("images", "loss_d", "loss_g", "score_real", "score_fake")
    return {
        "checkpoint": manifest,
        "records": [[record[key] for key in keys] for record in records],
        "samples": (run / "samples" / f"{TOTAL:012d}.png").read_bytes(),
    }


def finish_run(command: list[str], run: Path, log: Path) -> tuple[dict[str, Any], Durations]:
    """Let a run end; returns its outcome and durations. Raises RunLost unless it succeeds."""
    started, observer = time.monotonic(), Observer(run, log)
    attempt = Attempt(command, log)
    times = []
    for images in (1, TOTAL):
        while attempt.is_running() and observer.images() < images:
            time.sleep(LOOK_SECONDS)
        times.append(time.monotonic())
    if (status := attempt.finish()) != 0:
        raise RunLost(f"ended with exit code {status}")
    if "is damaged" in log.read_text():
        raise RunLost("a checkpoint was damaged")
    return outcome(run), Durations(times[0] - started, time.monotonic() - times[1])


def compare(result: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise RunLost unless two runs had the same outcome."""
    for part, value in expected.items():
        if result[part] != value:
            raise RunLost(f"its {part} differ from the uninterrupted run's")


def campaign(kills: int, seed: int, work: Path, out: Path, console: Console) -> dict[str, Tally]:
    """Kill training `kills` times, with kinds and phases in turn; returns the results by kind.

    The log of a run that is lost is copied to `out`.
    """
    chance, tallies = random.Random(seed), {kind: Tally() for kind in KINDS}
    data = write_images(work / "images")
    done, number = 0, 0
    with Progress(console=console) as progress:
        task = progress.add_task("kills", total=kills)
        command = training_command(data, work / "straight")
        expected, durations = finish_run(command, work / "straight", work / "straight.log")
        while done < kills:
            number += 1
            run, log = work / f"run-{number}", work / f"run-{number}.log"
            command = training_command(data, run)
            kind, phase = KINDS[done % len(KINDS)], PHASES[done % len(PHASES)]
            try:
                for _ in range(min(KILLS_A_RUN, kills - done)):
                    kind, phase = KINDS[done % len(KINDS)], PHASES[done % len(PHASES)]
                    part = kill_once(command, run, log, (kind, phase, durations), chance)
                    if part is None:
                        break
                    add(tallies[kind], part)
                    done += 1
                    progress.advance(task)
                compare(finish_run(command, run, log)[0], expected)
            except RunLost as error:
                tallies[kind].runs_lost += 1
                kept = out / f"kill_campaign_lost_{seed}_{number}.log"
                out.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, kept)
                where = phase.replace("_", "-")
                console.print(
                    f"LOST: run {number}, after a kill of {kind} in {where}: {error}; see {kept}"
                )
                done += 1
                progress.advance(task)
    return tallies


def add(total: Tally, part: Tally) -> None:
    """Add one kill's numbers."""
    for field in fields(Tally):
        setattr(total, field.name, getattr(total, field.name) + getattr(part, field.name))


def write_images(folder: Path) -> Path:
    """48 smooth random PNGs of 32x32."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(48):
        small = Image.fromarray(noise.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")
    return folder


def report(tallies: dict[str, Tally], out: Path, console: Console) -> None:
    """Print the table and append the rows."""
    names = [field.name for field in fields(Tally)]
    table = Table("killed", *(name.replace("_", " ") for name in names))
    environment = describe_environment(num_ranks=RANKS)
    origin = {key: environment[key] for key in ("python", "torch", "deepspeed", "cpu", "commit")}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "kill_campaign.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["killed", *names, *origin], lineterminator="\n")
        if is_new:
            writer.writeheader()
        for kind, tally in tallies.items():
            values = {name: getattr(tally, name) for name in names}
            values["seconds"] = round(tally.seconds, 1)
            writer.writerow({"killed": kind, **values, **origin})
            table.add_row(kind, *map(str, values.values()))
    console.print(table)
    lost = [
        sum(getattr(t, name) for t in tallies.values()) for name in ("runs_lost", "images_lost")
    ]
    kills = sum(tally.kills for tally in tallies.values())
    console.print(json.dumps({"kills": kills, "runs_lost": lost[0], "images_lost": lost[1]}))


def main() -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="number of kills, over several runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times and the victims")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kill_campaign.csv")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    console = Console(width=120)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        tallies = campaign(options.kills, options.seed, Path(work), options.out, console)
    report(tallies, options.out, console)
    return int(any(tally.runs_lost or tally.images_lost for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
