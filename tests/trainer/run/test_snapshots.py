"""Snapshots of the power-function averages in a run, and averages of other widths from them."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realness.launch import convert, evaluate, export, generate
from realness.trainer import checkpoint
from realness.trainer.checkpoint import Position, Retention, Saver, writer
from realness.trainer.checkpoint.choosing import choose_checkpoints
from realness.trainer.checkpoint.fragments import Fragment, replicated
from realness.trainer.config import TrainConfig, with_fields
from realness.trainer.export import load
from realness.trainer.inference.trained import build_empty_generator, load_generator
from realness.trainer.planning.memory import snapshot_bytes
from realness.trainer.run.snapshots import remove_later_snapshots, snapshot_plan
from realness.trainer.storage.checkpoint_folder import (
    checkpoint_root,
    folder_name,
    list_checkpoints,
    snapshot_root,
)
from realness.trainer.storage.run_folder import read_config, write_config
from realness.trainer.storage.scores import read_records
from realness.trainer.updates import iteration
from realness.trainer.updates.build import Blueprint, build_networks
from realness.trainer.updates.ema import PowerEma
from realness.trainer.updates.sharded_gan import build_gan
from tests.helpers.engine_runs import Stretches, play, stretches
from tests.helpers.plain_gan import ANOTHER_ORDER, largest_error, tiny
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.systems import systems

CPU = torch.device("cpu")
BATCH = 8
POWER = ("--ema", "power", "--ema-widths", "0.05,0.10", "--ema-snapshot-kimg", "0.016")
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 16)


# --- a run folder made without training: 40 updates of BATCH images


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshots every four updates of a generator that moves smoothly; one more is after the
    checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    config = with_fields(systems()["realness"], ema="power", ema_snapshot_kimg=0.032)
    config = replace(config, preset="custom", data=replace(config.data, data=str(data)))
    write_config(folder, config)
    make_snapshots(folder, config)
    return folder


def make_snapshots(folder: Path, config: TrainConfig) -> None:
    module = build_empty_generator(config, CPU)
    first = {name: value.clone() for name, value in module.state_dict().items()}
    averages = {width: PowerEma(module, width) for width in (0.05, 0.1, 0.12)}
    for step in range(1, 45):
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(first[name] * (1 + 0.5 * np.sin(step / 8)) + 0.01 * np.sqrt(step))
            else:
                value.fill_(step)
        for average in averages.values():
            average.update(module, BATCH, step * BATCH)
        position = Position(step * BATCH, {}, "")
        kept = averages[0.05].state("EMA-0.05") + averages[0.1].state("EMA-0.1")
        if step % 4 == 0:
            checkpoint.save(snapshot_root(folder), kept, position, keep=99)
        if step == 40:
            network = replicated("G.model", module.state_dict())
            whole = averages[0.05].state("EMA") + averages[0.1].state("EMA-0.1") + network
            whole += averages[0.12].state("expected")
            whole += replicated("D.model", build_networks(config)[1].state_dict())
            checkpoint.save(checkpoint_root(folder), whole, position, keep=9)


def at(run: Path) -> Path:
    return choose_checkpoints(run, "latest")[0]


def expected(run: Path) -> dict[str, torch.Tensor]:
    """The average of width 0.12 that was kept directly."""
    module = build_empty_generator(read_config(run), CPU)
    checkpoint.load(at(run), replicated("expected.model", module.state_dict()))
    return module.state_dict()


def test_another_width_is_as_if_it_had_been_kept(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """tests/trainer/updates/test_power_ema.py bounds the error; here, that the files are read.

    Ten snapshots leave a residual of 1 %, and weights move by 50 %.
    """
    found = load_generator(run, at(run), CPU, "ema-0.12")
    own = load_generator(run, at(run), CPU)
    assert (found.weights, own.weights, found.images_seen) == ("ema-0.12", "ema", 320)
    assert caplog.messages == []
    for name, value in expected(run).items():
        mine, other = found.module.state_dict()[name].double(), own.module.state_dict()[name]
        scale = float(value.double().abs().max())
        assert (mine - value).abs().max() <= 0.005 * scale, name
        if value.is_floating_point():
            assert (other - value).abs().max() > 0.02 * scale, name
        else:
            assert value == 40, "not the checkpoint's"


def test_a_width_that_was_kept_is_read(run: Path) -> None:
    for weights, name in (("ema-0.05", "EMA"), ("ema-0.1", "EMA-0.1")):
        module = build_empty_generator(read_config(run), CPU)
        checkpoint.load(at(run), replicated(f"{name}.model", module.state_dict()))
        found = load_generator(run, at(run), CPU, weights).module.state_dict()
        assert all(torch.equal(found[key], value) for key, value in module.state_dict().items())


def load_on_ranks(run: Path) -> dict[str, np.ndarray]:
    generator = load_generator(run, at(run), CPU, "ema-0.12")
    return {name: value.numpy() for name, value in generator.module.state_dict().items()}


@pytest.mark.slow
def test_ranks_compute_the_same(run: Path) -> None:
    alone = load_on_ranks(run)
    for answer in run_on_ranks(2, load_on_ranks, run):
        assert all(np.array_equal(answer[name], value) for name, value in alone.items())


def test_far_widths_and_damaged_snapshots_are_reported(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_generator(run, at(run), CPU, "ema-0.02")
    (message,) = caplog.messages
    assert "--ema-width=0.02 differs by 2" in message
    assert "9 snapshots of the widths 0.05,0.1" in message
    caplog.clear()
    file = next((snapshot_root(run) / folder_name(288)).glob("*.safetensors"))
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        load_generator(run, at(run), CPU, "ema-0.12")
    finally:
        file.write_bytes(content)
    assert "left out" in caplog.messages[0]
    assert folder_name(288) in caplog.messages[0]


def test_commands_take_a_width(run: Path, tmp_path: Path) -> None:
    wanted = load_generator(run, at(run), CPU, "ema-0.12").sample(torch.arange(3), 7)
    out, images = tmp_path / "out", tmp_path / "images"
    assert export.main([str(run), str(out), "--formats", "", "--ema-width", "0.12"]) == 0
    again = load(out).generator
    assert again.weights == "ema-0.12"
    assert torch.equal(again.sample(torch.arange(3), 7), wanted)
    assert "computed after training: ema-0.12" in (out / "README.md").read_text()
    assert convert.main([str(out), str(tmp_path / "converted")]) == 0
    assert read_config(tmp_path / "converted").average.ema == "exponential", "it has one average"
    drawn = ["--num", "3", "--seed", "7", "--device", "cpu", "--ema-width"]
    assert generate.main([str(run), str(images), *drawn, "0.12"]) == 0
    fixed = ("--metrics", "swd", "--num-images", "12", "--device", "cpu", "--batch-size", "8")
    assert evaluate.main([str(run), *fixed, "--ema-width", "0.1,0.12"]) == 0
    assert {record.weights for record in read_records(run)} == {"ema-0.1", "ema-0.12"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ema-width", "0.12", "--weights", "raw"), "leave out one of the two"),
        (("--ema-width", "0.12,0.13"), "give one width"),
        (("--ema-width", "0.3"), "less than 0.2887"),
    ],
)
def test_a_wrong_width_is_refused(
    run: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert generate.main([str(run), str(tmp_path / "out"), "--device", "cpu", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_averages_or_snapshots_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(run)
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    for ema, message in (("power", "no snapshot"), ("exponential", "with --ema power")):
        write_config(tmp_path, with_fields(config, ema=ema))
        arguments = [str(tmp_path), str(tmp_path / "out"), "--ema-width", "0.12"]
        assert generate.main([*arguments, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err


# --- in training


def states(configs: list[TrainConfig], steps: int) -> list[Stretches]:
    results = []
    for config in configs:
        gan = build_gan(config, CPU)
        play(gan, range(steps))
        assert gan.ema is gan.power[0.05]
        results.append(stretches(gan))
        gan.close()
    return results


@pytest.mark.slow
def test_averages_are_the_same_on_any_ranks_at_any_stage(shard_all: Path) -> None:
    config = with_fields(
        tiny(BATCH), ema="power", zero_g=0, zero_d=0, deepspeed_config=str(shard_all)
    )
    ((alone,),) = run_on_ranks(1, states, [config], 3)
    wanted = {name: values for name, _, values in alone}
    assert any(name.startswith("EMA-0.1.model/") for name in wanted)
    others = [with_fields(config, zero_g=stage) for stage in (2, 3)]
    for answer in run_on_ranks(2, states, others, 3):
        for found in answer:
            assert largest_error(found, wanted)[0] < ANOTHER_ORDER


run_iteration = iteration.run_iteration


def kill_after_the_second_snapshot() -> None:
    """SIGKILL at 40 images: after the snapshot at 32, before the checkpoint at 48."""
    from realness.trainer.run import loop

    def killed(gan: Any, updates: Any, real_of: Any, images: int, labels_of: Any) -> Any:
        if images == 40:
            deadline = time.monotonic() + PATIENCE_SECONDS
            snapshots = snapshot_root(Path(gan.config.run_dir))
            while not (snapshots / folder_name(32)).exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        return run_iteration(gan, updates, real_of, images, labels_of)

    loop.run_iteration = killed


def files(run: Path) -> dict[str, Any]:
    """Sizes and checksums of all snapshots, and of the newest checkpoint."""
    newest = list_checkpoints(checkpoint_root(run))[-1:]
    return {
        path.name: json.loads((path / "checkpoint.json").read_text())["files"]
        for path in [*list_checkpoints(snapshot_root(run)), *newest]
    }


@pytest.mark.slow
def test_a_kill_between_a_snapshot_and_a_checkpoint_changes_nothing(
    data: Path, tmp_path: Path
) -> None:
    lengths = ("--total-kimg", "0.072", "--checkpoint-kimg", "0.024", "--zero-g", "2")
    lengths += ("--device", "cpu", "--keep-checkpoints", "1", *POWER)
    straight, killed = (
        tiny_arguments(data, tmp_path / name, *lengths) for name in ("straight", "killed")
    )
    assert run_command(straight) == 0
    with pytest.raises(AssertionError, match="ended with -9"):
        run_command(killed, kill_after_the_second_snapshot)
    assert [int(name) for name in files(tmp_path / "killed")] == [16, 32, 24]
    assert run_command(killed) == 0
    assert [int(name) for name in files(tmp_path / "straight")] == [16, 32, 48, 64, 72]
    assert files(tmp_path / "killed") == files(tmp_path / "straight")
    found = load_generator(tmp_path / "killed", at(tmp_path / "killed"), CPU, "ema-0.12")
    assert found.images_seen == 72
    # They cannot begin in the middle.
    other = [*straight, "--ema-widths", "0.05,0.2", "--accept-config-change"]
    assert run_command([*other, "--total-kimg", "0.08"]) == 2
    # A new run from its weights can have others.
    other = [*POWER[:2], "--ema-widths", "0.00001,0.2", "--init-from", str(tmp_path / "killed")]
    other += ["--total-kimg", "0.008", "--device", "cpu"]
    assert run_command(tiny_arguments(data, tmp_path / "new", *other)) == 0


def test_a_checkpoint_waits_for_the_snapshot_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_share, order = writer._write_share, []

    def slow(staging: Path, fragments: list[Fragment]) -> Any:
        if staging.parent.name == "ema":
            time.sleep(0.2)
        order.append(staging.parent.name)
        return write_share(staging, fragments)

    monkeypatch.setattr(writer, "_write_share", slow)
    savers = [Saver(tmp_path / name, Retention(9)) for name in ("ema", "checkpoints")]
    for saver, after in zip(savers, (None, savers[0]), strict=True):
        saver.start([Fragment.whole("w", torch.zeros(2))], Position(8, {}, ""), after)
    assert [saver.wait() for saver in reversed(savers)] == [checkpoint.Outcome(8, "")] * 2
    assert order == ["ema", "checkpoints"]


def test_snapshots_after_a_checkpoint_are_removed(tmp_path: Path) -> None:
    for images in (8, 16, 24):
        weight = [Fragment.whole("w", torch.zeros(2))]
        checkpoint.save(snapshot_root(tmp_path), weight, Position(images, {}, ""), keep=9)
    remove_later_snapshots(tmp_path, 16)
    assert [int(path.name) for path in list_checkpoints(snapshot_root(tmp_path))] == [8, 16]


def test_the_plan_states_the_cost() -> None:
    config = with_fields(tiny(BATCH), total_kimg=10, ema_snapshot_kimg=2)
    assert snapshot_plan(config) == ""
    assert snapshot_bytes(config) == 0
    config = with_fields(config, ema="both")
    assert snapshot_bytes(config) == 2 * 4 * Blueprint.of(config).g.num_weights
    assert snapshot_plan(config).startswith("5 snapshots of 2 power-function averages, 0.00 GiB")
    assert "the newest 3 are kept" in snapshot_plan(with_fields(config, keep_ema_snapshots=3))
