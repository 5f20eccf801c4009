"""The wheel: built, installed in a folder of its own, and used where there is nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.ranks import TIMEOUT_SECONDS, write_images
from tests.helpers.source_tree import PRODUCT, python_files, relative

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(metadata.distributions(name="pip")), reason="needs pip"),
]

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# Compiling takes minutes; tests/kernels/test_build.py has the library of a wheel.
ENVIRONMENT = {**os.environ, "REALNESS_BUILD": "never", "OMP_NUM_THREADS": "1"}


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """What the command prints to its output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: `build/` in the repository may hold files of old ones."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    left_out = shutil.ignore_patterns("__pycache__", "lib")
    for name in (*PRODUCT, ".typings"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    run([*PIP, "wheel", *options, str(source)], folder)
    shutil.rmtree(source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed in; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    run([*PIP, "install", "--no-index", "--no-deps", "--target", str(folder), str(wheel)], ROOT)
    return folder


def test_it_holds_the_product_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"realness/__init__.py", "realness/py.typed"} <= names
    expected = {f"realness/{relative(path)}" for path in python_files()}
    assert {name for name in names if name.endswith(".py")} == {"realness/__init__.py", *expected}
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"realness"}
    kernels = (ROOT / "kernels").rglob("*")
    sources = {path for path in kernels if path.suffix in (".cu", ".cuh", ".h")}
    assert {f"realness/{relative(path)}" for path in sources} <= names


def test_it_is_what_is_imported(site: Path, tmp_path: Path) -> None:
    """Not the repository, though an editable installation may provide `realness` too."""
    code = (
        "import realness, realness.kernels, realness.trainer.run.loop, realness.launch.cli, sys\n"
        "print(realness.__version__)\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'realness'),"
        " sep='\\n')"
    )
    version, *files = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site)).split("\n")
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    found = [Path(file) for file in files if file]
    assert len(found) > 50
    assert all(path.is_relative_to(site / "realness") for path in found), found


def test_the_command_works_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    command, path = str(site / "bin" / "realness"), str(site)
    version = run([command, "--version"], tmp_path, PYTHONPATH=path).split()[1]
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()

    images = write_images(tmp_path / "images", 16, 64)
    small = ["--g-width", "4", "--d-width", "4", "--z-dim", "16", "--batch-size", "8"]
    lengths = ["--total-kimg", "0.016", "--log-kimg", "0.008", "--num-samples", "4"]
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = ["train", "--preset", "demo", "--data", str(images), "--run-dir", "run"]
    run([command, *arguments, *small, *lengths, "--device", "cpu"], empty, PYTHONPATH=path)
    assert [entry.name for entry in empty.iterdir()] == ["run"]
    assert len((empty / "run" / "stats.jsonl").read_text().splitlines()) == 2
    assert (empty / "run" / "checkpoints" / "latest").read_text().strip() == f"{16:012d}"
