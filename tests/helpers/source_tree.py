"""The project's own Python files, for tests that read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT

PRODUCT = ("launch", "trainer", "data_pipeline", "kernels")
"""The top-level folders that are installed."""

HEAVY = ("deepspeed", "nvidia.dali", "matplotlib", "tensorboard", "tyro")
"""Packages that importing realness must not load: --help would take many seconds."""


def python_files(*folders: str) -> list[Path]:
    """Every .py file in these top-level folders (default: those of the product)."""
    return [path for folder in folders or PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]


def relative(path: Path) -> str:
    """The path of a file from the root of the repository, with slashes."""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """The dotted name under which a file of the product is imported."""
    name = "realness." + relative(path).removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def package_names() -> list[str]:
    """The dotted name of every package of the product."""
    return [module_name(path) for path in python_files() if path.name == "__init__.py"]


def imported_names(path: str, source: str) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of every import in a file, including those in functions and under
    TYPE_CHECKING. `path` is relative to the root; relative imports are resolved from it."""
    package = ["realness", *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in {"import_module", "__import__"}:
                yield str(node.args[0].value), node.lineno
