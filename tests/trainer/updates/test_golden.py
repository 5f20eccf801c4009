"""Ten pinned losses: a refactoring must not move them.

The bound allows for other processors. A different order of sums moves a loss by 1e-6; an input of a
rectifier within rounding of 0, which takes its other slope there, by 5e-6 (measured with weights
moved by one ulp). A refactoring that changes draws or weights moves them by 1e-2.

`REALNESS_UPDATE_GOLDEN=1 pytest tests/trainer/updates/test_golden.py` rewrites them; explain why in
the commit message.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

from realness.launch.realness_presets import realness_dcgan
from realness.trainer.config import EngineConfig, PenaltyConfig, with_fields
from realness.trainer.distributed.ranks import rank
from realness.trainer.randomness import Stream
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d, update_g
from tests.helpers import DATA
from tests.helpers.ranks import run_on_ranks

GOLDEN = DATA / "realness_dcgan32.json"
BATCH, STEPS = 8, 10


def ten_losses() -> dict[str, list[float]]:
    base = with_fields(realness_dcgan(32, anchor_kl=None), g_width=8, d_width=8, z_dim=32)
    config = replace(
        with_fields(base, optimizer_eps=1e-3, lr_g=2e-3, lr_d=2e-3),
        batch_size=BATCH,
        penalty=PenaltyConfig(r1_gamma=1.0, penalty_images=2 * BATCH),
        engine=EngineConfig(device="cpu"),
    )
    gan = build_gan(config, torch.device("cpu"))
    rows = slice(rank() * gan.local_batch, (rank() + 1) * gan.local_batch)
    stats: dict[str, list[float]] = {"loss_d": [], "loss_g": []}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (2, BATCH, 3, 32, 32), generator=generator)
        images = images.to(torch.uint8)[:, rows]
        real_d = gan.normalise(images[0], Stream.D_REAL, step * BATCH)
        real_g = gan.normalise(images[1], Stream.G_REAL, step * BATCH)
        stats["loss_d"].append(update_d(gan, real_d, step * BATCH)["loss_d"].item())
        stats["loss_g"].append(update_g(gan, real_g, step * BATCH)["loss_g"].item())
    gan.close()
    return stats


@pytest.mark.parametrize("world_size", [1, 2])
def test_losses_are_the_pinned_ones(world_size: int) -> None:
    ranks = run_on_ranks(world_size, ten_losses)
    mean = {
        name: [sum(v) / len(v) for v in zip(*(r[name] for r in ranks), strict=True)]
        for name in ranks[0]
    }
    if os.environ.get("REALNESS_UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(mean, indent=1) + "\n")
    pinned = json.loads(GOLDEN.read_text())
    for name, values in mean.items():
        assert values == pytest.approx(pinned[name], rel=1e-4, abs=1e-4), name
