"""How much memory a rank needs, worked out before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from realness import kernels
from realness.trainer.config import TrainConfig
from realness.trainer.engines.deepspeed_config import deepspeed_config
from realness.trainer.engines.optimizers import MOMENTS
from realness.trainer.networks import StyleGAN2Generator, training_inputs
from realness.trainer.objectives import Objective
from realness.trainer.objectives.penalties import gradient_squared_norm
from realness.trainer.randomness import Draws, Stream
from realness.trainer.updates.build import build_networks
from realness.trainer.updates.path_length import path_lengths, zero_offset

FLOAT_BYTES = 4
GIB = 2**30


def estimate_memory(config: TrainConfig, num_ranks: int) -> dict[str, int]:
    """Bytes of one rank by part, and their sum under "total".

    Weights, gradients, the optimiser's moments and the moving average follow from the parameter
    counts and the ZeRO stages, the buffers of reductions from DeepSpeed's configuration.
    Activations are counted, not guessed: the networks run on torch's fake tensors, and every tensor
    that autograd saves is added up, once a storage, as if nothing were computed again
    (--checkpoint-activations keeps less) and no operation were fused (fused ones keep less, too).
    Penalties count however seldom they are due. Left out are the workspaces of convolution
    libraries, the allocator's fragmentation and the CUDA context.
    """
    # Not the meta device, which autocast passes by.
    with kernels.implementation("reference"), FakeTensorMode():
        generator, discriminator, objective = build_networks(config)
        steps = _activations(config, generator, discriminator, objective, num_ranks)
    parts = _resident(config, generator, discriminator, num_ranks)
    # Real and generated ones; they do not shrink with the passes.
    pixels = 3 * config.data.resolution**2 * config.batch_size // num_ranks
    parts["images of an update"] = FLOAT_BYTES * 2 * pixels
    return {**parts, **steps, "total": sum(parts.values()) + max(steps.values())}


def resident_memory(config: TrainConfig, num_ranks: int) -> dict[str, int]:
    """The parts of `estimate_memory` that are there in every update, whatever the micro-batch."""
    with torch.device("meta"):
        generator, discriminator, _ = build_networks(config)
    return _resident(config, generator, discriminator, num_ranks)


def _resident(
    config: TrainConfig, generator: nn.Module, discriminator: nn.Module, num_ranks: int
) -> dict[str, int]:
    counts = {"G": count_parameters(generator), "D": count_parameters(discriminator)}
    stages = {"G": config.engine.zero_g, "D": config.engine.zero_d}
    # ZeRO 3 gathers a layer at a time, but all of D for what is differentiated twice.
    gathered = {
        "G": largest_parameter(generator),
        "D": counts["D"] if config.penalty.any else largest_parameter(discriminator),
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
        "moving average": FLOAT_BYTES * counts["G"],
    }


def _buffered(config: TrainConfig, num_ranks: int) -> int:
    """Elements that DeepSpeed's ZeRO allocates for reducing gradients and fetching weights."""
    kept, passing = 0, 0
    for stage in (config.engine.zero_g, config.engine.zero_d):
        zero = deepspeed_config(config, stage, num_ranks)["zero_optimization"]
        if stage == 3:
            kept += int(zero["reduce_bucket_size"]) + int(zero["stage3_prefetch_bucket_size"])
        elif stage:
            # Two where reductions overlap; for as long as this network's backward pass takes.
            num_buckets = 2 if zero["overlap_comm"] else 1
            passing = max(passing, num_buckets * int(zero["reduce_bucket_size"]))
    return kept + passing


def checkpoint_bytes(config: TrainConfig) -> int:
    """Size of one checkpoint over all ranks: both networks with their moments, and the average."""
    with torch.device("meta"):
        generator, discriminator, _ = build_networks(config)
    g, d, copies = (
        count_parameters(generator),
        count_parameters(discriminator),
        _num_moments(config),
    )
    return FLOAT_BYTES * ((2 + copies) * g + (1 + copies) * d)


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(weight.numel() for weight in module.parameters())


def largest_parameter(module: nn.Module) -> int:
    """Numbers in the largest weight of a network."""
    return max(weight.numel() for weight in module.parameters())


def _num_moments(config: TrainConfig) -> int:
    return len(MOMENTS[config.optimizer.optimizer])


def _optimizer_bytes(count: int, stage: int, num_ranks: int, num_moments: int) -> int:
    """From ZeRO 1 on moments are sharded, with a master copy of the rank's share of the weights."""
    tensors, share = (num_moments + 1, num_ranks) if stage else (num_moments, 1)
    return FLOAT_BYTES * tensors * count // share


def _activations(
    config: TrainConfig,
    generator: nn.Module,
    discriminator: nn.Module,
    objective: Objective,
    num_ranks: int,
) -> dict[str, int]:
    batch = config.batch_size // num_ranks // config.num_passes(num_ranks)
    size = config.data.resolution
    images = torch.zeros(batch, 3, size, size)
    penalty = config.penalty
    num_penalised = sum(w > 0 for w in (penalty.r1_gamma, penalty.r2_gamma, penalty.gp_weight))
    constants = {*generator.parameters(), *discriminator.parameters()}

    def inputs(count: int) -> tuple[Any, ...]:
        draws = Draws(config.seed, Stream.G_FAKE, torch.zeros(count, dtype=torch.int64))
        coded = (torch.zeros(count, objective.code_dim), 1.0) if objective.code_dim else None
        return training_inputs(generator, draws, config.g.z_dim, coded)

    def d_step() -> Tensor:
        output = discriminator(torch.cat([images, images])).sum()
        if num_penalised:
            points = torch.cat([images] * num_penalised).requires_grad_()
            if penalty.r1 == "exact":
                score = objective.score(discriminator(points))
                output = output + gradient_squared_norm(score, points).sum()
            else:
                output = output + discriminator(torch.cat([points, points])).sum()
        return output

    def g_step() -> Tensor:
        discriminator.requires_grad_(False)
        output = discriminator(generator(*inputs(batch))).sum()
        if penalty.path_length_weight:
            drawn = inputs(batch // penalty.path_length_shrink)
            offset = zero_offset(cast(StyleGAN2Generator, generator), drawn[0])
            made = generator(*drawn, offset=offset)
            output = output + path_lengths(made, offset, torch.zeros_like(made)).sum()
        return output

    return {
        "activations of the D step": _saved_bytes(d_step, config, constants),
        "activations of the G step": _saved_bytes(g_step, config, constants),
    }


def _saved_bytes(
    run: Callable[[], Tensor], config: TrainConfig, constants: set[nn.Parameter]
) -> int:
    """Bytes that autograd keeps for the backward pass of `run`, without the weights themselves."""
    known = {weight.untyped_storage()._cdata for weight in constants}
    # The tensors are kept alive, or a freed storage's identity could be given to a later one.
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        identity = tensor.untyped_storage()._cdata
        if identity not in known:
            saved[identity] = tensor
        return tensor

    bf16 = config.engine.precision == "bf16"
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        result = run()
        total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    del result
    return total
