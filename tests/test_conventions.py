"""Conventions: documentation, sizes, what no file may contain, and what importing loads."""

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
from tests.helpers.source_tree import (
    HEAVY,
    PRODUCT,
    module_name,
    package_names,
    python_files,
    relative,
)

LOOSE = {
    "trainer": {"__init__", "randomness"},
    "data_pipeline": {
        *("__init__", "catalog", "check", "errors", "headers", "order", "stream"),
    },
}
"""The modules that may lie directly in a folder, beside its packages."""

MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 310, 60, 8

OVERSIZED = {
    "kernels/build.py": "setup.py loads it by its path, before anything is installed",
}
"""Files and functions over the limits, each with the reason."""


# --- documentation


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


# --- where files lie, and how large they are


def misplaced(paths: list[str]) -> list[str]:
    """The files that lie directly in trainer/ or data_pipeline/ and are not listed in LOOSE."""
    return [
        path
        for path in paths
        for folder, _, rest in [path.partition("/")]
        if "/" not in rest and rest.removesuffix(".py") not in LOOSE.get(folder, {rest[:-3]})
    ]


def oversized(path: str, source: str) -> Iterator[tuple[str, str]]:
    """(file, or file and function; what is over which limit) of one file."""
    if (lines := len(source.splitlines())) > MOST_LINES:
        yield path, f"{lines} lines; at most {MOST_LINES}"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if lines > MOST_FUNCTION_LINES:
            yield f"{path} {node.name}", f"{lines} lines; at most {MOST_FUNCTION_LINES}"
        if count > MOST_PARAMETERS:
            yield f"{path} {node.name}", f"{count} parameters; at most {MOST_PARAMETERS}"


def test_files_lie_in_packages() -> None:
    assert misplaced([relative(path) for path in python_files()]) == []
    wrong = ["trainer/loop.py", "data_pipeline/dali.py"]
    assert (
        misplaced([*wrong, "trainer/run/loop.py", "trainer/randomness.py", "launch/x.py"]) == wrong
    )


def test_nothing_is_too_large() -> None:
    found = [x for path in python_files() for x in oversized(relative(path), path.read_text())]
    assert [fault for fault in found if fault[0] not in OVERSIZED] == []
    assert set(OVERSIZED) == {where for where, _ in found}, "an exception is no longer needed"


def test_what_is_too_large_is_found() -> None:
    long = "def f():\n" + "    x = 1\n" * 60
    assert list(oversized("a.py", long)) == [("a.py f", "61 lines; at most 60")]
    assert list(oversized("a.py", "x = 1\n" * 311)) == [("a.py", "311 lines; at most 310")]
    wide = "class C:\n    def m(self, a, b, c, d, *, e, f, g, h, {}): ...\n"
    assert list(oversized("a.py", wide.format("i"))) == [("a.py m", "9 parameters; at most 8")]
    assert list(oversized("a.py", wide.format("") + "x = 1\n" * 300)) == []


# --- what is in no file

TEXT = {".py", ".md", ".toml", ".cu", ".cuh", ".cpp", ".h", ".lock", ".txt", ".yml", ".csv", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|Users|tmp/w)/[\w.-]")
MARKER = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")


def text_files() -> list[Path]:
    """Our text files: the product, the tests, and what lies at the root."""
    folders = [ROOT / name for name in (*PRODUCT, "benchmarks", "tests", ".ci")]
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


# --- what importing loads


def loaded_by(modules: list[str], watched: tuple[str, ...]) -> list[str]:
    """`module: package` for each watched package that importing the modules, in order, loads."""
    code = (
        "import importlib, sys\nloaded = set()\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = set({watched!r}) & set(sys.modules) - loaded\n"
        "    loaded |= found\n"
        "    for package in sorted(found): print(f'{name}: {package}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_importing_the_packages_is_light() -> None:
    assert loaded_by(package_names(), HEAVY) == []


def test_what_commands_import_first_loads_no_torch() -> None:
    trainer = [
        module_name(path).removeprefix("realness.trainer.") for path in python_files("trainer")
    ]
    light = [
        name
        for name in trainer
        if name.split(".")[0] in {"config", "storage"} and name != "storage.weights"
    ]
    light += ["reporting", "toy", "distributed.exit_codes", "distributed.launcher"]
    assert len(light) > 15
    names = [f"realness.trainer.{name}" for name in light]
    assert loaded_by([*names, "realness.launch.restarts"], ("torch",)) == []
    weights = "realness.trainer.storage.weights"
    assert loaded_by([*names, weights], ("torch",)) == [f"{weights}: torch"]


# --- the commands


def test_plain_folder_names_are_refused() -> None:
    code = "import kernels"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "realness.kernels" in done.stderr.splitlines()[-1]


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
