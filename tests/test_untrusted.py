"""An untrusted run folder: every command rejects a planted pickle and never runs its code.

A pickle's `__reduce__` may call anything while it is read. The one used here creates a file, the
trace, which must not exist afterwards. The commands run in this process, so no trace is missed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realness.data_pipeline import open_catalog
from realness.launch import consolidate, evaluate, export, generate, report
from realness.trainer.config import DataConfig
from realness.trainer.export import load
from realness.trainer.metrics import FeatureNetworkError, NetworkFile, RealImages, open_network
from realness.trainer.metrics.samples import NeededStatistics
from realness.trainer.reporting.realness import read_realness
from realness.trainer.storage.scores import read_records
from tests.helpers.metric_images import pictures
from tests.helpers.ranks import run_command, tiny_arguments
from tests.helpers.run_folders import write_run
from tests.launch.test_evaluate import tiny_config


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


def plain(trace: Path) -> bytes:
    return pickle.dumps(Bomb(trace))


def torch_file(trace: Path) -> bytes:
    """The output of torch.save: a zip archive with a pickle in it."""
    file = io.BytesIO()
    torch.save({"weight": Bomb(trace)}, file)
    return file.getvalue()


def numpy_file(trace: Path) -> bytes:
    file = io.BytesIO()
    np.savez(file, mean=np.array([Bomb(trace)], dtype=object))
    return file.getvalue()


BOMBS = {"pickle": plain, "torch.save": torch_file, "npz": numpy_file}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "the-bomb-went-off"


@pytest.mark.parametrize("kind", BOMBS)
def test_the_bombs_are_real(kind: str, trace: Path) -> None:
    data = BOMBS[kind](trace)
    if kind == "pickle":
        pickle.loads(data)
    elif kind == "torch.save":
        torch.load(io.BytesIO(data), weights_only=False)
    else:
        np.load(io.BytesIO(data), allow_pickle=True)["mean"]
    assert trace.exists()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid run with a checkpoint and its images, which all commands accept."""
    root = tmp_path_factory.mktemp("stranger")
    (root / "data").mkdir()
    for number, image in enumerate(pictures(16).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(root / "data" / f"{number:02d}.png")
    write_run(root / "run", tiny_config(root / "data"))
    for name, call in calls(root / "run", root).items():
        assert call() == 0, name
    (root / "run" / "metrics.csv").unlink()
    return root


def weights(run: Path) -> Path:
    return next((run / "checkpoints").rglob("*.safetensors"))


def plant_in_shard(run: Path, bomb: bytes) -> None:
    weights(run).write_bytes(bomb)


def plant_in_shard_with_its_checksum(run: Path, bomb: bytes) -> None:
    """An attacker can compute checksums too."""
    weights(run).write_bytes(bomb)
    path = weights(run).with_name("checkpoint.json")
    manifest = json.loads(path.read_text())
    manifest.pop("checksum")
    entry = next(iter(manifest["files"].values()))
    entry.update(size=len(bomb), crc32=zlib.crc32(bomb))
    checksum = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    path.write_text(json.dumps({**manifest, "checksum": checksum}))


def plant_in_manifest(run: Path, bomb: bytes) -> None:
    weights(run).with_name("checkpoint.json").write_bytes(bomb)


def plant_in_config(run: Path, bomb: bytes) -> None:
    (run / "config.json").write_bytes(bomb)


def plant_in_pointer(run: Path, bomb: bytes) -> None:
    (run / "checkpoints" / "latest").write_bytes(bomb)


PLACES = {
    "shard": plant_in_shard,
    "shard with its checksum": plant_in_shard_with_its_checksum,
    "manifest": plant_in_manifest,
    "config": plant_in_config,
}


REFUSALS = {
    "shard": "does not have the size or checksum with which it was written",
    "shard with its checksum": "is not a valid safetensors file",
    "manifest": "checkpoint.json is not a valid manifest",
    "config": "config.json is not a valid configuration",
}


def run_folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template / "run", tmp_path / "run"))


