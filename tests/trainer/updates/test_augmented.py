"""Augmentation in the updates: what D sees, what penalties differentiate by, and resuming."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from realness.trainer.augment.augmentation import Augmentation
from realness.trainer.augment.strength import AdaptiveStrength
from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.config import ConfigError, PenaltyConfig, TrainConfig, with_fields
from realness.trainer.randomness import Stream
from realness.trainer.run.data import open_data
from realness.trainer.updates.sharded_gan import ShardedGan, build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers.ranks import (
    finish,
    run_on_ranks,
    start_training,
    tiny_arguments,
    wait_for,
    write_images,
)
from tests.helpers.systems import BATCH, systems

CPU = torch.device("cpu")


def images(seed: int, count: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


def updated(
    config: TrainConfig, steps: int = 2
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Statistics of all updates, and the weights and buffers afterwards."""
    gan, seen = build_gan(config, CPU), []
    for step in range(steps):
        first_sample = step * BATCH
        real = gan.normalise(images(step, config.num_real), Stream.D_REAL, first_sample)
        stats = update_d(gan, real, first_sample)
        needed = gan.objective.needs_real_in_g_step
        real = gan.normalise(images(9 + step), Stream.G_REAL, first_sample) if needed else None
        stats |= update_g(gan, real, first_sample)
        seen.append({name: value.item() for name, value in stats.items()})
    state = {
        f"{engine.name}/{name}": value.clone()
        for engine in (gan.g, gan.d)
        for name, value in engine.module.state_dict().items()
    }
    gan.close()
    return seen, state


def both(config: TrainConfig, fields: dict[str, Any]) -> list[Any]:
    return [updated(config), updated(with_fields(config, **fields))]


@pytest.mark.parametrize("name", ["realness-r1", "far", "p2gan", "relativistic-r1-r2"])
def test_with_probability_0_nothing_changes_to_the_bit(name: str) -> None:
    [[(plain, expected), (stats, state)]] = run_on_ranks(
        1, both, systems()[name], dict(augment="fixed", augment_p=0.0, augment_ops="bgcfnx")
    )
    assert [{**values, "augment_p": 0.0} for values in plain] == stats
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


