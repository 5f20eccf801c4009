"""docs/architecture.md names what exists, and the links of every page lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.source_tree import PRODUCT, relative
from tests.test_layering import LAYERS

PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = (*PRODUCT, "benchmarks", "tests")

PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./]*)`")
NAMED = re.compile(r"`([A-Za-z_][\w.]*)`\s+\(`([\w/]+\.py)`\)")
"""A class, function or constant, followed by the file that defines it."""

LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def packages(folder: str) -> set[str]:
    """The packages below a top-level folder, as `trainer/run/`."""
    inits = (ROOT / folder).rglob("__init__.py")
    return {f"{relative(path.parent)}/" for path in inits if path.parent != ROOT / folder}


def defined_in(path: Path) -> set[str]:
    """Classes, functions, methods (`Class.method`), and names assigned in a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
    return names


def headings(page: str) -> set[str]:
    """The anchors of a page's headings, as they appear in links."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def pages() -> list[Path]:
    """Every page of the documentation."""
    folders = (ROOT, *(ROOT / name for name in ("docs", "kernels", "benchmarks")))
    return [path for folder in folders for path in sorted(folder.glob("*.md"))]


def test_it_names_every_package_and_no_other() -> None:
    named = set(PATH.findall(PAGE.read_text()))
    missing = {"trainer": packages("trainer"), "data_pipeline": packages("data_pipeline")}
    assert {folder: found - named for folder, found in missing.items()} == {
        "trainer": set(),
        "data_pipeline": set(),
    }
    assert {f"{folder}/" for folder in FOLDERS} - named - {"trainer/"} == set()
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_what_it_mentions_is_defined_where_it_says() -> None:
    mentioned = NAMED.findall(PAGE.read_text())
    assert len(mentioned) > 40
    assert [
        f"{name} is not in {path}"
        for name, path in mentioned
        if not (ROOT / path).is_file() or name not in defined_in(ROOT / path)
    ] == []


def test_its_layers_are_those_that_are_checked() -> None:
    section = PAGE.read_text().split("## Layers of the trainer")[1]
    block = section.split("```")[1]
    lines = [set(line.split()) for line in block.splitlines() if line]
    assert lines == [set(layer) for layer in reversed(LAYERS)]


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in headings(path.read_text())):
            broken.append(target)
    assert broken == []


def test_a_broken_link_is_found() -> None:
    text = "[a](b.md#c-d)\n```\n[not](a-link)\n```\n![picture](e.png)"
    assert LINK.findall(FENCE.sub("", text)) == ["b.md#c-d", "e.png"]
    assert headings("# Data on the nodes' own disks\n") == {"data-on-the-nodes-own-disks"}
