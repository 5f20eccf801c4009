"""Whole updates as CUDA graphs.

An update of a small network is a great many launches of microseconds each, and the host may not
issue them as fast as a GPU does them. A graph is the list of launches of one update, recorded once,
which the device then runs by itself. What the host decides differs between updates only by their
`Plan`, so there is one graph for each plan. The images, the position in the run and the learning
rates lie in tensors that the graph reads anew.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from realness.trainer.config import ConfigError, TrainConfig
from realness.trainer.updates.accumulation import Stats
from realness.trainer.updates.gan import Gan
from realness.trainer.updates.schedule import Plan, plan_d, plan_g
from realness.trainer.updates.step import update_d, update_g

NUM_WARM_UPDATES = 3
"""Updates under each plan that run as usual before one is captured: libraries choose their
algorithms in them, and whatever is allocated once is allocated outside of the graph."""


class Graph(Protocol):
    """Work for the device, to be captured once and then repeated."""

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record `work` without doing it; returns what it returned, to be filled by replays."""
        ...

    def replay(self) -> None:
        """Do the recorded work, on the memory that it was recorded with."""
        ...


class CudaGraph:
    """A `Graph` of torch's. All share one pool of memory, as no two run at a time."""

    _pool: Any = None

    def __init__(self) -> None:
        if CudaGraph._pool is None:
            CudaGraph._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, work: Callable[[], Any]) -> Any:
        stream = torch.cuda.current_stream()
        # Of this thread alone: decoders and the saver's thread may allocate meanwhile.
        with torch.cuda.graph(
            self._graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            return work()

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True)
class _Recording:
    """The captured updates of one plan, and what a replay reports: `values` [num] by `names`."""

    graph: Graph
    names: list[str]
    values: Tensor


class CapturedUpdate:
    """`update_d` or `update_g` by graphs: the same arguments, the same results.

    It belongs to the `Gan` of its first call. `update` and `plan_of` are those of `updates.step`
    and `updates.schedule`.
    """

    def __init__(
        self,
        update: Callable[[Gan, Any, int | Tensor, Plan], Stats],
        plan_of: Callable[[TrainConfig, int], Plan],
        new_graph: Callable[[], Graph] = CudaGraph,
    ) -> None:
        self._update, self._plan_of, self._new_graph = update, plan_of, new_graph
        self._num_warm: Counter[Plan] = Counter()
        self._recordings: dict[Plan, _Recording] = {}
        # What a graph reads: the images, if any, and the position of the first one.
        self._real: Tensor | None = None
        self._first = torch.zeros((), dtype=torch.int64)

    def __call__(self, gan: Gan, real: Tensor | None, first: int) -> Stats:
        plan = self._plan_of(gan.config, first)
        if self._num_warm[plan] < NUM_WARM_UPDATES:
            self._num_warm[plan] += 1
            return self._update(gan, real, first, plan)
        if plan not in self._recordings:
            self._recordings[plan] = self._capture(gan, real, plan)
        recording = self._recordings[plan]
        if self._real is not None and real is not None:
            self._real.copy_(real)
        self._first.fill_(first)
        recording.graph.replay()
        # Copies: the next replay writes over them.
        return dict(zip(recording.names, recording.values.clone().unbind(), strict=True))

    def _capture(self, gan: Gan, real: Tensor | None, plan: Plan) -> _Recording:
        if real is not None and self._real is None:
            self._real = torch.empty_like(real)
        self._first = self._first.to(gan.device)
        names: list[str] = []

        def work() -> Tensor:
            stats = self._update(gan, self._real, self._first, plan)
            names.extend(stats)
            return torch.stack([value.float() for value in stats.values()])

        graph = self._new_graph()
        return _Recording(graph, names, graph.capture(work))


def captured_updates() -> tuple[CapturedUpdate, CapturedUpdate]:
    """`update_d` and `update_g` by graphs."""
    return CapturedUpdate(update_d, plan_d), CapturedUpdate(update_g, plan_g)


@contextlib.contextmanager
def capturing_stream(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Work on a stream of our own where the run captures: the default one cannot be captured.

    Everything runs there, the updates before the first capture too, because autograd sums a
    weight's gradients on the stream that the weight was first used on.

    Raises ConfigError for graphs without a CUDA device.
    """
    if not config.engine.cuda_graphs:
        yield
        return
    if device.type != "cuda":
        raise ConfigError(f"--cuda-graphs needs a CUDA device, and this run is on {device}")
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield
