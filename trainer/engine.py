"""DeepSpeed around one network: the only module that imports deepspeed.

A GAN has two engines. What makes that work (each point measured against plain PyTorch):
one `backward` a step for each engine; R1's forward runs through `module`, beside the engine's; D is
frozen in G's step, or its gradients would leak into D's next step.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realness.trainer.config import ConfigError, EngineConfig, OptimizerConfig
from realness.trainer.distributed import rank, world_size
from realness.trainer.fragments import Fragment, replicated, share_of
from realness.trainer.optimizers import MOMENTS, SkipCount, allocate_state, build_optimizer


@functools.cache
def _deepspeed() -> Any:
    """The deepspeed package, joined to the process group that is already there."""
    os.environ["DS_ACCELERATOR"] = "cuda" if "nccl" in str(dist.get_backend_config()) else "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    # DeepSpeed 0.19 still calls a collective by the name that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", ".*all_gather_into_tensor.*", FutureWarning)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # With a compiler at hand DeepSpeed builds a shared-memory all-reduce for CPUs, and every
    # process leaves 66 MiB in /dev/shm behind for good. Gloo does the same work and cleans up.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    return deepspeed


def deepspeed_config(
    engine: EngineConfig, optimizer: OptimizerConfig, batch_size: int, ranks: int, stage: int
) -> dict[str, Any]:
    """The DeepSpeed configuration of one network, with the user's JSON merged over it.

    Raises ConfigError when that file is missing, is no JSON object, or switches on DeepSpeed's own
    half precision (here bf16 is autocast, so that weights and optimiser states stay fp32).
    """
    generated: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size // ranks,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip_grad_norm,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    if stage in (1, 2) and not optimizer.clip_grad_norm:
        # DeepSpeed would compute the gradient's norm all the same, and wait for it in every step.
        generated["zero_optimization"]["compute_grad_norm"] = False
    if not engine.deepspeed_config:
        return generated
    merged = _merge(generated, _read_json_object(Path(engine.deepspeed_config)))
    for key in ("fp16", "bf16"):
        if merged.get(key, {}).get("enabled"):
            raise ConfigError(
                f"{engine.deepspeed_config} enables {key!r}; use --precision bf16 instead"
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


class Engine:
    """A `Player`: a network, its optimiser and the DeepSpeed engine around both.

    `module` is the network itself; calling the engine runs it through DeepSpeed.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        device: torch.device,
        lr: float,
        optimizer: OptimizerConfig,
        bf16: bool,
        config: dict[str, Any],
    ) -> None:
        module.to(device)
        if bf16:
            # Inside the module, because DeepSpeed switches off an autocast that surrounds it.
            module.forward = torch.autocast(device.type, dtype=torch.bfloat16)(module.forward)
        self._optimizer = build_optimizer(optimizer, module.parameters(), lr)
        self._moments = MOMENTS[optimizer.optimizer]
        self.name = name
        self.module = module
        self.base_lr = lr
        self._engine, *_ = _deepspeed().initialize(
            model=module,
            optimizer=self._optimizer,
            model_parameters=list(module.parameters()),
            config=config,
        )
        allocate_state(self._optimizer, self._moments)
        self.skips = SkipCount(self._optimizer, device)

    def __call__(self, *inputs: Any) -> Tensor:
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients; DeepSpeed reduces them over ranks."""
        self.skips.mark(loss)
        self._engine.backward(loss)

    def step(self) -> None:
        """Update the weights, unless the loss was not finite on some rank; clear the gradients."""
        self._engine.step()

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate to `factor` times its base value."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.base_lr * factor

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return self._optimizer.param_groups[0]["lr"]

    def num_updates(self) -> int:
        """Updates the optimiser has made."""
        return int(next(iter(self._optimizer.state.values()))["step"])

    def owned_state(self) -> list[Fragment]:
        """The share of weights, buffers and moments that this rank writes into a checkpoint."""
        whole = replicated(f"{self.name}.model", self.module.state_dict())
        return [share_of(item, rank(), world_size()) for item in whole] + [
            share_of(item, rank(), world_size()) if self._replicated_moments() else item
            for item in self._moment_fragments()
        ]

    def target_state(self) -> list[Fragment]:
        """Everything this rank holds, as views to be filled from a checkpoint."""
        whole = replicated(f"{self.name}.model", self.module.state_dict())
        return whole + self._moment_fragments()

    @torch.no_grad()
    def finish_loading(self, num_updates: int) -> None:
        """Take over filled `target_state` views and the optimiser's count of updates."""
        self.skips.reset()
        for state in self._optimizer.state.values():
            state["step"].fill_(num_updates)
        for weight in self.module.parameters():
            mapping = getattr(weight, "_hp_mapping", None)
            if mapping is not None:
                at = mapping.lp_fragment_address
                mapping.hp_fragment.copy_(
                    weight.detach().reshape(-1)[at.start : at.start + at.numel]
                )

    def _replicated_moments(self) -> bool:
        return not self._engine.zero_optimization()

    def _moment_fragments(self) -> list[Fragment]:
        """The optimiser's moments as stretches of the parameters they belong to."""
        if self._replicated_moments():
            return [
                Fragment.whole(f"{self.name}.{key}/{name}", self._optimizer.state[weight][key])
                for name, weight in self.module.named_parameters()
                for key in self._moments
            ]
        return [
            fragment
            for name, weight in self.module.named_parameters()
            for fragment in self._partition_fragments(name, weight)
        ]

    def _partition_fragments(self, name: str, weight: nn.Parameter) -> list[Fragment]:
        """This rank's stretch of one parameter's moments under ZeRO 1 and 2, if it owns any."""
        mapping = getattr(weight, "_hp_mapping", None)
        if mapping is None:
            return []
        inside, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        partition = self._optimizer.param_groups[mapping.param_group_index]["params"][0]
        return [
            Fragment(
                f"{self.name}.{key}/{name}",
                inside.start,
                self._optimizer.state[partition][key].narrow(0, flat.start, flat.numel),
                weight.numel(),
            )
            for key in self._moments
        ]

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self._engine.destroy()
