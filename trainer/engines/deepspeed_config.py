"""The DeepSpeed configuration of one network, generated from the run's configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from realness.trainer.config import ConfigError, TrainConfig

# Elements per reduction. DeepSpeed's default of 500 million would put all gradients of these
# networks into one reduction, which could not start before the backward pass ends, and would
# allocate 2 GiB for it, twice.
REDUCE_BUCKET = 25_000_000
# ZeRO 3: weights with at most this many elements stay whole on every rank, because gathering them
# costs more than storing them.
PERSISTENT_NUMEL = 10_000
# ZeRO 3: number of elements of the next layers' weights that are gathered ahead.
PREFETCH_NUMEL = 25_000_000


def deepspeed_config(config: TrainConfig, stage: int, ranks: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a network at a ZeRO stage; the user's JSON file overrides it.

    Raises ConfigError if that file is missing, does not contain a JSON object, or enables
    DeepSpeed's half precision (here bf16 is autocast, so that weights and optimiser states stay
    fp32) or its clipping (which synchronises with the device).
    """
    engine = config.engine
    num_passes = config.num_passes(ranks)
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        zero |= {"overlap_comm": True, "reduce_bucket_size": REDUCE_BUCKET}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    elif stage in (1, 2):
        # DeepSpeed would compute the gradient norm and synchronise with the device in every step.
        # Clipping is done by `optimizers.GradientNorm`.
        zero["compute_grad_norm"] = False
    if stage == 3:
        zero |= {
            "stage3_param_persistence_threshold": PERSISTENT_NUMEL,
            "stage3_prefetch_bucket_size": PREFETCH_NUMEL,
            # Release a layer's weights after its forward pass: by default DeepSpeed keeps up to a
            # billion elements for the backward pass, which is more than these networks have.
            "stage3_max_reuse_distance": 0,
            # DeepSpeed's replacement of F.linear cannot be differentiated twice.
            "memory_efficient_linear": False,
            # One flat piece per rank, as `optimizers.GradientNorm` expects.
            "sub_group_size": 10**12,
        }
    generated: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch_size // ranks // num_passes,
        "gradient_accumulation_steps": num_passes,
        "gradient_clipping": 0.0,
        "steps_per_print": 10**9,
        # It would synchronise with the device twice per step. `Pace` times whole intervals.
        "timers": {"throughput": {"enabled": False}},
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's Adam for the CPU would have to be compiled, and cannot skip updates.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    if engine.reduce_precision != "fp32":
        generated["communication_data_type"] = engine.reduce_precision
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