def captured(config: TrainConfig) -> dict[str, list[Tensor]]:
    """What D is given in one update of each network: images [B, ...] per forward pass."""
    gan = build_gan(config, CPU)
    seen: dict[str, list[Tensor]] = {"d": [], "g": []}
    real = gan.normalise(images(0), Stream.D_REAL, 0)
    for name, update in (("d", update_d), ("g", update_g)):

        def keep(_: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
            seen[name].append(inputs[0].detach().clone())

        hook = gan.d.module.register_forward_pre_hook(keep)
        update(gan, real, 0)
        hook.remove()
    gan.close()
    return seen


def test_d_sees_only_augmented_images() -> None:
    """Cutout with probability 1 leaves its mark on every image."""
    config = with_fields(systems()["realness-r1"], augment="fixed", augment_ops="x", augment_p=1.0)
    [seen] = run_on_ranks(1, captured, config)
    # A square of half the side is 0: 256 pixels, or at least 64 at a corner.
    for passes in seen.values():
        assert passes
        for batch in passes:
            assert ((batch == 0).all(1).sum((1, 2)) >= 64).all()


def r1_by_hand(config: TrainConfig) -> tuple[float, float]:
    """R1 of the first update, logged and from its definition, and without the augmentation."""
    gan = build_gan(config, CPU)
    real = gan.normalise(images(0), Stream.D_REAL, 0)
    view, draws = gan.view(0), gan.draws(Stream.D_REAL, 0)
    gan.d.module.train()
    x = real.clone().requires_grad_()
    score = gan.objective.score(gan.d.module(view(x, draws)).float())
    (slope,) = torch.autograd.grad(score.sum(), x)
    by_hand = slope.square().sum((1, 2, 3)).mean().item()
    logged = update_d(gan, real, 0)["r1"].item()
    gan.close()
    return logged, by_hand


def test_r1_is_taken_with_respect_to_the_image_before_augmentation() -> None:
    config = replace(
        systems()["lecture"], penalty=PenaltyConfig(r1_gamma=1.0)
    )  # D without spectral normalisation, whose power iteration moves between two passes
    config = with_fields(config, augment="fixed", augment_ops="bgcfnx", augment_p=0.7)
    [(logged, by_hand)] = run_on_ranks(1, r1_by_hand, config)
    assert logged == pytest.approx(by_hand, rel=1e-5)


def adapted(config: TrainConfig, steps: int) -> list[float]:
    gan = build_gan(config, CPU)
    seen = []
    for step in range(steps):
        rows = slice(gan.local_batch * torch.distributed.get_rank(), None)
        real = images(step)[rows][: gan.local_batch]
        stats = update_d(gan, gan.normalise(real, Stream.D_REAL, step * BATCH), step * BATCH)
        seen.append(stats["augment_p"].item())
    gan.close()
    return seen


def test_p_is_one_value_on_all_ranks_and_moves_every_four_updates() -> None:
    config = with_fields(
        systems()["lecture"], augment="ada", augment_speed_kimg=0.16, augment_target=-0.9, lr_d=1e-6
    )
    one, two = run_on_ranks(1, adapted, config, 9), run_on_ranks(2, adapted, config, 9)
    # 4 updates of 8 images move p by 32 / 160; D's scores of real images are not all negative.
    assert one[0] == pytest.approx([0.0] * 4 + [0.2] * 4 + [0.4])
    assert two == [one[0], one[0]]


def state_of(gan: ShardedGan) -> dict[str, Fragment]:
    return {whole.name: whole for whole in gan.target_state() if whole.name.startswith("augment/")}


def resumed_fields(config: TrainConfig) -> list[str]:
    gan = build_gan(config, CPU)
    names = sorted(state_of(gan))
    optional = all(whole.optional for whole in state_of(gan).values())
    gan.close()
    return [*names, str(optional)]


def test_the_state_of_ada_belongs_to_the_checkpoint() -> None:
    config = systems()["realness-augmented"]
    [found] = run_on_ranks(1, resumed_fields, config)
    names = ["augment/num_updates", "augment/p", "augment/r_t", "augment/signs"]
    assert found == [*names, "True"]


def augmented_records(run: Path) -> list[tuple[float, ...]]:
    lines = (run / "stats.jsonl").read_text().splitlines()
    keys = ("images", "loss_d", "loss_g", "augment_p", "r_t")
    return [tuple(json.loads(line)[key] for key in keys) for line in lines]


@pytest.mark.slow
def test_killed_and_resumed_ada_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", 16)
    flags = ["--augment", "ada", "--augment-speed-kimg", "0.2", "--augment-target", "0.1"]
    flags += ["--total-kimg", "0.4", "--checkpoint-kimg", "0.04", "--r1-gamma", "1"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    codes, output = finish(start_training(tiny_arguments(data, straight, *flags), 2))
    assert codes == [0, 0], output
    assert "augment p" in output
    ranks = start_training(tiny_arguments(data, killed, *flags), 2, log=tmp_path / "log")
    wait_for(killed / "checkpoints" / "latest", ranks)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    finish(ranks)
    codes, output = finish(start_training(tiny_arguments(data, killed, *flags), 2))
    assert codes == [0, 0], output
    assert augmented_records(killed) == augmented_records(straight)
    assert len({p for *_, p, _ in augmented_records(straight)}) > 3
    # A run may also start to augment when it is resumed.
    plain = tiny_arguments(data, tmp_path / "plain", "--total-kimg", "0.04")
    assert finish(start_training(plain, 1))[0] == [0]
    longer = tiny_arguments(data, tmp_path / "plain", *flags, "--accept-config-change")
    codes, output = finish(start_training(longer, 1))
    assert codes == [0], output


@pytest.mark.parametrize("objective", ["wgan", "relativistic"])
def test_objectives_without_an_undecided_score_are_refused(objective: str) -> None:
    config = systems()["lecture"]
    with pytest.raises(ConfigError, match=f"--objective={objective} has no score .* fixed or sch"):
        with_fields(config, objective=objective, augment="ada")
    assert with_fields(config, objective=objective, augment="fixed").augment.name == "fixed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(augment="ada", augment_ops="bgz"), "--augment-ops=bgz: 'z' is not a group"),
        (dict(augment="diffaugment", augment_ops="colour,cutout"), "did you mean 'color'"),
        (dict(augment="fixed", augment_p=1.5), r"--augment-p=1.5 is a probability"),
        (dict(augment="ada", augment_target=1.0), r"--augment-target=1.0 .*between -1 and 1"),
        (dict(augment="ada", augment_speed_kimg=0.0), "--augment-speed-kimg=0.0 must be greater"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_fields(systems()["lecture"], **fields)


def test_lsgan_is_undecided_between_its_labels() -> None:
    gan = with_fields(systems()["lsgan"], augment="ada")
    built = gan.augment.build(
        batch_size=8, num_images=100, undecided=gan.objective.undecided, device="cpu"
    )
    assert isinstance(built.augmentation, Augmentation)
    assert isinstance(built.strength, AdaptiveStrength)
    for _ in range(4):
        built.observe(torch.tensor([0.4, 0.6, 0.7, 0.8]))
    assert built.measures(0)["r_t"].item() == pytest.approx(0.5)


def test_few_images_are_noticed_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_images(tmp_path / "images", 6)
    config = systems()["lecture"]
    config = replace(config, data=replace(config.data, data=str(data)))
    caplog.set_level("INFO")
    open_data(config)
    assert "6 images are few: D may memorise them" in caplog.text
    with pytest.raises(ConfigError, match="has 6 images, fewer than one batch of 8"):
        open_data(with_fields(config, augment="ada"))
