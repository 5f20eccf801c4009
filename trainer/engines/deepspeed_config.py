"""The DeepSpeed configuration of one network, made from ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from realness.trainer.config import ConfigError, TrainConfig

# Elements of one reduction. DeepSpeed's 500 million would put all gradients of our networks into
# one, which could only start when the backward pass is over, and allocate 2 GiB for it, twice.
REDUCE_BUCKET = 25_000_000
# ZeRO 3: weights of so few elements stay whole on every rank, since gathering them costs more than
# they weigh, and so many elements of the next layers' weights are gathered ahead.
PERSISTENT_NUMEL = 10_000
PREFETCH_NUMEL = 25_000_000


def deepspeed_config(config: TrainConfig, stage: int, ranks: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a network at one ZeRO stage, with the user's JSON merged over.

    Raises ConfigError when that file is missing, is no JSON object, or switches on DeepSpeed's own
    half precision (here bf16 is autocast, so that weights and optimiser states stay fp32) or its
    own clipping (which waits for the device).
    """
    engine = config.engine
    num_passes = config.num_passes(ranks)
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        zero |= {"overlap_comm": True, "reduce_bucket_size": REDUCE_BUCKET}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    elif stage in (1, 2):
        # DeepSpeed would compute the gradient's norm and wait for it in every step. We clip.
        zero["compute_grad_norm"] = False
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": PERSISTENT_NUMEL,
            "stage3_prefetch_bucket_size": PREFETCH_NUMEL,
            # Release a layer's weights after its forward pass: by default DeepSpeed would keep up
            # to a billion elements for the backward pass, which is all of our networks.
            "stage3_max_reuse_distance": 0,
            # Its replacement of F.linear cannot be differentiated twice.
            "memory_efficient_linear": False,
            # One piece a rank, which is what our clipping sees.
            "sub_group_size": 10**12,
        }
    generated: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size // ranks // num_passes,
        "gradient_accumulation_steps": num_passes,
        "gradient_clipping": 0.0,
        "steps_per_print": 10**9,
        # It would wait for the device twice in every step. We time whole intervals.
        "timers": {"throughput": {"enabled": False}},
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's Adam for the CPU would have to be compiled, and cannot leave updates out.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    if not engine.deepspeed_config:
        return generated
    merged = _merge(generated, _read_json_object(Path(engine.deepspeed_config)))
    for key in ("fp16", "bf16"):
        if merged.get(key, {}).get("enabled"):
            raise ConfigError(
                f"{engine.deepspeed_config} enables {key!r}; use --precision bf16 instead"
            )
    if merged.get("gradient_clipping"):
        raise ConfigError(
            f"{engine.deepspeed_config} sets 'gradient_clipping'; use --clip-grad-norm instead"
        )
    return merged


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--deepspeed-config={path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(
            f"--deepspeed-config={path} holds a {type(value).__name__}, not an object"
        )
    return value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _merge(inner, value)
        merged[key] = value
    return merged
