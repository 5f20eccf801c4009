"""The precision of presets at 1024x1024 follows the device, unless something else decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from realness.launch.machine_defaults import MIXED_PRESETS
from realness.launch.presets import PRESETS, preset
from realness.launch.train_arguments import parse
from realness.trainer.config import with_fields
from realness.trainer.storage.run_folder import write_config


def precision(*flags: str) -> str:
    return parse(flags).config.engine.precision


def test_the_presets_are_those_at_1024() -> None:
    assert {name for name in PRESETS if preset(name).data.resolution == 1024} == set(MIXED_PRESETS)


def test_bf16_is_for_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    large, small = "ffhq1024-stylegan2", "ffhq256-stylegan2"
    assert precision("--preset", large, "--device", "cpu") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision("--preset", large) == "bf16"
    assert precision("--preset", small) == "fp32"
    assert precision("--preset", large, "--device", "cpu") == "fp32"
    assert precision("--preset", large, "--precision", "fp32") == "fp32"
    file = tmp_path / "file.toml"
    file.write_text('precision = "fp32"\n')
    assert precision("--preset", large, "--config", str(file)) == "fp32"


@pytest.mark.parametrize("recorded", ["fp32", "bf16"])
def test_a_run_keeps_its_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: recorded == "fp32")
    name = "ffhq1024-realness-dcgan"
    write_config(tmp_path, with_fields(preset(name), precision=recorded))
    assert precision("--preset", name, "--run-dir", str(tmp_path)) == recorded
