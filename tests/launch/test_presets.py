"""Presets against what their papers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy import special

from realness.launch.presets import preset
from realness.launch.train_arguments import parse
from realness.trainer.config import ConfigError, TrainConfig, flatten, to_json, with_fields
from realness.trainer.objectives.anchors import AnchorPair
from realness.trainer.objectives.configs import RealnessConfig
from realness.trainer.updates.build import build_networks
from tests.helpers import DATA


def anchors(config: TrainConfig) -> AnchorPair:
    objective = config.objective
    assert isinstance(objective, RealnessConfig)
    return objective.anchor.build(objective.num_outcomes).typical


@pytest.mark.parametrize("data", ["ffhq1024", "ffhq256", "celeba256"])
def test_the_anchors_are_those_of_table_1(data: str) -> None:
    """Table 1's row of CelebA is Table 2's row of D_KL = 11.05."""
    pair = anchors(preset(f"{data}-realness-dcgan"))
    assert len(pair.real) == 51
    # The solver finds the factor of the skews to 2e-12, and D_KL has a slope of some 10 in it.
    assert special.rel_entr(pair.real, pair.fake).sum() == pytest.approx(11.05, abs=1e-9)
    # Section 4: a positive and a negative skewness, here mirror images of each other.
    assert pair.real == pytest.approx(pair.fake[::-1])
    assert pair.real @ range(51) > pair.fake @ range(51)


def test_cifar10_as_in_the_paper_and_as_its_author_trained_it() -> None:
    paper, author = (flatten(preset(f"cifar10-realness{name}-dcgan")) for name in ("", "-author"))
    assert (paper["k_g"], paper["resample"], paper["num_outcomes"]) == (1, "gaussian", 3)
    changed = {name for name in paper if paper[name] != author[name]} - {"preset"}
    assert changed == {"k_g", "resample"}
    assert (author["k_g"], author["resample"]) == (3, "none")


def dcgan_parameters(channels: list[int], z_dim: int, num_outputs: int) -> tuple[int, int]:
    """Parameters of G and D whose stages have these channels, from the sides of 4 on.

    All kernels are 4x4 without bias; batch normalisation has a scale and a shift per channel; D's
    head is linear on 4 x 4 x channels[0] features.
    """
    stages = sum(16 * a * b for a, b in zip(channels, [*channels[1:], 3], strict=True))
    g = 16 * z_dim * channels[0] + stages + 2 * sum(channels)
    return g, stages + 16 * channels[0] * num_outputs


@pytest.mark.parametrize(
    ("name", "channels", "outputs"),
    [
        ("cifar10-realness-dcgan", [1024, 512, 256], 3),
        ("cifar10-standard-dcgan", [1024, 512, 256], 1),
        ("celeba256-realness-dcgan", [1024, 512, 256, 128, 64, 32], 51),
        ("fashion32-standard-dcgan", [128, 64, 32], 1),
    ],
)
def test_dcgans_have_radfords_width(name: str, channels: list[int], outputs: int) -> None:
    """1,024 channels at 4x4 at any resolution, except in the lecture's small DCGAN."""
    with torch.device("meta"):
        g, d, _ = build_networks(preset(name))
    counts = tuple(sum(weight.numel() for weight in net.parameters()) for net in (g, d))
    assert counts == dcgan_parameters(channels, 128, outputs)


def test_p2gans_dcgan_is_realnessgans() -> None:
    ours, theirs = (flatten(preset(f"cifar10-{name}-dcgan")) for name in ("p2gan", "realness"))
    assert ours["g_width"] == ours["d_width"] == theirs["g_width"] == 256


def test_the_width_can_be_computed(tmp_path: Path) -> None:
    auto = ["--g-width", "auto", "--d-width", "auto"]
    for resolution, width in ((32, 256), (64, 128), (256, 32), (1024, 8)):
        flags = ["--preset", "celeba256-lsgan-dcgan", "--resolution", str(resolution), *auto]
        values = flatten(parse(flags).config)
        assert (values["g_width"], values["d_width"]) == (width, width)
    for kind, name in (("generator", "--g-width"), ("discriminator", "--d-width")):
        with pytest.raises(ConfigError, match=f"{name}=auto .* --{kind} resnet; give a number"):
            parse(["--preset", "cifar10-far-resnet", name, "auto"])


def test_recorded_runs_keep_the_width_and_the_anchors_they_had(tmp_path: Path) -> None:
    """A config.json holds every field, so that presets may change."""
    file = tmp_path / "config.json"
    for name in ("cifar10-realness-dcgan", "celeba256-realness-dcgan"):
        old = with_fields(preset(name), g_width=32, d_width=32, anchor_kl=None)
        file.write_text(to_json(old))
        assert parse(["--config", str(file)]).config == old
    recorded = DATA / "run_0_1_0" / "config.json"
    fields = json.loads(recorded.read_text())
    values = flatten(parse(["--config", str(recorded)]).config)
    assert values["preset"] == "cifar10-realness-dcgan"
    assert values["g_width"] == fields["g"]["g_width"]
    assert values["anchor_kl"] == fields["objective"]["anchor"]["anchor_kl"]