def calls(run: Path, out: Path) -> dict[str, Callable[[], int]]:
    """Every command that reads a run's checkpoints, by name."""
    few = ["--device", "cpu", "--batch-size", "4"]
    return {
        "generate": lambda: generate.main([str(run), str(out / "g"), "--num", "2", *few]),
        "evaluate": lambda: evaluate.main(
            [str(run), "--metrics", "swd", "--num-images", "4", *few]
        ),
        "export": lambda: export.main([str(run), str(out / "e"), "--formats", ""]),
        "consolidate": lambda: consolidate.main([str(run), str(out / "c")]),
    }


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("place", PLACES)
def test_a_planted_pickle_is_refused_by_every_command(
    place: str,
    kind: str,
    template: Path,
    tmp_path: Path,
    trace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_folder(template, tmp_path)
    PLACES[place](run, BOMBS[kind](trace))
    for name, call in calls(run, tmp_path).items():
        assert call() in (1, 2), name
        message = capsys.readouterr().err
        assert "Traceback" not in message, name
        assert REFUSALS[place] in message, (name, message)
        assert len(message) < 500, name
    # The report reads no checkpoint; it names an invalid configuration on the page.
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert ("config.json cannot be read" in page) == (place == "config")
    assert not trace.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_what_reports_read_may_be_a_pickle(
    kind: str, template: Path, tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(template, tmp_path)
    bomb = BOMBS[kind](trace)
    for name in ("stats.jsonl", "environment.json", "realness.jsonl", "metrics.csv"):
        (run / name).write_bytes(bomb)
    (run / "samples").mkdir()
    (run / "samples" / "000000000080.png").write_bytes(bomb)
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text()
    for name in ("environment.json", "metrics.csv", "000000000080.png"):
        assert name in page
    assert read_realness(run / "realness.jsonl") == []
    with pytest.raises(ValueError, match="metrics"):
        read_records(run)
    for which in ("generate", "export"):
        call = {"generate": generate.main, "export": export.main}[which]
        assert call([str(run), str(tmp_path / which), "--checkpoint", "best"]) == 2
        assert "metrics.csv" in capsys.readouterr().err
    assert not trace.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_pointer_that_is_a_pickle_names_no_checkpoint(
    kind: str, template: Path, tmp_path: Path, trace: Path
) -> None:
    run = run_folder(template, tmp_path)
    plant_in_pointer(run, BOMBS[kind](trace))
    for name, call in calls(run, tmp_path).items():
        assert call() == 0, name
    assert not trace.exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["shard with its checksum", "config"])
def test_training_does_not_resume_from_a_pickle(
    place: str, template: Path, tmp_path: Path, trace: Path
) -> None:
    run = run_folder(template, tmp_path)
    PLACES[place](run, torch_file(trace))
    arguments = tiny_arguments(template / "data", run, "--total-kimg", "0.1", "--device", "cpu")
    assert run_command(arguments) in (1, 2)
    assert not trace.exists()


# --- files outside a run folder


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("name", ["generator.safetensors", "config.json"])
def test_an_exported_folder_may_hold_a_pickle(
    name: str, kind: str, template: Path, tmp_path: Path, trace: Path
) -> None:
    out = tmp_path / "out"
    assert export.main([str(template / "run"), str(out), "--formats", ""]) == 0
    (out / name).write_bytes(BOMBS[kind](trace))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load(out)
    assert not trace.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_feature_network_that_is_a_pickle(kind: str, tmp_path: Path, trace: Path) -> None:
    """Rejected because of its hash, or its type if the user states the pickle's own hash."""
    path, bomb = tmp_path / "net.pt", BOMBS[kind](trace)
    path.write_bytes(bomb)
    with pytest.raises(FeatureNetworkError, match="is not loaded, because such a file is code"):
        open_network("inception", file=NetworkFile(str(path), "0" * 64))
    own = hashlib.sha256(bomb).hexdigest()
    with pytest.raises(FeatureNetworkError, match="is not a valid TorchScript file"):
        open_network("inception", file=NetworkFile(str(path), own))
    assert not trace.exists()


class Means:
    """A feature network with one output per image."""

    name, sha256, resize, is_inception = "means", "0" * 64, "clean", False

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((1, 2, 3))[:, None]

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("kind", BOMBS)
def test_cached_statistics_that_are_a_pickle_are_computed_anew(
    kind: str, template: Path, tmp_path: Path, trace: Path
) -> None:
    catalog = open_catalog(str(template / "data"))
    data = DataConfig(resolution=32, decode_threads=1, decoder="threads")
    real = RealImages(catalog, data, 8, cache=tmp_path / "cache")
    network: Any = Means()
    stages: list[str] = []

    def means() -> float:
        made = real.embedding(
            8, network, NeededStatistics(moments=True), lambda what, *_: stages.append(what)
        )
        assert made.moments is not None
        return made.moments.mean.item()

    expected = means()
    (path,) = (tmp_path / "cache" / "references").iterdir()
    path.write_bytes(BOMBS[kind](trace))
    stages.clear()
    assert means() == expected
    assert stages
    assert not trace.exists()


def test_a_torchscript_file_holds_code(tmp_path: Path) -> None:
    """The reason for the hash: loading the file executes it."""
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.ReLU()).save(str(path))
    with zipfile.ZipFile(path) as archive:
        assert any("/code/" in name for name in archive.namelist())


def test_checkpoints_hold_no_pickle(template: Path) -> None:
    for path in (template / "run").rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".safetensors", ""}, path
            assert not zipfile.is_zipfile(path)
