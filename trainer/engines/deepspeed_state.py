"""The fragments of a network's weights and moments that DeepSpeed holds at each ZeRO stage.

| Stage | Weights | Moments |
|---|---|---|
| 0 | whole on every rank | whole on every rank |
| 1, 2 | whole on every rank, plus a stretch of a flat copy of all of them | stretch of that copy |
| 3 | a stretch of each weight | a stretch of each moment |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from realness.trainer.checkpoint.fragments import Fragment
from realness.trainer.distributed.ranks import rank

State = dict[Any, dict[str, Tensor]]
"""An optimiser's state: its moments by name, for each tensor that it updates."""


class EngineState(Protocol):
    """The weights and moments of a network as this rank holds them."""

    weights_are_whole: bool
    moments_are_whole: bool

    def optimized(self) -> list[Tensor]:
        """The tensors that the optimiser updates: the weights, or this rank's flat pieces."""
        ...

    def weights(self) -> list[Fragment]:
        """The weights, as views to save or to fill, under their own names."""
        ...

    def moments(self, key: str) -> list[Fragment]:
        """One of the optimiser's moments, likewise, under the names of the weights."""
        ...

    def finish_loading(self) -> None:
        """Copy filled `weights` to the other places where DeepSpeed stores them."""
        ...


class Replicated:
    """ZeRO 0: weights and moments are whole on every rank."""

    weights_are_whole = True
    moments_are_whole = True

    def __init__(self, module: nn.Module, state: State) -> None:
        self._module, self._state = module, state

    def optimized(self) -> list[Tensor]:
        return list(self._module.parameters())

    def weights(self) -> list[Fragment]:
        return [Fragment.whole(name, weight) for name, weight in self._module.named_parameters()]

    def moments(self, key: str) -> list[Fragment]:
        return [
            Fragment.whole(name, self._state[weight][key])
            for name, weight in self._module.named_parameters()
        ]

    def finish_loading(self) -> None:
        """No-op at ZeRO 0: DeepSpeed keeps no second copy of the weights."""


class ShardedMoments(Replicated):
    """ZeRO 1 and 2: the optimiser's flat piece may begin and end in the middle of a weight."""

    moments_are_whole = False

    def __init__(self, module: nn.Module, state: State, pieces: list[Tensor]) -> None:
        super().__init__(module, state)
        self._pieces = pieces

    def optimized(self) -> list[Tensor]:
        return self._pieces

    def moments(self, key: str) -> list[Fragment]:
        fragments = []
        for name, weight, mapping in self._mapped():
            inside, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
            moment = self._state[self._pieces[mapping.param_group_index]][key]
            stretch = moment.narrow(0, flat.start, flat.numel)
            fragments.append(Fragment(name, inside.start, stretch, weight.numel()))
        return fragments

    @torch.no_grad()
    def finish_loading(self) -> None:
        for _, weight, mapping in self._mapped():
            inside = mapping.lp_fragment_address
            mapping.hp_fragment.copy_(weight.reshape(-1).narrow(0, inside.start, inside.numel))

    def _mapped(self) -> Iterator[tuple[str, nn.Parameter, Any]]:
        """The weights of which this rank's piece holds a stretch, with its location."""
        for name, weight in self._module.named_parameters():
            mapping = getattr(weight, "_hp_mapping", None)
            if mapping is not None:
                yield name, weight, mapping


class ShardedWeights:
    """ZeRO 3: every weight is cut into equal stretches, the last of them padded or empty."""

    weights_are_whole = False
    moments_are_whole = False

    def __init__(self, module: nn.Module, state: State, zero: Any) -> None:
        self._module, self._state, self._zero = module, state, zero

    def optimized(self) -> list[Tensor]:
        return self._zero.fp32_partitioned_groups_flat

    def weights(self) -> list[Fragment]:
        return self._stretches(lambda piece: piece.detach())

    def moments(self, key: str) -> list[Fragment]:
        return self._stretches(lambda piece: self._state[piece][key])

    @torch.no_grad()
    def finish_loading(self) -> None:
        weights: dict[str, Any] = dict(self._module.named_parameters())
        for fragment in self.weights():
            stored = weights[fragment.name].ds_tensor
            stored[: fragment.data.numel()].copy_(fragment.data)
        # Some small weights are also stored whole here; they are gathered again when used.
        self._zero.empty_partition_cache()

    def _stretches(self, tensor_of: Callable[[Tensor], Tensor]) -> list[Fragment]:
        """This rank's stretch of each weight, cut from `tensor_of(piece)` of its flat piece."""
        fragments = []
        weights: list[tuple[str, Any]] = list(self._module.named_parameters())
        for name, weight in weights:
            index, start, length = self._zero.grad_position[self._zero.get_param_id(weight)]
            offset = min(length * rank(), weight.ds_numel)
            filled = min(length, weight.ds_numel - offset)
            stretch = tensor_of(self.optimized()[index]).narrow(0, start, filled)
            fragments.append(Fragment(name, offset, stretch, weight.ds_numel))
        return fragments
