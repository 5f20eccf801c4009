"""Devices, precision, sharding and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realness.trainer.config.base import any_time, flag, not_negative, positive, require


@dataclass(frozen=True)
class EngineConfig:
    """Devices, precision and sharding."""

    zero_g: Literal[0, 1, 2, 3] = any_time(1)
    """DeepSpeed ZeRO stage of G."""
    zero_d: Literal[0, 1, 2, 3] = any_time(1)
    """DeepSpeed ZeRO stage of D."""
    offload_optimizer: bool = any_time(False)
    """Keep the optimisers' moments in host memory, and update the weights there (ZeRO 1 to 3)."""
    micro_batch: int = any_time(0)
    """Images of one rank in one pass through the networks: its share of the batch takes several
    passes (gradient accumulation), with the gradients of one; 0 takes it whole. WITH BATCH
    NORMALISATION IN G the run changes: its statistics are those of one pass over all ranks."""
    auto_batch: bool = any_time(False)
    """Find the largest --micro-batch that fits before training, by the heaviest updates of the run
    (with R1 and path lengths, however seldom these are due) on a GPU, by the estimate on a CPU."""
    checkpoint_activations: bool = any_time(False)
    """Keep of each block of stylegan2, resnet and sn-resnet's D its inputs only, and compute the
    rest again in the backward pass: the same gradients, less memory, some 30 % more work."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = any_time("auto")
    """Layout of images and activations in memory. auto is channels_last, which tensor cores want
    and which is the faster one on the CPU too. Rounding aside it changes nothing."""
    compile: bool = any_time(False)
    """Run the networks through torch.compile, except for penalties that are differentiated twice;
    not with ZeRO 3. The first iterations take minutes more, in which it compiles."""
    cuda_graphs: bool = any_time(False)
    """Capture whole updates of D and G as CUDA graphs and replay them, so that the host issues one
    launch for each. Needs --zero-g 0 --zero-d 0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; weights, optimiser and losses stay fp32."""
    tf32: bool = any_time(True)
    """Allow TF32 matrix products and convolutions on CUDA (10 bits of mantissa instead of 23)."""
    deterministic: bool = any_time(False)
    """Repeat a run on CUDA to the bit, as on a CPU: algorithms that add in a fixed order, and no
    timing of cuDNN's algorithms for the fastest. Slower."""
    device: Literal["auto", "cuda", "cpu"] = any_time("auto")
    """auto takes CUDA where there is a device, else the CPU (with gloo)."""
    impl: Literal["auto", "cuda", "cpu", "reference"] = any_time("auto")
    """Implementation of the fused operations."""
    deepspeed_config: str = any_time("")
    """JSON file merged over the generated DeepSpeed configuration."""
    rank_timeout_s: float = any_time(600.0)
    """End the run, naming the rank, when one is silent for half so many seconds, or none has moved
    for so many."""

    def __post_init__(self) -> None:
        positive(self, "rank_timeout_s")
        for name in ("zero_g", "zero_d"):
            require(
                not (self.compile and getattr(self, name) == 3),
                f"--compile does not combine with {flag(name)}=3, whose weights are in place only "
                f"while DeepSpeed's hooks fetch them layer by layer; use {flag(name)} 2, or "
                "--no-compile",
            )
        not_negative(self, "micro_batch")
        require(
            not (self.auto_batch and self.micro_batch),
            f"--auto-batch finds the micro-batch, but --micro-batch={self.micro_batch}; use one of "
            "the two",
        )
        for name in ("zero_g", "zero_d"):
            require(
                not (self.offload_optimizer and getattr(self, name) == 0),
                f"--offload-optimizer needs sharded moments, but {flag(name)}=0; use 1, 2 or 3",
            )
            require(
                not (self.cuda_graphs and getattr(self, name)),
                f"--cuda-graphs needs {flag(name)}=0, not {getattr(self, name)}: ZeRO keeps its "
                "books on the host, which a graph does not ask again",
            )
