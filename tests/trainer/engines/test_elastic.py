"""The same trajectory on any number of ranks, with any number of passes, at any stage, resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from realness.trainer import checkpoint
from realness.trainer.config import TrainConfig, with_fields
from realness.trainer.inference.trained import load_discriminator, load_generator
from realness.trainer.randomness import Stream
from realness.trainer.storage.run_folder import write_config
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.engine_runs import Stretches, play, shown, stretches
from tests.helpers.labels import labels
from tests.helpers.plain_gan import (
    ANOTHER_ORDER,
    ANOTHER_ORDER_LOSS,
    PlainGan,
    images,
    largest_error,
    tiny,
)
from tests.helpers.ranks import run_on_ranks
from tests.helpers.systems import systems

BATCH = 12
CPU = torch.device("cpu")


def at_stages(config: TrainConfig, stages: tuple[int, int], **engine: Any) -> TrainConfig:
    return replace(
        config,
        engine=replace(config.engine, zero_g=stages[0], zero_d=stages[1], **engine),  # type: ignore[arg-type]
    )


def trajectory(configs: list[TrainConfig], steps: int) -> list[tuple[Any, Stretches, np.ndarray]]:
    """This rank's losses, its state at the end, and samples of the moving average."""
    results = []
    for config in configs:
        gan = build_gan(config, CPU)
        losses = play(gan, range(steps))
        results.append((losses, stretches(gan), shown(gan, 4).numpy()))
        gan.close()
    return results


@pytest.mark.slow
def test_twenty_steps_are_the_same_on_any_ranks_in_any_passes(shard_all: Path) -> None:
    """1 to 4 ranks with and without accumulation, against one plain process; G has no batch norm.

    Measured if no rectifier takes its other slope: losses within 5e-7, weights and moments within
    3e-6, samples within 2e-7.
    """
    steps = 20
    plain = tiny(BATCH, generator="resnet")
    reference = PlainGan(plain)
    expected_losses = reference.play(range(steps))
    expected = reference.state()
    samples = []
    for ranks, stages in ((1, (0, 0)), (2, (1, 3)), (3, (2, 1)), (4, (0, 2))):
        config = at_stages(plain, stages, deepspeed_config=str(shard_all))
        part = BATCH // ranks // (3 if ranks == 4 else 2)
        configs = [config, at_stages(config, stages, micro_batch=part)]
        answers = run_on_ranks(ranks, trajectory, configs, steps)
        for case in range(len(configs)):
            losses = np.mean([answer[case][0] for answer in answers], axis=0)
            np.testing.assert_allclose(losses, expected_losses, rtol=ANOTHER_ORDER_LOSS)
            for answer in answers:
                error, name = largest_error(answer[case][1], expected)
                assert error < ANOTHER_ORDER, (
                    f"{ranks} ranks, {stages}: {name} is off by {error:.1e}"
                )
                samples.append(answer[case][2])
    for image in samples[1:]:
        np.testing.assert_allclose(image, samples[0], atol=ANOTHER_ORDER_LOSS)


@pytest.mark.slow
def test_networks_grow_alike_on_any_ranks_at_any_stage() -> None:
    """Twelve iterations with two transitions of StyleGAN2, from 8 to 32 pixels."""
    config = with_fields(
        systems()["stylegan2-growing"], batch_size=BATCH, grow_kimg=0.03, optimizer_eps=1e-3,
        lr_g=2e-4, lr_d=2e-4, minibatch_group=2,
    )  # fmt: skip
    sides = {config.growth.at(step * BATCH, 32).side for step in range(12)}
    assert sides == {8, 16, 32}
    ((losses, pieces, _),) = run_on_ranks(1, trajectory, [at_stages(config, (0, 0))], 12)[0]
    expected = {name: values for name, _, values in pieces}
    for stages in ((1, 2), (2, 0)):
        answers = run_on_ranks(2, trajectory, [at_stages(config, stages)], 12)
        found = np.mean([answer[0][0] for answer in answers], axis=0)
        np.testing.assert_allclose(found, losses, rtol=ANOTHER_ORDER_LOSS)
        for answer in answers:
            error, name = largest_error(answer[0][1], expected)
            assert error < ANOTHER_ORDER, f"{stages}: {name} is off by {error:.1e}"


def in_two_passes() -> dict[str, TrainConfig]:
    """Every objective, penalty and kind of anchors, with a G without batch normalisation."""
    configs = dict(systems())
    realness = configs["realness"]
    configs["histogram"] = with_fields(realness, resample="none", anchors="histogram")
    plain = tiny(BATCH, generator="resnet")
    chosen = {}
    for name, config in configs.items():
        has_batch_norm = config.g.name != "stylegan2"
        if has_batch_norm and (config.objective.codes or config.growth.grow_kimg):
            continue
        g = plain.g if has_batch_norm else config.g
        chosen[name] = replace(config, g=g, optimizer=replace(plain.optimizer, lr_d=1e-3))
    return chosen


