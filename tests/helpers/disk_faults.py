"""A run on a disk that fills up and turns read-only:
`unshare -rm python -m tests.helpers.disk_faults DIR`.

Needs its own mount namespace (`unshare -rm` creates one for any user): DIR/passing and DIR/lasting
become file systems of a few MB, and everything that a run does to them is real.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from realness.trainer.updates import iteration
from tests.helpers.ranks import run_command, tiny_arguments

# Between the logging intervals of 16 images, and away from the checkpoints of 80.
FILLED, FREED, MADE_READ_ONLY, MADE_WRITABLE, TOTAL = 104, 200, 296, 392, 480


def arguments(folder: Path, name: str) -> list[str]:
    """The training command of the run DIR/NAME, on the images of DIR."""
    lengths = ("--total-kimg", str(TOTAL / 1000), "--checkpoint-kimg", "0.08")
    intervals = ("--log-kimg", "0.016", "--sample-kimg", "0.064", "--device", "cpu")
    return tiny_arguments(folder / "images", folder / name, *lengths, *intervals)


def mount(*words: object) -> None:
    """Run `mount WORDS`."""
    subprocess.run(["mount", *map(str, words)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free on the disk of `folder`."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            print(f"BALLAST {file.tell()}: {error}", flush=True)


def at_images(events: dict[int, Callable[[], object]]) -> None:
    """Call each event once training has seen its number of images."""
    update_d = iteration.update_d

    def train(gan: Any, real: Any, images: int, **named: Any) -> Any:
        if images in events:
            # A checkpoint sees the disk as it was when its write began, however busy the machine.
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()
            events.pop(images)()
        return update_d(gan, real, images, **named)

    iteration.update_d = train


def passing_faults() -> None:
    """Full for 12 iterations, then normal for as many, then read-only, then normal."""
    run = Path(sys.argv[1]) / "passing"
    at_images(
        {
            FILLED: lambda: fill(run),
            FREED: (run / "ballast").unlink,
            MADE_READ_ONLY: lambda: (
                mount("--bind", run, run),
                mount("-o", "remount,bind,ro", run),
            ),
            MADE_WRITABLE: lambda: subprocess.run(["umount", "-l", str(run)], check=True),
        }
    )


def lasting_fault() -> None:
    """Full until the end."""
    run = Path(sys.argv[1]) / "lasting"
    at_images({FILLED: lambda: fill(run)})


def main(folder: Path) -> None:
    """Run both, and the second one again with space on its disk; print the exit codes."""
    for name in ("passing", "lasting"):
        (folder / name).mkdir()
        mount("-t", "tmpfs", "-o", "size=4M", "none", folder / name)
    print("EXIT", run_command(arguments(folder, "passing"), passing_faults), flush=True)
    print("EXIT", run_command(arguments(folder, "lasting"), lasting_fault), flush=True)
    (folder / "lasting" / "ballast").unlink()
    print("EXIT", run_command(arguments(folder, "lasting")), flush=True)
    # The file systems end with this process; the files that the test reads must not.
    for name in ("passing", "lasting"):
        subprocess.run(["cp", "-r", folder / name, folder / f"{name}-after"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
