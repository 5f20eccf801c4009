"""`--init-from`, `--freeze-d` and `--freeze-g`: on one rank and two, at every ZeRO stage."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from realness.launch import export
from realness.launch.train_arguments import parse
from realness.trainer.checkpoint.fragments import replicated
from realness.trainer.config import ConfigError, EngineConfig, TrainConfig, with_fields
from realness.trainer.run.initial import start_from
from realness.trainer.storage.origin import Origin, read_origin, write_origin
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.ema import Ema
from realness.trainer.updates.freeze import layers_of
from realness.trainer.updates.sharded_gan import ShardedGan, build_gan
from tests.helpers.engine_runs import Stretches, play, stretches, whole
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.run_folders import write_run
from tests.helpers.systems import stylegan2

CPU = torch.device("cpu")
CONFIG = stylegan2("ffhq256-stylegan2")
STAGES = (1, 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights have another seed, with an origin."""
    root = tmp_path_factory.mktemp("source")
    run = write_run(root / "run", replace(CONFIG, seed=5))
    write_origin(run, Origin("ffhq.pkl", "0" * 64, "StyleGAN2", "non-commercial", True))
    return run


def started(config: TrainConfig, source: str, folder: Path) -> dict[str, Tensor]:
    """The networks of a new run that starts from `source`, by name; without engines."""
    generator, discriminator, _ = build_networks(config)
    state = replicated("G.model", generator.state_dict())
    state += replicated("D.model", discriminator.state_dict())
    state += Ema(generator, 1000).state()
    gan = SimpleNamespace(
        target_state=lambda: state,
        finish_loading=lambda _: None,
        g=SimpleNamespace(name="G"),
        d=SimpleNamespace(name="D"),
    )
    start_from(with_fields(config, init_from=source), cast(ShardedGan, gan), folder)
    return {item.name: item.data for item in state}


def with_stage(config: TrainConfig, stage: int) -> TrainConfig:
    return replace(config, engine=EngineConfig(device="cpu", zero_g=stage, zero_d=stage))  # type: ignore[arg-type]


def start_and_play(source: str, folder: str) -> list[Stretches]:
    """For every stage, this rank's state after the start and one iteration, partly frozen."""
    found = []
    for stage in STAGES:
        config = with_fields(
            with_stage(CONFIG, stage), init_from=source, freeze_d=4, freeze_g="mapping"
        )
        gan = build_gan(config, CPU)
        start_from(config, gan, Path(folder))
        play(gan, range(1))
        found.append(stretches(gan))
        gan.close()
    return found


def weights_of(run: Path) -> dict[str, Tensor]:
    """The weights in a run, by their names in checkpoints: of its own format, read by torch."""
    from safetensors.torch import load_file

    (path,) = (run / "checkpoints").rglob("*.safetensors")
    return load_file(path)


def test_a_run_starts_with_all_weights(source: Path, tmp_path: Path) -> None:
    expected = weights_of(source)
    state = started(CONFIG, str(source), tmp_path)
    assert len(expected) > 100
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    assert read_origin(tmp_path) == read_origin(source)


def test_an_export_is_a_source_too(source: Path, tmp_path: Path) -> None:
    assert export.main([str(source), str(tmp_path / "e"), "--formats", ""]) == 0
    expected, state = weights_of(source), started(CONFIG, str(tmp_path / "e"), tmp_path)
    for name, value in expected.items():
        average = name.replace("G.model", "EMA.model")
        assert torch.equal(state[name], expected[average]), (name, value)


@pytest.mark.slow
def test_ranks_and_stages_start_alike_and_frozen_layers_stay(source: Path, tmp_path: Path) -> None:
    """After one update, no weight is further from the source than the update's step.

    Four layers of D are the one from the image and a block. They and the mapping network are as in
    the source, to the bit; the other weights are not.
    """
    expected = {name: value.numpy() for name, value in weights_of(source).items()}
    answers = run_on_ranks(2, start_and_play, str(source), str(tmp_path))
    learning = 0
    for number, stage in enumerate(STAGES):
        state = whole([answer[number] for answer in answers], expected)
        for name, value in expected.items():
            group, _, key = name.partition("/")
            start = ("from_image.", "blocks.0.") if group == "D.model" else ("mapping.",)
            moved = abs(state[name] - value).max()
            if key.startswith(start):
                assert moved == 0, (stage, name)
            elif group != "EMA.model" and key != "path_length_mean":
                # Adam's first step has the size of the learning rate; and the sum is rounded.
                assert moved <= CONFIG.optimizer.lr_g + 1e-6 * abs(value).max(), (stage, name)
                learning += bool(moved)
    assert learning > len(STAGES) * 60


