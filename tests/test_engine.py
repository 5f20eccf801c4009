"""Two DeepSpeed engines against plain single-process PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor

from realness.launch.presets import realness_dcgan
from realness.trainer import checkpoint
from realness.trainer.config import ConfigError, EngineConfig, PenaltyConfig, TrainConfig
from realness.trainer.distributed import rank
from realness.trainer.engine import deepspeed_config
from realness.trainer.networks import update_spectral_norm
from realness.trainer.randomness import Purpose, Stream, batch_draws
from realness.trainer.sharded_gan import ShardedGan, build_gan, build_networks
from realness.trainer.step import train_d, train_g

STEPS = 4
BATCH = 8


def tiny(stage_g: int, stage_d: int, r1_gamma: float, clip: float) -> TrainConfig:
    base = realness_dcgan(32)
    return replace(
        base,
        batch_size=BATCH,
        g=replace(base.g, g_width=4, z_dim=16),
        d=replace(base.d, d_width=4),
        objective=replace(base.objective, num_outcomes=5),
        # A large epsilon: Adam's division otherwise turns rounding of near-zero gradients into
        # steps of full size, and no two summation orders agree.
        optimizer=replace(base.optimizer, optimizer_eps=1e-3, clip_grad_norm=clip),
        penalty=PenaltyConfig(r1_gamma=r1_gamma, penalty_interval=2),
        engine=EngineConfig(zero_g=stage_g, zero_d=stage_d, device="cpu"),  # type: ignore[arg-type]
    )


def images(stream: Stream, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * stream + step)
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return pixels / 127.5 - 1


def play(gan: ShardedGan, steps: range) -> None:
    """Iterations on this rank's rows."""
    rows = slice(rank() * gan.local_batch, (rank() + 1) * gan.local_batch)
    for step in steps:
        train_d(gan, images(Stream.D_REAL, step)[rows], step * BATCH)
        train_g(gan, images(Stream.G_REAL, step)[rows], step * BATCH)


def state_of(gan: ShardedGan) -> dict[str, np.ndarray]:
    return {
        f"{engine.name}/{name}": value.numpy().copy()
        for engine in (gan.g, gan.d)
        for name, value in engine.module.state_dict().items()
    }


