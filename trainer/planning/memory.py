"""Estimate of a rank's memory before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from realness import kernels
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.ranks import as_single_rank
from realness.trainer.engines.deepspeed_config import deepspeed_config
from realness.trainer.planning.trial import TrialRun
from realness.trainer.updates.build import Blueprint

FLOAT_BYTES = 4
GIB = 2**30


def estimate_memory(config: TrainConfig, num_ranks: int) -> dict[str, int]:
    """Bytes per rank by part, and their sum under "total".

    Weights, gradients, the optimiser's moments and the moving averages are computed from the
    parameter counts and the ZeRO stages, the reduction buffers from DeepSpeed's configuration.
    Activations are counted: the updates of training run on torch's fake tensors, and every tensor
    that autograd saves is added up, once per storage, assuming no recomputation
    (--checkpoint-activations keeps less) and no fused operations (which also keep less). Penalties
    are included however rarely they are due. The workspaces of convolution libraries, the
    allocator's fragmentation and the CUDA context are not included.
    """
    parts = resident_memory(config, num_ranks)
    # Real and generated images; their memory does not depend on the number of passes.
    pixels = 3 * config.data.resolution**2 * config.batch_size // num_ranks
    parts["images of an update"] = FLOAT_BYTES * 2 * pixels
    steps = _activations(config, num_ranks)
    return {**parts, **steps, "total": sum(parts.values()) + max(steps.values())}


def resident_memory(config: TrainConfig, num_ranks: int) -> dict[str, int]:
    """The parts of `estimate_memory` that do not depend on the update or the micro-batch."""
    blueprint = Blueprint.of(config)
    counts = {"G": blueprint.g.num_weights, "D": blueprint.d.num_weights}
    stages = dict(zip("GD", config.engine.stages(num_ranks), strict=True))
    # ZeRO 3 gathers one layer at a time, but all of D for passes that are differentiated twice.
    gathered = {
        "G": blueprint.g.largest_weight,
        "D": counts["D"] if config.penalty.any else blueprint.d.largest_weight,
    }
    return {
        "weights": FLOAT_BYTES
        * sum(
            count // num_ranks + gathered[name] if stages[name] == 3 else count
            for name, count in counts.items()
        ),
        "gradients": sum(
            FLOAT_BYTES * count // (num_ranks if stages[name] >= 2 else 1)
            for name, count in counts.items()
        ),
        "buffers of reductions": FLOAT_BYTES * _buffered(config, num_ranks),
        "optimiser's moments": 0
        if config.engine.offload_optimizer
        else sum(
            _optimizer_bytes(counts[name], stages[name], num_ranks, _num_moments(config))
            for name in counts
        ),
        "moving averages": FLOAT_BYTES * config.average.num_averages * counts["G"],
    }


def _buffered(config: TrainConfig, num_ranks: int) -> int:
    """Elements that DeepSpeed's ZeRO allocates for reducing gradients and fetching weights."""
    kept, passing = 0, 0
    for stage in config.engine.stages(num_ranks):
        zero = deepspeed_config(config, stage, num_ranks)["zero_optimization"]
        if stage == 3:
            kept += int(zero["reduce_bucket_size"]) + int(zero["stage3_prefetch_bucket_size"])
        elif stage:
            # Two if reductions overlap; only during this network's backward pass.
            num_buckets = 2 if zero["overlap_comm"] else 1
            passing = max(passing, num_buckets * int(zero["reduce_bucket_size"]))
    return kept + passing


def checkpoint_bytes(config: TrainConfig) -> int:
    """Size of one checkpoint over all ranks: both networks with their moments, and the averages."""
    blueprint, copies = Blueprint.of(config), _num_moments(config)
    g, d = blueprint.g.num_weights, blueprint.d.num_weights
    return FLOAT_BYTES * ((1 + config.average.num_averages + copies) * g + (1 + copies) * d)


def snapshot_bytes(config: TrainConfig) -> int:
    """Size of one snapshot of the power-function averages over all ranks; 0 without them."""
    return FLOAT_BYTES * len(config.average.widths) * Blueprint.of(config).g.num_weights


def _num_moments(config: TrainConfig) -> int:
    return len(config.optimizer.algorithm.moments)


def _optimizer_bytes(count: int, stage: int, num_ranks: int, num_moments: int) -> int:
    """From ZeRO 1 on, moments are sharded, as is an additional master copy of the weights."""
    tensors, share = (num_moments + 1, num_ranks) if stage else (num_moments, 1)
    return FLOAT_BYTES * tensors * count // share


def _activations(config: TrainConfig, num_ranks: int) -> dict[str, int]:
    """Bytes that autograd keeps in the update of each network, by part, for one pass."""
    engine = replace(config.engine, micro_batch=0, checkpoint_activations=False)
    num_shares = num_ranks * config.num_passes(num_ranks)
    # Not on the meta device, which autocast ignores.
    with as_single_rank(), kernels.implementation("reference"), FakeTensorMode():
        trial = TrialRun(replace(config, engine=engine), num_shares, torch.device("cpu"))
        saved = _SavedTensors((trial.gan.g.module, trial.gan.d.module))
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            return {
                f"activations of the {name} step": saved.take_bytes() for name in trial.updates()
            }


class _SavedTensors:
    """The tensors that autograd saves, once per storage, without the networks' weights."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        weights = (weight for network in networks for weight in network.parameters())
        self._weights = {weight.untyped_storage()._cdata for weight in weights}
        # They are kept alive, because a freed storage's identity could be reused.
        self._saved: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """A hook of `saved_tensors_hooks`."""
        identity = tensor.untyped_storage()._cdata
        if identity not in self._weights:
            self._saved[identity] = tensor
        return tensor

    def take_bytes(self) -> int:
        """Bytes saved since the last call."""
        total = sum(tensor.untyped_storage().nbytes() for tensor in self._saved.values())
        self._saved.clear()
        return total