def play_in_two_passes() -> None:
    for name, config in in_two_passes().items():
        states = []
        for part in (0, 4):
            gan = build_gan(at_stages(config, (1, 1), micro_batch=part), CPU)
            num_real = config.num_real
            for step in range(3):
                real = images(Stream.D_REAL, step, config.batch_size)
                chosen = labels(gan, Stream.D_REAL, step, num_real)
                update_d(gan, real[:num_real], step * config.batch_size, labels=chosen)
                compared = real if gan.objective.needs_real_in_g_step else None
                chosen = labels(gan, Stream.G_REAL, step, config.batch_size)
                update_g(gan, compared, step * config.batch_size, labels=chosen)
            states.append(stretches(gan))
            gan.close()
        expected = {tensor: values for tensor, _, values in states[0]}
        if "relativistic" in name:
            # The bias of D's head cancels in every pair, so that only rounding remains.
            for kind in ("model", "exp_avg", "exp_avg_sq"):
                del expected[f"D.{kind}/head.bias"]
        error, tensor = largest_error(states[1], expected)
        assert error < ANOTHER_ORDER, f"{name}: {tensor} is off by {error:.1e}"


@pytest.mark.slow
def test_two_passes_are_one_for_every_objective() -> None:
    run_on_ranks(1, play_in_two_passes)


def save_half(config: TrainConfig, folders: dict[tuple[int, int], Path], steps: int) -> None:
    """A run at each pair of stages, saved after `steps` iterations."""
    for stages, folder in folders.items():
        gan = build_gan(at_stages(config, stages), CPU)
        play(gan, range(steps))
        position = checkpoint.Position(steps * BATCH, gan.num_updates(), "digest")
        checkpoint.save(folder / "checkpoints", gan.owned_state(), position, keep=1)
        gan.close()


def load_and_finish(
    config: TrainConfig, folders: dict[Path, tuple[int, int]], steps: range
) -> list[Stretches]:
    """Each of the saved runs, resumed at other stages by a run that began with other weights."""
    results = []
    for folder, stages in folders.items():
        gan = build_gan(at_stages(replace(config, seed=99), stages), CPU)
        gan = replace(gan, config=at_stages(config, stages))
        position = checkpoint.restore(folder / "checkpoints", gan.target_state(), print)
        assert position is not None
        gan.finish_loading(position.num_updates)
        play(gan, steps)
        assert gan.num_updates() == {"G": steps.stop, "D": steps.stop}
        results.append(stretches(gan))
        gan.close()
    return results


@pytest.mark.slow
def test_any_ranks_and_stages_take_up_what_any_others_saved(
    tmp_path: Path, shard_all: Path
) -> None:
    """Saved by 1, 2 and 4 ranks at stages 0 to 3; resumed by 1 to 4 ranks at other stages."""
    config = at_stages(tiny(BATCH), (0, 0), deepspeed_config=str(shard_all))
    half, steps = 2, 3
    ((_, straight, _),) = run_on_ranks(1, trajectory, [config], steps)[0]
    expected = {name: values for name, _, values in straight}
    saved = {}
    for writers in (1, 2, 4):
        folders = {(s, (s + writers) % 4): tmp_path / f"{writers}-{s}" for s in range(4)}
        run_on_ranks(writers, save_half, config, folders, half)
        saved |= {folder: stages for stages, folder in folders.items()}
    for readers in (1, 2, 3, 4):
        others = {f: ((g + readers) % 4, (d + readers) % 4) for f, (g, d) in saved.items()}
        answers = run_on_ranks(readers, load_and_finish, config, others, range(half, steps))
        for answer in answers:
            for number, folder in enumerate(others):
                error, name = largest_error(answer[number], expected)
                assert error < ANOTHER_ORDER, (
                    f"{folder.name} on {readers}: {name} is off by {error:.1e}"
                )


@pytest.mark.slow
def test_a_fully_sharded_run_is_read_without_deepspeed(tmp_path: Path, shard_all: Path) -> None:
    """`generate.py` and `evaluate.py` load exactly the networks that were trained."""
    config = at_stages(tiny(BATCH), (3, 3), deepspeed_config=str(shard_all))
    write_config(tmp_path, config)
    run_on_ranks(2, save_half, config, {(3, 3): tmp_path}, 1)
    ((_, held, _),) = run_on_ranks(1, trajectory, [at_stages(config, (0, 0))], 1)[0]
    expected = {name: values for name, _, values in held}
    folder = tmp_path / "checkpoints" / f"{BATCH:012d}"
    generator, discriminator = (
        load_generator(tmp_path, folder, CPU),
        load_discriminator(tmp_path, folder, CPU),
    )
    for prefix, module in (("EMA", generator.module), ("D", discriminator.module)):
        state = [
            (f"{prefix}.model/{name}", 0, value.numpy().reshape(-1))
            for name, value in module.state_dict().items()
        ]
        assert largest_error(state, expected)[0] < ANOTHER_ORDER
        assert all(name in expected for name, _, _ in state)
