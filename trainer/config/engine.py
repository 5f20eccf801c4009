"""Devices, precision, sharding and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import (
    expand_paths,
    flag,
    not_negative,
    positive,
    require,
    resumable,
)


@dataclass(frozen=True)
class EngineConfig:
    """Devices, precision and sharding."""

    zero_g: Literal[0, 1, 2, 3] = resumable(1)
    """DeepSpeed ZeRO stage of G. On a single rank, which has nothing to shard, 1 runs as 0."""
    zero_d: Literal[0, 1, 2, 3] = resumable(1)
    """DeepSpeed ZeRO stage of D, likewise."""
    reduce_precision: Literal["fp32", "bf16"] = resumable("fp32")
    """Precision in which gradients are summed over ranks. bf16 halves what is sent, for slow
    networks, and rounds every gradient to 8 bits, also where ranks have equal ones."""
    offload_optimizer: bool = resumable(False)
    """Keep the optimisers' moments in host memory and update the weights there (ZeRO 1 to 3)."""
    micro_batch: int = resumable(0)
    """Images per rank and pass through the networks. A rank's share of the batch is then processed
    in several passes (gradient accumulation), with the same gradients as in one; 0 uses one pass.
    WITH BATCH NORMALISATION IN G this changes the run: statistics cover one pass on all ranks."""
    auto_batch: bool = resumable(False)
    """Find the largest --micro-batch that fits before training starts: on a GPU by running the
    heaviest updates of the run (with R1 and path lengths, however rarely they are due), on a CPU
    from the memory estimate."""
    checkpoint_activations: bool = resumable(False)
    """Store only the inputs of each block (stylegan2, r3gan, resnet, D of sn-resnet and of
    light) and recompute the rest in the backward pass: the same gradients, less memory, about 30 %
    more computation."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = resumable("auto")
    """Memory layout of images and activations. auto is channels_last, which tensor cores need and
    which is also faster on the CPU. Results differ only by rounding."""
    compile: bool = resumable(False)
    """Run the networks through torch.compile, except in penalties, which are differentiated twice;
    not with ZeRO 3. Compilation adds minutes to the first iterations."""
    cuda_graphs: bool = resumable(False)
    """Capture whole updates of D and G as CUDA graphs and replay them, with one launch per update.
    Needs --zero-g 0 --zero-d 0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; weights, optimiser state and losses stay fp32. The
    presets at 1024x1024 use bf16 on CUDA unless this flag is given."""
    tf32: bool = resumable(True)
    """Allow TF32 in matrix products and convolutions on CUDA (10 mantissa bits instead of 23)."""
    deterministic: bool = resumable(False)
    """Make runs on CUDA bit-for-bit reproducible, as they are on a CPU: use algorithms that add in
    a fixed order and do not benchmark cuDNN's algorithms. Slower."""
    device: Literal["auto", "cuda", "cpu"] = resumable("auto")
    """auto uses CUDA if a device is available, otherwise the CPU (with gloo)."""
    impl: Literal["auto", "cuda", "cpu", "reference"] = resumable("auto")
    """Implementation of the fused operations."""
    deepspeed_config: str = resumable("")
    """JSON file merged over the generated DeepSpeed configuration."""
    rank_timeout_s: float = resumable(600.0)
    """Time limit in seconds for hangs. The run ends, naming the rank, if a rank sends no heartbeat
    for half of it, or if no rank makes progress for 90 % of it."""

    def stages(self, num_ranks: int) -> tuple[int, int]:
        """The ZeRO stages of G and D on `num_ranks` ranks.

        A single rank has nothing to shard: stage 1 would only copy weights and gradients to and
        from flat buffers. It becomes 0, unless moments are offloaded, which needs stage 1, or a
        file of DeepSpeed settings may rely on it.
        """
        keeps = num_ranks > 1 or self.offload_optimizer or self.deepspeed_config
        g, d = (stage if keeps or stage != 1 else 0 for stage in (self.zero_g, self.zero_d))
        return g, d

    def __post_init__(self) -> None:
        expand_paths(self, "deepspeed_config")
        positive(self, "rank_timeout_s")
        for name in ("zero_g", "zero_d"):
            require(
                not (self.compile and getattr(self, name) == 3),
                f"--compile does not combine with {flag(name)}=3, where DeepSpeed's hooks fetch "
                f"the weights layer by layer; use {flag(name)} 2, or "
                "--no-compile",
            )
        not_negative(self, "micro_batch")
        require(
            not (self.auto_batch and self.micro_batch),
            f"--auto-batch chooses the micro-batch, but --micro-batch={self.micro_batch}; use one "
            "of the two",
        )
        for name in ("zero_g", "zero_d"):
            require(
                not (self.offload_optimizer and getattr(self, name) == 0),
                f"--offload-optimizer needs sharded moments, but {flag(name)}=0; use 1, 2 or 3",
            )
            require(
                not (self.cuda_graphs and getattr(self, name)),
                f"--cuda-graphs needs {flag(name)}=0, not {getattr(self, name)}: ZeRO's "
                "bookkeeping runs on the host, and a replayed graph does not run host code",
            )
