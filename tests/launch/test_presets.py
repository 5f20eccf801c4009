"""Presets against what their papers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy import special

from realness.launch.presets import PRESETS, preset
from realness.launch.protocols import PAPERS
from realness.launch.train_arguments import parse
from realness.trainer.checkpoint import Retention
from realness.trainer.config import ConfigError, TrainConfig, flatten, to_json, with_fields
from realness.trainer.objectives.anchors import AnchorPair
from realness.trainer.objectives.configs import RealnessConfig
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.schedule import is_due
from tests.helpers import DATA, ROOT


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


def test_two_shapes_of_anchors_at_one_divergence() -> None:
    """Section 4.3's pairs have D_KL = 11.95 and 11.67, by the flags in docs/methods.md."""
    page = (ROOT / "docs" / "methods.md").read_text()
    pairs = []
    for kl, flags in (
        (11.95, "--anchor-kl 11.95"),
        (11.67, "--anchor-kl 11.67 --anchor-loc 0.4 --anchor-scale 0.6"),
    ):
        assert f"\n  {flags}\n" in page
        pair = anchors(parse(["--preset", "celeba256-realness-dcgan", *flags.split()]).config)
        assert special.rel_entr(pair.real, pair.fake).sum() == pytest.approx(kl, abs=1e-9)
        pairs.append(pair)
    # The shapes differ: a quarter of the mass of A1 is elsewhere (total variation).
    assert abs(pairs[0].real - pairs[1].real).sum() / 2 > 0.25


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


def with_protocol(name: str, *flags: str) -> TrainConfig:
    return parse(["--preset", name, "--protocol", "paper", *flags]).config


def test_table_1_can_be_computed_from_the_scores() -> None:
    """RealnessGAN scores raw G at 20,000, 30,000, ... iterations, without flips."""
    config = with_protocol("celeba256-realness-dcgan")
    settings = flatten(config)
    assert not settings["mirror"]
    assert (settings["metrics_weights"], settings["metrics_resize"]) == ("raw", "network")
    assert {"swd", "fid"} == set(settings["metrics"].split(","))
    # FID of 50,000 images; SWD takes 16,384 of them (Karras et al., 2018).
    assert settings["metrics_images"] == 50_000

    steps = range(0, config.num_images + 1, config.batch_size)
    scored = [n for n in steps if n and is_due(settings["metrics_kimg"], n, config.batch_size)]
    assert [n / config.batch_size for n in scored] == list(range(10_000, 520_001, 10_000))
    saved = [n for n in steps if n and is_due(settings["checkpoint_kimg"], n, config.batch_size)]
    kept = Retention(3, settings["keep_checkpoint_kimg"] * 1000).kept_forever(saved)
    assert sorted(kept) == scored


def test_each_paper_is_scored_in_its_own_way() -> None:
    far, p2gan = (flatten(with_protocol(f"cifar10-{name}-resnet")) for name in ("far", "p2gan"))
    assert (far["metrics_images"], far["metrics_weights"], far["mirror"]) == (10_000, "ema", True)
    assert set(far["metrics"].split(",")) == {"is", "fid"}
    assert far["metrics_kimg"] * 1000 == 10_000 * 64
    assert (p2gan["metrics_images"], p2gan["metrics_weights"]) == (50_000, "raw")
    assert (p2gan["mirror"], p2gan["metrics"]) == (False, "fid")


def test_flags_override_the_protocol_and_config_json_has_its_fields(tmp_path: Path) -> None:
    flags = ["--mirror", "--metrics-images", "5000", "--batch-size", "64"]
    config = with_protocol("cifar10-realness-dcgan", *flags)
    assert (config.data.mirror, config.metrics.metrics_images) == (True, 5000)
    assert config.metrics.metrics_kimg == 640
    file = tmp_path / "config.json"
    file.write_text(to_json(config))
    # The file alone resumes the run, and so does the command with the file.
    assert parse(["--config", str(file)]).config == config
    again = parse(["--config", str(file), "--protocol", "paper", *flags]).config
    assert again == config
    assert preset("cifar10-realness-dcgan").data.mirror


