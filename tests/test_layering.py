"""The house rules: which way imports run, what is documented, what must not be in any file."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

HOUSE = ("launch", "trainer", "data_pipeline", "kernels")

MAY_IMPORT = {
    "launch": {"launch", "trainer", "data_pipeline", "kernels"},
    "trainer": {"trainer", "data_pipeline", "kernels"},
    "data_pipeline": {"data_pipeline"},
    "kernels": {"kernels"},
}
"""Imports run one way: launch -> trainer -> {data_pipeline, kernels}."""

ONLY_IN = {"deepspeed": "trainer/engines/deepspeed_engine.py", "tyro": "launch/"}
"""Packages that one place hides from the rest."""

HEAVY = ("deepspeed", "nvidia.dali", "matplotlib", "tensorboard", "tyro")
"""What importing our packages must not pull in; commands would answer --help in many seconds."""


# --- the import arrow


def imported_names(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a module of `package` imports, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in {"import_module", "__import__"}:
                yield str(node.args[0].value), node.lineno


def import_faults(path: str, source: str) -> list[str]:
    """What the imports of the file at `path` (relative to the root) break, a line each."""
    room = path.split("/")[0]
    package = "realness." + path.rpartition("/")[0].replace("/", ".")
    faults = []
    for name, line in imported_names(ast.parse(source), package):
        top, _, rest = name.partition(".")
        if top in HOUSE:
            faults.append(f"{path}:{line} imports {top}; its name is realness.{top}")
        if top in {"tests", "benchmarks"}:
            faults.append(f"{path}:{line} imports {top}, which stands outside")
        if top == "realness" and rest.split(".")[0] not in MAY_IMPORT[room]:
            faults.append(f"{path}:{line} imports {name}: {room} may not")
        if top in ONLY_IN and not path.startswith(ONLY_IN[top]):
            faults.append(f"{path}:{line} imports {top}, which only {ONLY_IN[top]} may")
    return faults


def python_files() -> list[Path]:
    return [path for room in HOUSE for path in sorted((ROOT / room).rglob("*.py"))]


def test_imports_run_one_way() -> None:
    files = python_files()
    assert len(files) > 30
    faults = [
        fault
        for path in files
        for fault in import_faults(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/build.py", "import realness.trainer.config"),
        ("kernels/build.py", "from realness import data_pipeline"),
        ("kernels/philox/op.py", "from ...trainer import config"),
        ("data_pipeline/order.py", "def f():\n    from realness.kernels import philox_uint32"),
        ("trainer/run/loop.py", "from realness.launch.arguments import parse"),
        ("trainer/run/loop.py", "from ...launch import arguments"),
        ("trainer/run/loop.py", "import deepspeed.comm"),
        ("launch/train_ffhq.py", "from deepspeed import initialize"),
        ("trainer/run/loop.py", "import importlib\nimportlib.import_module('deepspeed')"),
        ("trainer/config/train.py", "from tyro import cli"),
        ("launch/train_ffhq.py", "from trainer.config import TrainConfig"),
        ("launch/train_ffhq.py", "import benchmarks.kernels"),
    ],
)
def test_a_fault_against_the_arrow_is_found(path: str, source: str) -> None:
    assert len(import_faults(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("trainer/engines/deepspeed_engine.py", "import deepspeed"),
        ("trainer/reporting/page/html.py", "from realness.trainer.reporting import theme"),
        ("trainer/networks/dcgan.py", "from ..config import GeneratorConfig"),
        ("launch/prepare.py", "import tyro\nfrom realness.data_pipeline import prepare"),
        ("kernels/philox/op.py", "from realness.kernels.philox import reference\nimport torch"),
    ],
)
def test_what_the_arrow_allows(path: str, source: str) -> None:
    assert import_faults(path, source) == []


@pytest.mark.slow
def test_importing_the_packages_is_light() -> None:
    code = (
        f"import importlib, sys\nfor name in {package_names()!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_plain_folder_names_are_refused() -> None:
    code = "import kernels"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "realness.kernels" in done.stderr.splitlines()[-1]


# --- documentation


def package_names() -> list[str]:
    folders = [path.parent for path in python_files() if path.name == "__init__.py"]
    return ["realness." + path.relative_to(ROOT).as_posix().replace("/", ".") for path in folders]


def is_documented(thing: object) -> bool:
    """Whether a function or class has a docstring of its own, not one made by @dataclass."""
    text = inspect.getdoc(thing) if not inspect.isclass(thing) else thing.__dict__.get("__doc__")
    made = dataclasses.is_dataclass(thing) and (text or "").startswith(f"{thing.__name__}(")  # type: ignore[union-attr]
    return bool(text and text.strip()) and not made


@pytest.mark.parametrize("name", package_names())
def test_packages_and_their_exports_are_documented(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__doc__, f"{name} has no docstring"
    exports = getattr(package, "__all__", [])
    missing = [export for export in exports if not hasattr(package, export)]
    assert missing == [], f"{name}.__all__ names what is not there"
    things = {export: getattr(package, export) for export in exports}
    bare = [
        export
        for export, thing in things.items()
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and not is_documented(thing)
    ]
    assert bare == []


def test_a_missing_docstring_is_found() -> None:
    @dataclasses.dataclass
    class Bare:
        value: int

    class Inherits(dict):  # type: ignore[type-arg]
        pass

    def bare() -> None: ...

    assert not any(map(is_documented, (Bare, Inherits, bare)))
    assert is_documented(is_documented)


# --- what is in no file

TEXT = {".py", ".md", ".toml", ".cu", ".cuh", ".cpp", ".h", ".lock", ".txt", ".yml", ".csv", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|Users|tmp/w)/[\w.-]")
MARKER = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")


def text_files() -> list[Path]:
    """Our text files: the rooms, the tests, and what lies at the root."""
    folders = [ROOT / name for name in (*HOUSE, "benchmarks", "tests", ".ci")]
    inner = [path for folder in folders for path in folder.rglob("*")]
    found = [path for path in [*inner, *ROOT.iterdir()] if path.is_file() and path.suffix in TEXT]
    # In a linked work tree `.git` is a file that names a path.
    return [path for path in found if not {"__pycache__", ".git"} & set(path.parts)]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, MARKER], ids=["machine path", "marker"])
def test_no_file_holds(pattern: re.Pattern[str]) -> None:
    files = text_files()
    assert ROOT / "setup.py" in files
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


def test_the_patterns_find_what_they_should() -> None:
    somebody = "/ho" + "me/somebody/data"
    assert MACHINE_PATH.search(f'path = "{somebody}"')
    assert not MACHINE_PATH.search("https://example.org/home/page and docs/root/x")
    assert MARKER.search("# TO" + "DO: later")
    assert not MARKER.search("mastodon, todo list")


# --- the commands


def commands() -> list[Path]:
    scripts = sorted((ROOT / "launch").glob("*.py"))
    return [path for path in scripts if 'if __name__ == "__main__"' in path.read_text()]


def test_the_commands_are_there() -> None:
    assert {"report.py", "train_ffhq.py"} <= {path.name for path in commands()}


@pytest.mark.parametrize("script", commands(), ids=lambda path: path.name)
def test_help_needs_no_gpu_and_nothing_heavy(script: Path, tmp_path: Path) -> None:
    code = (
        "import atexit, runpy, sys\n"
        "def tell():\n"
        "    torch = sys.modules.get('torch')\n"
        "    print('CUDA', bool(torch and torch.cuda.is_initialized()), file=sys.stderr)\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules and name != 'tyro']\n"
        "    print('HEAVY', heavy, file=sys.stderr)\n"
        "atexit.register(tell)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(script), "--help"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert script.name in done.stdout
    assert "usage" in done.stdout.lower()
    assert done.stderr.splitlines()[-2:] == ["CUDA False", "HEAVY []"]
    assert list(tmp_path.iterdir()) == []
