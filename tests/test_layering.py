"""The architecture: the direction of imports, and packages that only one file may import."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache

import pytest

from tests.helpers import ROOT
from tests.helpers.source_tree import (
    PRODUCT,
    imported_names,
    python_files,
    relative,
)

MAY_IMPORT = {
    "launch": {"launch", "trainer", "data_pipeline", "kernels"},
    "trainer": {"trainer", "data_pipeline", "kernels"},
    "data_pipeline": {"data_pipeline"},
    "kernels": {"kernels"},
}
"""Imports run one way: launch -> trainer -> {data_pipeline, kernels}."""

LAYERS = (
    ("config", "randomness"),
    ("distributed", "storage"),
    ("networks", "objectives", "augment", "checkpoint", "reporting"),
    ("engines",),
    ("updates",),
    ("planning", "inference", "toy"),
    ("metrics", "export"),
    ("run",),
)
"""The packages of trainer/: each imports only packages of lower layers, none of its own layer."""

LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}

ONLY_IN = {
    "deepspeed": ("trainer/engines/deepspeed_engine.py",),
    "tyro": ("launch/",),
    "matplotlib": ("trainer/metrics/show.py", "trainer/toy/figures.py"),
    "torch.utils.tensorboard": ("trainer/reporting/tensorboard.py",),
    "onnx": ("trainer/export/graphs.py",),
    "onnxruntime": ("trainer/export/graphs.py",),
    "onnxscript": ("trainer/export/graphs.py",),
    "av": ("trainer/inference/video.py",),
    "nvidia": ("data_pipeline/decoding/dali.py",),
    "realness.trainer.run": ("trainer/run/", "launch/"),
    "realness.trainer.toy": ("trainer/toy/", "launch/train_toy.py"),
}
"""Packages that only these files or folders import. (Tests and benchmarks may import any.)"""

REACHED_INTO = {
    "realness.data_pipeline.prepare.convert.Conversion",
    "realness.data_pipeline.prepare.convert.convert",
    "realness.data_pipeline.prepare.prepare.DEFAULT_SHARD_MIB",
    "realness.data_pipeline.prepare.prepare.PrepareReport",
    "realness.data_pipeline.prepare.prepare.prepare",
}
"""Modules of data_pipeline that other folders import directly, not through its `__init__`: those
of `prepare`, which training does not load."""

PRIVATE_IMPORTS = {
    "tests/data_pipeline/test_parts.py": "realness.trainer.run.outputs._shown_reals",
    "tests/trainer/reporting/test_reporter.py": "realness.trainer.storage.environment._commit",
}
"""Tests that may import a private name; no other file may."""

MOST_PACKAGES, MOST_LEVELS, MOST_ARROWS = 17, 8, 70


# --- imports of a file


@cache
def exports(folder: str) -> set[str]:
    """`__all__` of a top-level folder, read from its source."""
    for node in ast.parse((ROOT / folder / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def reaches_inside(folder: str, name: str) -> bool:
    """Whether a file of top-level `folder` imports a name that the other folder does not export."""
    _, top, *rest = [*name.split("."), ""]
    rest = rest[:-1]
    if top == folder or top not in {"data_pipeline", "kernels"} or not rest:
        return False
    return name not in REACHED_INTO and (len(rest) > 1 or rest[0] not in exports(top))


def layer_fault(path: str, name: str) -> bool:
    """Whether a file of trainer/ imports from its own layer, or one above it."""
    parts = name.split(".")
    if not path.startswith("trainer/") or parts[:2] != ["realness", "trainer"] or len(parts) < 3:
        return False
    mine, other = path.split("/")[1].removesuffix(".py"), parts[2]
    return other != mine and LAYER_OF.get(other, 99) >= LAYER_OF.get(mine, -1)


def import_faults(path: str, source: str) -> list[str]:
    """The import rules that the product's file at `path` breaks, one fault per line."""
    folder = path.split("/")[0]
    faults = []
    for name, line in imported_names(path, source):
        top, *rest = name.split(".")
        if top in PRODUCT:
            faults.append(f"{path}:{line} imports {top}; its name is realness.{top}")
        if top in {"tests", "benchmarks"}:
            faults.append(f"{path}:{line} imports {top}, which is not installed")
        if top == "realness" and rest and rest[0] not in MAY_IMPORT[folder]:
            faults.append(f"{path}:{line} imports {name}: {folder} may not")
        elif top == "realness" and reaches_inside(folder, name):
            faults.append(f"{path}:{line} imports {name}, which {rest[0]} does not export")
        if layer_fault(path, name):
            faults.append(f"{path}:{line} imports {name} from the same layer or a higher one")
        for hidden, places in ONLY_IN.items():
            if f"{name}.".startswith(f"{hidden}.") and not path.startswith(places):
                faults.append(f"{path}:{line} imports {hidden}, which only {places} may")
    return faults


def private_imports(path: str, source: str) -> list[str]:
    """The private names of other files that a file imports, each with its line."""
    return [
        f"{path}:{line} imports {name}"
        for name, line in imported_names(path, source)
        if name.startswith(("realness.", "tests.", "benchmarks.")) and "._" in name
        if PRIVATE_IMPORTS.get(path) != name
    ]