def test_another_resolution_takes_the_blocks_that_both_have(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    double = with_fields(CONFIG, resolution=64)
    caplog.set_level(logging.INFO)
    state, expected = started(double, str(source), tmp_path), weights_of(source)
    for side in range(3):  # blocks of 32, 16 and 8 pixels
        for part in ("conv_0.weight", "conv_1.bias", "skip.weight"):
            name = f"D.model/blocks.{side + 1}.{part}"
            assert torch.equal(state[name], expected[f"D.model/blocks.{side}.{part}"]), name
    shared = "G.model/blocks.3.convs.0.conv.weight"
    assert torch.equal(state[shared], expected[shared])
    fresh, *_ = build_networks(double)
    new = "blocks.4.convs.1.conv.weight"
    assert torch.equal(state[f"G.model/{new}"], fresh.state_dict()[new].flatten())
    assert "D: not taken: from_image.weight, from_image.bias" in caplog.text
    listed = next(line for line in caplog.messages if line.startswith("D: new"))
    assert listed == (
        "D: new, with initial values: from_image.weight, from_image.bias, blocks.0.conv_0.weight, "
        "blocks.0.conv_0.bias, blocks.0.conv_1.weight, blocks.0.conv_1.bias, blocks.0.skip.weight"
    )
    # And back: the smaller network takes the blocks that it has.
    half = write_run(tmp_path / "double", replace(double, seed=6))
    state, expected = started(CONFIG, str(half), tmp_path), weights_of(half)
    skip = "D.model/blocks.{}.skip.weight"
    assert torch.equal(state[skip.format(0)], expected[skip.format(1)])
    assert torch.equal(state["EMA.model/start"], expected["EMA.model/start"])


def test_other_outputs_are_new_and_listed(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    realness = stylegan2("ffhq256-realness-stylegan2")
    caplog.set_level(logging.INFO)
    started(realness, str(source), tmp_path)
    assert "D: new, with initial values: head.weight, head.bias" in caplog.text
    assert "D: not taken: head.weight, head.bias" in caplog.text


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ("{}/nowhere", "is not a folder; give a run, or an export"),
        ("{}", "holds no checkpoint"),
        ("{}/run:77", "--checkpoint=77 is not a checkpoint"),
        ("{}/run:all", "name one checkpoint"),
    ],
)
def test_a_missing_source_is_refused(asked: str, what: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        started(CONFIG, asked.format(source.parent), tmp_path)


def test_damage_and_other_networks_are_refused(source: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (path,) = (run / "checkpoints").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="is damaged"):
        started(CONFIG, str(run), tmp_path)
    other = with_fields(TrainConfig(), resolution=64, device="cpu", g_width=2, d_width=2)
    with pytest.raises(ConfigError, match="of which nothing fits this run"):
        started(other, str(source), tmp_path)


def test_layers_count_from_the_image() -> None:
    _, discriminator, _ = build_networks(CONFIG)
    layers = layers_of(discriminator)
    names = {id(value): name for name, value in discriminator.named_parameters()}
    assert [names[id(layer[0])] for layer in layers[:5]] == [
        "from_image.weight", "blocks.0.conv_0.weight", "blocks.0.conv_1.weight",
        "blocks.0.skip.weight", "blocks.1.conv_0.weight",
    ]  # fmt: skip
    assert len(layers) == 1 + 3 * 3 + 3
    assert sum(map(len, layers)) == len(names)
    with pytest.raises(ConfigError, match="has 13 layers; use at most 12"):
        build_gan(with_fields(CONFIG, freeze_d=13), CPU)
    with pytest.raises(ConfigError, match="--freeze-g=mapping needs a generator with a mapping"):
        with_fields(TrainConfig(), freeze_g="mapping")


def test_transfer_has_its_own_defaults(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    plain = ["--preset", "small-64"]
    started = [*plain, "--init-from", "x"]
    config = parse(started).config
    assert (config.ema_rampup, config.augment.augment_speed_kimg) == (0, 100)  # type: ignore[attr-defined]
    assert "--ema-rampup 0.0 --augment-speed-kimg 100.0" in caplog.text
    assert parse(plain).config.ema_rampup == 0.05
    assert parse([*started, "--freeze-g", "mapping"]).config.transfer.freeze_g == "mapping"
    config = parse([*started, "--ema-rampup", "0.1", "--augment", "none"]).config
    assert config.ema_rampup == 0.1
    assert "use --augment ada" in caplog.text
    file = tmp_path / "x.toml"
    file.write_text('preset = "small-64"\nema_rampup = 0.2\n')
    config = parse(["--config", str(file), "--init-from", "x"]).config
    assert (config.ema_rampup, config.augment.augment_speed_kimg) == (0.2, 100)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_resumed_run_needs_its_source_no_more(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 16)
    arguments = tiny_arguments(data, tmp_path / "run", "--device", "cpu", "--num-samples", "1")
    first = write_run(tmp_path / "first", parse(arguments).config)
    arguments += ["--init-from", str(first)]
    assert run_command([*arguments, "--total-kimg", "0.008"]) == 0
    shutil.rmtree(first)
    assert run_command([*arguments, "--total-kimg", "0.016"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "000000000016").is_dir()
