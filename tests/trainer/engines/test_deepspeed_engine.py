"""The DeepSpeed configuration, and what a user may change in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from realness.trainer.config import ConfigError, EngineConfig, TrainConfig
from realness.trainer.engines.deepspeed_config import deepspeed_config
from tests.helpers.plain_gan import tiny


def with_json(path: Path, text: str) -> TrainConfig:
    path.write_text(text)
    config = tiny(8)
    return replace(config, engine=replace(config.engine, deepspeed_config=str(path)))


def test_user_json_is_merged_over_the_deepspeed_config(tmp_path: Path) -> None:
    text = '{"zero_optimization": {"overlap_comm": false}, "wall_clock_breakdown": true}'
    merged = deepspeed_config(with_json(tmp_path / "ds.json", text), stage=2, ranks=2)
    assert merged["zero_optimization"]["overlap_comm"] is False
    assert merged["zero_optimization"]["stage"] == 2
    assert merged["wall_clock_breakdown"] is True
    assert merged["train_micro_batch_size_per_gpu"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"bf16": {"enabled": true}}', "--precision bf16"),
        ('{"gradient_clipping": 1.0}', "--clip-grad-norm"),
        ("[1]", "not an object"),
        ("{", "--deepspeed-config"),
    ],
)
def test_wrong_deepspeed_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    config = with_json(tmp_path / "ds.json", text)
    with pytest.raises(ConfigError, match=message):
        deepspeed_config(config, stage=1, ranks=1)


def test_passes_are_deepspeeds_accumulation_steps() -> None:
    config = tiny(24)
    config = replace(config, engine=replace(config.engine, micro_batch=3))
    generated = deepspeed_config(config, stage=1, ranks=2)
    assert generated["train_micro_batch_size_per_gpu"] == 3
    assert generated["gradient_accumulation_steps"] == 4
    config = replace(config, engine=replace(config.engine, micro_batch=5))
    with pytest.raises(ConfigError, match=r"--micro-batch=5 does not divide the 12 .* use 4"):
        config.check_ranks(2)


def test_offloading_needs_sharded_moments() -> None:
    with pytest.raises(ConfigError, match=r"--zero-d=0; use 1, 2 or 3"):
        EngineConfig(offload_optimizer=True, zero_g=1, zero_d=0)