def assert_close(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Each tensor within 1e-5, relative to its norm."""
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        error = np.linalg.norm(state[name] - value) / (np.linalg.norm(value) + 1e-12)
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


def with_engines(config: TrainConfig) -> dict[str, Any]:
    gan = build_gan(config, torch.device("cpu"))
    play(gan, range(STEPS))
    state = state_of(gan)
    gan.close()
    return state


def with_plain_torch(config: TrainConfig) -> dict[str, np.ndarray]:
    """The same updates written out: one process, torch.optim, no engine, separate D passes."""
    g, d, objective = build_networks(config)
    penalty, optimizer = config.penalty, config.optimizer

    def adam(module: torch.nn.Module) -> torch.optim.Adam:
        betas = (optimizer.beta1, optimizer.beta2)
        return torch.optim.Adam(module.parameters(), 2e-4, betas, optimizer.optimizer_eps)

    def update(module: torch.nn.Module, adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        if optimizer.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(module.parameters(), optimizer.clip_grad_norm)
        adam.step()

    adam_g, adam_d = adam(g), adam(d)
    for step in range(STEPS):
        draws = {stream: batch_draws(config.seed, stream, step * BATCH, BATCH) for stream in Stream}
        real = images(Stream.D_REAL, step)
        fake = g(draws[Stream.D_FAKE].normal(Purpose.LATENT, config.g.z_dim)).detach()
        update_spectral_norm(d)
        real.requires_grad_()
        out_real = d(real)
        loss = objective.d_loss(out_real, d(fake), draws[Stream.D_REAL], draws[Stream.D_FAKE])
        if penalty.r1_gamma and step % penalty.penalty_interval == 0:
            score = objective.score(out_real).sum()
            (slope,) = torch.autograd.grad(score, real, create_graph=True)
            r1 = slope.square().flatten(1).sum(1).mean()
            loss = loss + penalty.penalty_interval * penalty.r1_gamma / 2 * r1
        update(d, adam_d, loss)
        with torch.no_grad():
            out_real = d(images(Stream.G_REAL, step))
        fake = g(draws[Stream.G_FAKE].normal(Purpose.LATENT, config.g.z_dim))
        loss = objective.g_loss(d(fake), out_real, draws[Stream.G_FAKE], draws[Stream.G_REAL])
        update(g, adam_g, loss)
    return {
        f"{name}/{key}": value.detach().numpy()
        for name, module in (("G", g), ("D", d))
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("world_size", "stage_g", "stage_d", "r1_gamma", "clip"),
    [
        (1, 1, 1, 10.0, 0.0),
        (2, 0, 0, 10.0, 0.0),
        (2, 1, 2, 10.0, 0.0),
        (2, 2, 1, 0.0, 0.05),
        pytest.param(2, 2, 2, 10.0, 0.05, marks=pytest.mark.slow),
        pytest.param(4, 1, 1, 10.0, 0.0, marks=pytest.mark.slow),
    ],
)
def test_engines_equal_plain_torch(
    world_size: int, stage_g: int, stage_d: int, r1_gamma: float, clip: float
) -> None:
    config = tiny(stage_g, stage_d, r1_gamma, clip)
    expected = with_plain_torch(config)
    for state in run_on_ranks(world_size, with_engines, config):
        assert_close(state, expected)


def save_halfway(config: TrainConfig, root: Path) -> None:
    gan = build_gan(config, torch.device("cpu"))
    play(gan, range(STEPS // 2))
    position = checkpoint.Position(STEPS // 2 * BATCH, gan.num_updates(), "digest")
    checkpoint.save(root, gan.owned_state(), position, keep=1)
    gan.close()


def load_and_finish(config: TrainConfig, root: Path) -> dict[str, Any]:
    gan = build_gan(replace(config, seed=99), torch.device("cpu"))
    gan = replace(gan, config=config)
    position = checkpoint.restore(root, gan.target_state(), print)
    assert position is not None
    gan.finish_loading(position.num_updates)
    play(gan, range(STEPS // 2, STEPS))
    state = state_of(gan)
    gan.close()
    return state


@pytest.mark.parametrize(
    ("writers", "stages", "readers", "other_stages"),
    [
        (2, (1, 2), 1, (0, 0)),
        (1, (0, 0), 2, (2, 1)),
        pytest.param(2, (1, 1), 4, (2, 0), marks=pytest.mark.slow),
    ],
)
def test_a_run_moves_between_ranks_and_stages(
    tmp_path: Path,
    writers: int,
    stages: tuple[int, int],
    readers: int,
    other_stages: tuple[int, int],
) -> None:
    """Half of the steps on some ranks, the rest on others that began with other weights."""
    expected = with_plain_torch(tiny(0, 0, 10.0, 0.0))
    run_on_ranks(writers, save_halfway, tiny(*stages, 10.0, 0.0), tmp_path)
    for state in run_on_ranks(readers, load_and_finish, tiny(*other_stages, 10.0, 0.0), tmp_path):
        assert_close(state, expected)


def bf16_losses(config: TrainConfig) -> tuple[list[float], bool]:
    gan = build_gan(config, torch.device("cpu"))
    losses: list[float] = []
    for step in range(STEPS):
        losses.append(train_d(gan, images(Stream.D_REAL, step), step * BATCH)["loss_d"].item())
        losses.append(train_g(gan, images(Stream.G_REAL, step), step * BATCH)["loss_g"].item())
    weights_stay_wide = all(w.dtype == torch.float32 for w in gan.g.module.parameters())
    gan.close()
    return losses, weights_stay_wide


def test_bf16_follows_fp32() -> None:
    """bf16 has 8 bits of mantissa; over four steps the losses stay within 2% of fp32's."""
    config = tiny(1, 1, 0.0, 0.0)
    half = replace(config, engine=replace(config.engine, precision="bf16"))
    (wide, _), (narrow, weights_stay_wide) = (
        run_on_ranks(1, bf16_losses, one)[0] for one in (config, half)
    )
    assert weights_stay_wide
    assert wide != narrow
    np.testing.assert_allclose(narrow, wide, rtol=0.02, atol=0.02)


def test_user_json_is_merged_over_the_deepspeed_config(tmp_path: Any) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"overlap_comm": false}, "wall_clock_breakdown": true}')
    base = tiny(2, 2, 0.0, 0.0)
    engine = replace(base.engine, deepspeed_config=str(path))
    merged = deepspeed_config(engine, base.optimizer, 8, 2, 2)
    assert merged["zero_optimization"]["overlap_comm"] is False
    assert merged["zero_optimization"]["stage"] == 2
    assert merged["wall_clock_breakdown"] is True
    assert merged["train_micro_batch_size_per_gpu"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"bf16": {"enabled": true}}', "--precision bf16"),
        ("[1]", "not an object"),
        ("{", "--deepspeed-config"),
    ],
)
def test_wrong_deepspeed_json_is_refused(tmp_path: Any, text: str, message: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text)
    base = tiny(1, 1, 0.0, 0.0)
    engine = replace(base.engine, deepspeed_config=str(path))
    with pytest.raises(ConfigError, match=message):
        deepspeed_config(engine, base.optimizer, 8, 1, 1)
