"""DeepSpeed around one network: the only module that imports deepspeed.

A GAN has two engines. That works because of the following (each verified against plain PyTorch):
R1's forward pass runs through `module`, not through the engine; D is frozen in G's step, because
its gradients would otherwise leak into D's next step; at ZeRO 3 the weights stay gathered from the
start of a forward pass that is differentiated twice until the end of its backward pass.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realness.trainer.checkpoint.fragments import Fragment, replicated, share_of
from realness.trainer.config import OptimizerConfig
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.engines.deepspeed_state import (
    EngineState,
    Replicated,
    ShardedMoments,
    ShardedWeights,
)
from realness.trainer.engines.gradient_reduction import average_gradients
from realness.trainer.engines.optimizers import (
    GradientNorm,
    SkipCount,
    allocate_state,
    build_optimizer,
    is_bad,
)

# DeepSpeed's names of the types in which gradients are reduced; None is their own, which is fp32.
REDUCED_AS = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
}
# Other settings of a user's file that choose how DeepSpeed reduces gradients.
REDUCTION_SETTINGS = (
    "gradient_predivide_factor",
    "prescale_gradients",
    "sparse_gradients",
)
# Entry in a weight's set of active modules that stops DeepSpeed's hooks from releasing it.
HELD = "held"


@functools.cache
def _deepspeed() -> Any:
    """Import deepspeed and attach it to the existing process group; returns the package."""
    os.environ["DS_ACCELERATOR"] = "cuda" if "nccl" in str(dist.get_backend_config()) else "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    # DeepSpeed 0.19 still calls collectives by names that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", ".*(all_gather_into|reduce_scatter)_tensor.*", FutureWarning)
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # If there is a compiler, DeepSpeed builds a shared-memory all-reduce for CPUs, and every
    # process leaves 66 MiB in /dev/shm permanently. Gloo does the same work and cleans up.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # ZeRO 3 compares its record of the layer order between ranks, on the host, whenever it
    # changes: in a GAN several times per update. It cannot differ, as all ranks run the same code.
    from deepspeed.runtime.zero import partitioned_param_coordinator

    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda _: None
    deepspeed.init_distributed(verbose=False)
    return deepspeed


class Engine:
    """A `TrainableNetwork`: a network, its optimiser and the DeepSpeed engine that wraps both.

    `module` is the network itself; calling the engine runs it through DeepSpeed, compiled if
    configured.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        network: nn.Module,
        *,
        lr: float,
        optimizer: OptimizerConfig,
        capturable: bool = False,
        config: dict[str, Any],
    ) -> None:
        """Create the optimiser and the DeepSpeed engine.

        network: the result of `prepare_network(module, ...)`. config: DeepSpeed's configuration.
        capturable: whether updates can be captured in CUDA graphs.
        """
        device = next(module.parameters()).device
        rate = torch.tensor(lr, device=device) if capturable else lr
        self._optimizer = build_optimizer(optimizer, module.parameters(), rate)
        self._algorithm, self._moments = optimizer.algorithm, optimizer.algorithm.moments
        self.name = name
        self.module = module
        self._network = network
        self.base_lr = self.lr = lr
        self.num_weights = sum(weight.numel() for weight in module.parameters())
        self._engine, *_ = _deepspeed().initialize(
            model=self._network,
            optimizer=self._optimizer,
            model_parameters=list(module.parameters()),
            config=config,
        )
        # Whole gradients need none of ZeRO's hooks, and DeepSpeed would copy them into its bucket
        # and back even on one rank.
        self._reduced_as = REDUCED_AS[config.get("communication_data_type", "fp32")]
        self._averages = self._stage == 0 and not any(key in config for key in REDUCTION_SETTINGS)
        if self._averages:
            self._engine.enable_backward_allreduce = False
        self._state = self._find_state()
        optimized = self._state.optimized()
        allocate_state(self._optimizer, optimized, self._moments)
        self.skips = SkipCount(self._optimizer, device, optimized[0].device)
        self.grad_norm: GradientNorm | None = None
        if optimizer.clip_grad_norm or optimizer.log_grad_norm:
            self.grad_norm = GradientNorm(
                self._optimizer,
                max_norm=optimizer.clip_grad_norm,
                sharded=not self._state.moments_are_whole,
                device=optimized[0].device,
            )

    def __call__(self, *inputs: Any) -> Tensor:
        return self._engine(*inputs)

    def forward_once_differentiable(self, *inputs: Any) -> Tensor:
        """Run the network without DeepSpeed, for outputs differentiated at most once."""
        return self._network(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients; above ZeRO 0 DeepSpeed also reduces them over ranks."""
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            # Only counts the pass; the weights are updated after the last one.
            self._engine.step()

    def step(self, loss: Tensor) -> None:
        """Update the weights, unless `loss` is not finite on some rank; clear the gradients."""
        if self._averages:
            self.skips.record(self._average(is_bad(loss)))
        else:
            self.skips.mark(loss)
        self._engine.step()

    @contextlib.contextmanager
    def weights_gathered(self) -> Iterator[None]:
        """Gather the whole weights on every rank for the block; collective.

        No-op below ZeRO 3. Do not nest.
        """
        weights: list[Any] = list(self.module.parameters()) if self._stage == 3 else []
        if not weights:
            yield
            return
        # Weights that DeepSpeed has prefetched may not have arrived yet.
        self._engine.optimizer.empty_partition_cache()
        weights[0].all_gather(param_list=weights)
        for weight in weights:
            weight.ds_active_sub_modules.add(HELD)
        try:
            yield
        finally:
            self._engine.optimizer.empty_partition_cache()

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate to `factor` times its base value."""
        self.lr = self.base_lr * factor
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.lr)
            else:
                group["lr"] = self.lr

    def set_progress(self, progress: float) -> None:
        """Set the optimiser's scheduled settings to their values at `progress` in [0, 1]."""
        for group in self._optimizer.param_groups:
            group.update(self._algorithm.settings_at(progress))

    def restart_optimizer(self) -> None:
        """Forget the optimiser's moments and its count of updates."""
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()

    def num_updates(self) -> int:
        """Number of updates the optimiser has made since it was started."""
        return int(next(iter(self._optimizer.state.values()))["step"])

    def owned_state(self) -> list[Fragment]:
        """The share of weights, buffers and moments that this rank writes into a checkpoint."""
        state = self._state
        weights, moments = self._weight_fragments(), self._moment_fragments()
        return [
            *_shares(self._buffer_fragments()),
            *(_shares(weights) if state.weights_are_whole else weights),
            *(_shares(moments) if state.moments_are_whole else moments),
        ]

    def target_state(self) -> list[Fragment]:
        """Everything this rank holds, as views to be filled from a checkpoint."""
        return self._buffer_fragments() + self._weight_fragments() + self._moment_fragments()

    def finish_loading(self, num_updates: int) -> None:
        """Apply the filled `target_state` views and set the optimiser's count of updates."""
        self.skips.reset()
        if self.grad_norm is not None:
            self.grad_norm.read()  # discards the norms of updates that are now undone
        for state in self._optimizer.state.values():
            state["step"].fill_(num_updates)
        self._state.finish_loading()

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self._engine.destroy()

    @property
    def _stage(self) -> int:
        return int(self._engine.zero_optimization_stage())

    def _average(self, bad: Tensor) -> Tensor:
        return average_gradients(self.module.parameters(), bad, self._reduced_as)

    def _find_state(self) -> EngineState:
        if self._stage == 0:
            return Replicated(self.module, self._optimizer.state)
        if self._stage == 3:
            return ShardedWeights(self.module, self._optimizer.state, self._engine.optimizer)
        pieces = [piece for group in self._optimizer.param_groups for piece in group["params"]]
        return ShardedMoments(self.module, self._optimizer.state, pieces)

    def _buffer_fragments(self) -> list[Fragment]:
        weights = {name for name, _ in self.module.named_parameters()}
        state = self.module.state_dict()
        return replicated(self._model, {name: state[name] for name in state if name not in weights})

    def _weight_fragments(self) -> list[Fragment]:
        return [item.within(self._model) for item in self._state.weights()]

    def _moment_fragments(self) -> list[Fragment]:
        return [
            item.within(f"{self.name}.{key}")
            for key in self._moments
            for item in self._state.moments(key)
        ]

    @property
    def _model(self) -> str:
        return f"{self.name}.model"


def _shares(fragments: list[Fragment]) -> list[Fragment]:
    return [share_of(item, rank(), world_size()) for item in fragments]