def test_a_protocol_is_refused_where_no_paper_has_scores() -> None:
    without = set(PRESETS) - set(PAPERS)
    assert set(PAPERS) <= set(PRESETS)
    assert {"demo", "small-256", "ffhq256-realness-stylegan2"} <= without
    for name in sorted(without):
        with pytest.raises(ConfigError, match=f"no paper has scores of the preset '{name}'; leave"):
            with_protocol(name)


def test_p2gans_epochs_are_those_of_the_images_that_are_read() -> None:
    """Section 5.2: 10 epochs of pretraining on CIFAR10, 2 on CelebA; rates fall every 50 epochs.

    CIFAR10's training batches have 5 x 10,000 images, CelebA 202,599.
    """
    for name, epoch, pretrained in (("cifar10", 50.0, 10), ("celeba64", 202.599, 2)):
        settings = flatten(preset(f"{name}-p2gan-resnet"))
        assert settings["pretrain_kimg"] == pytest.approx(pretrained * epoch)
        assert settings["lr_step_kimg"] == pytest.approx(50 * epoch)


@pytest.mark.parametrize("resolution", [32, 64])
def test_p2gan_on_stylegan2_is_celebas_p2gan_for_7000_kimg(resolution: int) -> None:
    config = preset(f"celeba{resolution}-p2gan-stylegan2")
    assert (config.total_kimg, config.data.resolution) == (7000, resolution)
    assert config.objective == preset("celeba64-p2gan-resnet").objective
    # Table 4's baseline has the same networks and length.
    flags = ["--preset", config.preset, "--objective", "standard"]
    baseline, expected = parse(flags).config, preset("ffhq256-stylegan2")
    assert baseline.objective == expected.objective
    assert (baseline.optimizer, baseline.penalty) == (expected.optimizer, expected.penalty)


@pytest.mark.parametrize(
    ("name", "of_g", "of_d"),
    [
        ("cifar10-r3gan", 20_732_160, 20_683_776),
        ("ffhq64-r3gan", 22_429_824, 22_381_440),
        ("ffhq256-r3gan", 23_057_952, 23_009_568),
    ],
)
def test_r3gans_presets_have_its_networks(name: str, of_g: int, of_d: int) -> None:
    with torch.device("meta"):
        networks = build_networks(preset(name))[:2]
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [of_g, of_d]


def test_r3gans_presets_are_its_table() -> None:
    """Batch, gamma, the probability of augmentation, the average's half-life, its schedule."""
    table = {
        "cifar10-r3gan": (512, 0.05, 0.55, 5e3, 20e3),
        "ffhq64-r3gan": (256, 2.0, 0.3, 500, 20e3),
        "ffhq256-r3gan": (256, 150.0, 0.3, 500, 20e3),
        "imagenet32-r3gan": (4096, 0.5, 0.5, 50e3, 200e3),
        "imagenet64-r3gan": (4096, 1.0, 0.4, 50e3, 200e3),
    }
    names = ("batch_size", "r1_gamma", "augment_p", "ema_halflife_final_kimg", "schedule_kimg")
    for name, row in table.items():
        fields = flatten(preset(name))
        assert tuple(fields[key] for key in names) == row
        assert fields["r2_gamma"] == fields["r1_gamma"]
        assert fields["r2_gamma_final"] == fields["r1_gamma_final"] == fields["r1_gamma"] / 10
        assert (fields["ema_halflife_kimg"], fields["beta2"], fields["beta2_final"]) == (
            0,
            0.9,
            0.99,
        )
        assert fields["lr_g"] * fields["lr_final"] == 5e-5
        assert (fields["z_dim"], fields["beta1"], fields["lr_g"]) == (64, 0.0, 2e-4)
        assert (fields["augment_ops"], fields["precision"]) == ("bgc0.5x", "bf16")
