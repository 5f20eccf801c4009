"""Whole updates as CUDA graphs.

An update of a small network consists of many kernel launches of microseconds each, and the host may
not issue them as fast as a GPU executes them. A graph is the list of launches of one update,
recorded once, which the device then runs by itself. Host-side decisions differ between updates only
in their `UpdatePlan`, so there is one graph per plan. The images, the position in the run and the
learning rates are in tensors that each replay reads again.
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
from realness.trainer.updates.schedule import UpdatePlan, plan_d_update, plan_g_update
from realness.trainer.updates.step import update_d, update_g

NUM_WARM_UPDATES = 3
"""Eager updates per plan before one is captured: in them libraries choose their algorithms, and
memory that is allocated only once is allocated outside of the graph."""


class Graph(Protocol):
    """Work on the device that is captured once and then replayed."""

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record `work` without executing it; returns its result, which replays fill."""
        ...

    def replay(self) -> None:
        """Execute the recorded work, in the memory with which it was recorded."""
        ...


class CudaGraph:
    """A `Graph` of torch. All share one memory pool, because no two run at the same time."""

    _pool: Any = None

    def __init__(self) -> None:
        if CudaGraph._pool is None:
            CudaGraph._pool = torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, work: Callable[[], Any]) -> Any:
        stream = torch.cuda.current_stream()
        # Only this thread, because decoders and the saver's thread may allocate meanwhile.
        with torch.cuda.graph(
            self._graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            return work()

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True)
class _Recording:
    """The captured update of a plan, and its statistics: `values` [num], named by `names`."""

    graph: Graph
    names: list[str]
    values: Tensor


class GraphedUpdate:
    """`update_d` or `update_g` through CUDA graphs, with the same arguments and results.

    Use one per `Gan`. `update` and `plan_of` are those of `updates.step` and `updates.schedule`.
    """

    def __init__(
        self,
        update: Callable[[Gan, Any, int | Tensor, UpdatePlan, Tensor | None], Stats],
        plan_of: Callable[[TrainConfig, int], UpdatePlan],
        new_graph: Callable[[], Graph] = CudaGraph,
    ) -> None:
        self._update, self._plan_of, self._new_graph = update, plan_of, new_graph
        self._num_warm: Counter[UpdatePlan] = Counter()
        self._recordings: dict[UpdatePlan, _Recording] = {}
        # Inputs of the graphs: the images and labels, if any, and the index of the first sample.
        self._real: Tensor | None = None
        self._labels: Tensor | None = None
        self._first_sample = torch.zeros((), dtype=torch.int64)

    def __call__(
        self, gan: Gan, real: Tensor | None, first_sample: int, *, labels: Tensor | None = None
    ) -> Stats:
        plan = self._plan_of(gan.config, first_sample)
        if self._num_warm[plan] < NUM_WARM_UPDATES:
            self._num_warm[plan] += 1
            return self._update(gan, real, first_sample, plan, labels)
        if plan not in self._recordings:
            self._recordings[plan] = self._capture(gan, real, plan, labels)
        recording = self._recordings[plan]
        for place, value in ((self._real, real), (self._labels, labels)):
            if place is not None and value is not None:
                place.copy_(value)
        self._first_sample.fill_(first_sample)
        recording.graph.replay()
        # Copied, because the next replay overwrites them.
        return dict(zip(recording.names, recording.values.clone().unbind(), strict=True))

    def _capture(
        self, gan: Gan, real: Tensor | None, plan: UpdatePlan, labels: Tensor | None
    ) -> _Recording:
        if real is not None and self._real is None:
            self._real = torch.empty_like(real)
        if labels is not None and self._labels is None:
            self._labels = torch.empty_like(labels)
        self._first_sample = self._first_sample.to(gan.device)
        names: list[str] = []

        def work() -> Tensor:
            stats = self._update(gan, self._real, self._first_sample, plan, self._labels)
            names.extend(stats)
            return torch.stack([value.float() for value in stats.values()])

        graph = self._new_graph()
        return _Recording(graph, names, graph.capture(work))


def graphed_updates() -> tuple[GraphedUpdate, GraphedUpdate]:
    """`update_d` and `update_g` through CUDA graphs."""
    return GraphedUpdate(update_d, plan_d_update), GraphedUpdate(update_g, plan_g_update)


@contextlib.contextmanager
def capturing_stream(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Use a separate stream if the run captures graphs: the default stream cannot be captured.

    Everything runs on it, including the updates before the first capture, because autograd sums a
    weight's gradients on the stream on which the weight was first used.

    Raises ConfigError for graphs without a CUDA device.
    """
    if not config.engine.cuda_graphs:
        yield
        return
    if device.type != "cuda":
        raise ConfigError(f"--cuda-graphs needs a CUDA device, but this run is on {device}")
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield
