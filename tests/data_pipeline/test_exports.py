"""Other folders import only the exports of `realness.data_pipeline`, which load no torch."""

from __future__ import annotations

import ast
import subprocess
import sys

from realness import data_pipeline
from tests.helpers import ROOT

PACKAGE = "realness.data_pipeline"
MAY_PREPARE = ("launch/prepare.py", "benchmarks/loader.py", "benchmarks/raw_images.py")
MAY_CONVERT = ("launch/invert.py", "launch/target_images.py")
"""Those that read single images as `prepare` does."""
"""The modules that pack image collections, which `prepare` and benchmarks of loading use."""


def reached_into(source: str) -> set[str]:
    """The names that a module's source imports from inside the package, other than its exports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith(PACKAGE + ".")}
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            found |= {alias.name for alias in node.names} - set(data_pipeline.__all__)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE + "."):
            found.add(str(node.module))
    return found


def test_other_folders_import_only_what_is_exported() -> None:
    files = [
        path for room in ("trainer", "launch", "benchmarks") for path in (ROOT / room).rglob("*.py")
    ]
    assert len(files) > 100
    found = {path.relative_to(ROOT).as_posix(): reached_into(path.read_text()) for path in files}
    allowed = {f"{PACKAGE}.prepare.convert", f"{PACKAGE}.prepare.prepare"}
    assert {path for path, names in found.items() if names} == {*MAY_PREPARE, *MAY_CONVERT}
    assert all(found[path] == allowed for path in MAY_PREPARE)
    assert all(found[path] == {f"{PACKAGE}.prepare.convert"} for path in MAY_CONVERT)


def test_what_reaches_deeper_is_found() -> None:
    assert reached_into("from realness.data_pipeline.order import parts_of_rank")
    assert reached_into("import realness.data_pipeline.stream")
    assert reached_into("def f():\n    from realness.data_pipeline import order")
    assert not reached_into("from realness.data_pipeline import ImageStream, open_catalog")


def test_only_the_stream_loads_torch() -> None:
    code = (
        "import sys\n"
        "from realness import data_pipeline\n"
        "lazy = {'ImageStream', 'StreamSettings'}\n"
        "for name in sorted(set(data_pipeline.__all__) - lazy): getattr(data_pipeline, name)\n"
        "assert 'torch' not in sys.modules\n"
        "for name in lazy: getattr(data_pipeline, name)\n"
        "assert 'torch' in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