def test_imports_run_one_way() -> None:
    files = python_files()
    assert len(files) > 30
    assert [
        fault for path in files for fault in import_faults(relative(path), path.read_text())
    ] == []


def test_no_private_name_is_imported() -> None:
    files = python_files(*PRODUCT, "tests", "benchmarks")
    assert [x for path in files for x in private_imports(relative(path), path.read_text())] == []


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
        ("trainer/storage/files.py", "from realness.trainer.distributed.ranks import rank"),
        ("trainer/networks/dcgan.py", "from ..engines import trainable_network"),
        ("trainer/planning/trial.py", "from realness.trainer import inference"),
        (
            "trainer/engines/trainable_network.py",
            "if TYPE_CHECKING:\n    import realness.trainer.updates.gan",
        ),
        ("trainer/randomness.py", "import realness.trainer.config"),
        ("launch/report.py", "from realness.trainer.toy import METHODS"),
        ("trainer/export/card.py", "from realness.trainer.toy import METHODS"),
        ("launch/report.py", "from matplotlib import pyplot"),
        ("trainer/reporting/grid.py", "import av"),
        ("data_pipeline/stream.py", "from nvidia.dali import fn"),
        ("trainer/inference/trained.py", "import onnxruntime as ort"),
        ("trainer/run/data.py", "from realness.data_pipeline.order import batch_plan"),
        ("launch/prepare.py", "from realness.data_pipeline import sources"),
        ("trainer/networks/dcgan.py", "from realness.kernels import library"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str) -> None:
    assert import_faults(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("trainer/engines/deepspeed_engine.py", "import deepspeed"),
        ("trainer/reporting/page/html.py", "from realness.trainer.reporting import theme"),
        ("trainer/networks/dcgan.py", "from ..config import GeneratorConfig"),
        ("launch/prepare.py", "import tyro\nfrom realness.data_pipeline import open_catalog"),
        ("kernels/philox/op.py", "from realness.kernels.philox import reference\nimport torch"),
        ("data_pipeline/stream.py", "from realness.data_pipeline.order import batch_plan"),
        ("launch/train_ffhq.py", "from realness.trainer.run.loop import train"),
        ("trainer/networks/dcgan.py", "from realness import kernels"),
    ],
)
def test_an_allowed_import_is_no_fault(path: str, source: str) -> None:
    assert import_faults(path, source) == []


def test_a_private_import_is_found() -> None:
    assert private_imports("tests/test_x.py", "from realness.trainer.run.loop import _check")
    assert private_imports("trainer/run/loop.py", "from realness.trainer.config._base import field")
    assert not private_imports("trainer/run/loop.py", "from __future__ import annotations")
    assert not private_imports("kernels/build.py", "from torch._inductor import config")


def test_the_exceptions_are_needed() -> None:
    product = {relative(path): path.read_text() for path in python_files()}
    taken = {name for path, source in product.items() for name, _ in imported_names(path, source)}
    assert taken >= REACHED_INTO, "an exception is no longer needed"
    for path, name in PRIVATE_IMPORTS.items():
        assert name in dict(imported_names(path, (ROOT / path).read_text())), path


# --- the figures of trainer/


def trainer_imports() -> dict[str, set[str]]:
    """The packages of trainer/ (and randomness), each with the others that it imports."""
    graph: dict[str, set[str]] = {}
    for path in map(relative, python_files("trainer")):
        mine = path.split("/")[1].removesuffix(".py")
        if mine == "__init__":
            continue
        others = graph.setdefault(mine, set())
        for name, _ in imported_names(path, (ROOT / path).read_text()):
            if name.startswith("realness.trainer."):
                others.add(name.split(".")[2])
        others.discard(mine)
    return graph


def figures(graph: Mapping[str, set[str]]) -> tuple[int, int, int]:
    """Numbers of packages, of levels (packages on the longest chain) and of arrows.

    Raises ValueError, naming it, for a circle.
    """

    @cache
    def height(package: str) -> int:
        return 1 + max(map(height, graph[package]), default=0)

    for start in graph:
        reached, new = set(), {start}
        while new := {other for package in new for other in graph[package]} - reached:
            reached |= new
        if start in reached:
            raise ValueError(f"{start} imports itself by way of {sorted(reached)}")
    return len(graph), max(map(height, graph)), sum(map(len, graph.values()))


def test_the_packages_of_trainer_are_few_and_in_order() -> None:
    graph = trainer_imports()
    assert set(graph) == set(LAYER_OF)
    packages, levels, arrows = figures(graph)
    print(f"trainer: {packages} packages, {levels} levels, {arrows} arrows, no circle")
    assert packages <= MOST_PACKAGES
    assert levels <= MOST_LEVELS
    assert arrows <= MOST_ARROWS


def test_figures_of_a_known_graph() -> None:
    diamond = {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set(), "e": set()}
    assert figures(diamond) == (5, 3, 4)
    with pytest.raises(ValueError, match="by way of"):
        figures({"a": {"b"}, "b": {"c"}, "c": {"b"}})
