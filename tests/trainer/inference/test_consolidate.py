"""consolidate.py: writes every network of a sharded checkpoint to one complete file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from realness.launch import consolidate
from realness.trainer import checkpoint
from realness.trainer.checkpoint.fragments import replicated, share_of
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.inference import consolidate as consolidation
from realness.trainer.storage.run_folder import read_config, write_config
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.ema import Ema
from tests.helpers import ROOT
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import systems

FILES = ["D.safetensors", "G-ema.safetensors", "G.safetensors", "config.json"]
# Spectral norm with its vectors, and codes with their running moments.
KINDS = ("realness", "p2gan")


def networks(config: TrainConfig, images: int) -> dict[str, torch.nn.Module]:
    """G, its average and D, with values that depend on `images`."""
    generator, discriminator, _ = build_networks(config)
    average = Ema(generator, 1000).module
    modules = {"G": generator, "EMA": average, "D": discriminator}
    for number, module in enumerate(modules.values()):
        for value in module.state_dict().values():
            value.copy_((value + number + images).to(value.dtype))
    return modules


def write_checkpoint(run: Path, config: TrainConfig, images: int) -> None:
    """One rank's part of a checkpoint, with moments, which are not part of a network."""
    fragments = replicated("G.exp_avg", {"weight": torch.zeros(9)})
    for name, module in networks(config, images).items():
        fragments += replicated(f"{name}.model", module.state_dict())
    fragments = [share_of(item, rank(), world_size()) for item in fragments]
    position = checkpoint.Position(images, {"G": 1, "D": 1}, "digest")
    checkpoint.save(run / "checkpoints", fragments, position, keep=9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind with two checkpoints, written by two ranks."""
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind)
        write_config(folders[kind], systems()[kind])
        for images in (80, 160):
            run_on_ranks(2, write_checkpoint, folders[kind], systems()[kind], images)
    return folders


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("which", "images"), [("latest", 160), ("80", 80)])
def test_the_files_hold_the_networks(
    runs: dict[str, Path], tmp_path: Path, kind: str, which: str, images: int
) -> None:
    out = tmp_path / "new" / "out"
    assert consolidate.main([str(runs[kind]), str(out), "--checkpoint", which]) == 0
    assert sorted(os.listdir(out)) == FILES
    config = read_config(out)
    assert (config.g, config.d, config.objective) == (
        systems()[kind].g,
        systems()[kind].d,
        systems()[kind].objective,
    )
    expected = networks(config, images)
    for name, file in (("G", FILES[2]), ("EMA", FILES[1]), ("D", FILES[0])):
        stored, wanted = load_file(out / file), expected[name].state_dict()
        assert stored.keys() == wanted.keys()
        assert all(torch.equal(stored[key], wanted[key]) for key in wanted)
        with safe_open(out / file, framework="pt") as opened:
            assert opened.metadata()["images_seen"] == str(images)
            assert opened.metadata()["network"] == file.removesuffix(".safetensors")


@pytest.mark.slow
def test_it_needs_no_deepspeed(runs: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom realness.launch import consolidate\n"
        "print(consolidate.main(sys.argv[1:]), 'deepspeed' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs["realness"]), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    assert consolidate.main([str(item) for item in arguments]) == code
    return capsys.readouterr().err


def test_what_is_there_is_not_replaced_unless_asked(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert consolidate.main([str(runs["realness"]), str(tmp_path)]) == 0
    before = (tmp_path / "G.safetensors").read_bytes()
    older = (runs["realness"], tmp_path, "--checkpoint", 80)
    assert "holds G.safetensors" in refused(capsys, *older)
    assert (tmp_path / "G.safetensors").read_bytes() == before
    assert consolidate.main([*map(str, older), "--force"]) == 0
    assert (tmp_path / "G.safetensors").read_bytes() != before
    assert sorted(os.listdir(tmp_path)) == [*FILES, "notes.txt"]


def test_a_full_disk_leaves_what_was_there(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third file does not fit on the disk."""
    write_weights, room = consolidation.write_weights, [2]

    def limited(*arguments: Any) -> None:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= 1
        write_weights(*arguments)

    assert consolidate.main([str(runs["realness"]), str(tmp_path)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(consolidation, "write_weights", limited)
    arguments = (runs["realness"], tmp_path, "--checkpoint", 80, "--force")
    assert "No space left" in refused(capsys, *arguments, code=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_wrong_input_is_explained(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = runs["realness"], tmp_path / "out"
    assert "holds no checkpoint" in refused(capsys, tmp_path, out)
    assert "80, 160" in refused(capsys, run, out, "--checkpoint", 81)
    assert "name one checkpoint" in refused(capsys, run, out, "--checkpoint", "all")

    config = json.loads((run / "config.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    assert "config.json is not a valid configuration" in refused(capsys, copy, out)
    config["d"]["d_width"] *= 2
    (copy / "config.json").write_text(json.dumps(config))
    assert "the architecture differs" in refused(capsys, copy, out)
    assert not out.exists() or not os.listdir(out)


def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = systems()["realness"]
    write_config(tmp_path, config)
    write_checkpoint(tmp_path, config, 80)
    share = next(tmp_path.glob("checkpoints/*/rank-*"))
    content = bytearray(share.read_bytes())
    content[-1] ^= 1
    share.write_bytes(content)
    assert "does not have the size or checksum" in refused(capsys, tmp_path, tmp_path / "out")
