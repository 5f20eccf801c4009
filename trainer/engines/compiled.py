"""torch.compile for a network, for outputs that are differentiated at most once.

The output of a compiled function cannot be differentiated twice, so penalties run the uncompiled
network. One graph is compiled per kind of pass in an update: with and without gradients, with
frozen weights, and for each batch shape. They are all compiled in the first iteration, and once
more where a schedule starts (P2GAN's codes).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from realness.trainer.config import EngineConfig
from realness.trainer.distributed.collectives import gather
from realness.trainer.distributed.ranks import rank, world_size

BACKEND = "inductor"
MAX_GRAPHS = 32
"""Limit per network. At torch's default limit of 8 it would fall back to eager mode, with a
warning; P2GAN in several passes has more kinds of pass than that."""

OLDEST_FOR_STATISTICS = (2, 13)
"""torch 2.11 compiles batch statistics over ranks into wrong gradients (losses differ by 5e-5 after
one update, on 2 ranks); 2.13 is correct. 2.12 was not tried."""

log = logging.getLogger("realness.trainer")


class Compiled(nn.Module):
    """The compiled `module`, with the same weights and arguments. Its state belongs to `module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        import torch._dynamo  # takes a second, here and below

        torch._dynamo.config.recompile_limit = MAX_GRAPHS
        self._compiled = torch.compile(module.forward, dynamic=False, backend=BACKEND)

    def forward(self, *inputs: Any) -> Tensor:
        return self._compiled(*inputs)


def wants_compiled(config: EngineConfig, device: torch.device, *, has_statistics: bool) -> bool:
    """Whether compilation is requested and possible; collective."""
    return config.compile and can_compile(device, has_statistics=has_statistics)


def can_compile(device: torch.device, *, has_statistics: bool) -> bool:
    """Whether torch.compile works on every rank; collective. If not, the reason is logged.

    Tested on an addition, which needs the C++ compiler on the CPU and Triton on CUDA.
    has_statistics: whether a network computes statistics over the batch of all ranks.
    """
    import torch._inductor.config

    problem = ""
    if has_statistics and world_size() > 1 and torch_release() < OLDEST_FOR_STATISTICS:
        problem = f"torch {torch.__version__} compiles batch statistics over ranks wrongly"
    try:
        # A graph cached by an earlier run would not prove that the compiler works now.
        with torch._inductor.config.patch(fx_graph_cache=False):
            torch.compile(_add_one, dynamic=False, backend=BACKEND)(torch.ones(8, device=device))
    except Exception as error:  # the type depends on what is missing
        problem = problem or str(error).strip().partition("\n")[0]
    problems = [found for found in gather(problem) if found]
    if problems and rank() == 0:
        log.warning("the networks run uncompiled despite --compile: %s", problems[0])
    return not problems


def torch_release() -> tuple[int, ...]:
    """Major and minor version of torch."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def _add_one(x: Tensor) -> Tensor:
    return x + 1
