"""Counts what the operators of a block read, write, compute, launch and send.

The block runs on torch's fake tensors, which have shapes but no values, so nothing is computed, and
a batch of 1024x1024 images takes as long as one of 32x32. What is counted:

* Bytes: every input of an operator is read once and every output written once, as if no cache
  helped. Tensors that the operator changes in place are both read and written, except by operators
  that ignore the old value. Elements that an expanded dimension repeats count once.
* Operations: those of convolutions and matrix products, 2 per multiply-add (torch's formulas).
* Launches: one per operator that computes something, a lower bound: reductions and some of our
  operators have several. A convolution's backward counts once per gradient.
* Collectives: calls of torch.distributed, and the bytes of this rank in them.

Copies from the host, and what a library does inside an operator (converting layouts, workspaces),
are not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from realness.trainer.planning.flops import grouped_excess

PURE_WRITES = {"copy_", "fill_", "zero_"}
"""Operators that ignore the old value of the tensor they change."""
UNCHANGED = {"_fused_adam_": ("grads",), "_fused_adamw_": ("grads",)}
"""Arguments that an operator's schema declares as changed, but which change only with a scale."""
READ_IN_PART = {"index", "index_select", "gather", "embedding"}
"""Operators that read no more of their first argument than they write."""
FREE = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "_unsafe_view"}
"""Operators that launch nothing, in addition to views."""


class Call(NamedTuple):
    """One launch: operator, bytes read and written, operations."""

    name: str
    num_bytes: int
    flops: int


@dataclass
class Traffic:
    """Launches with their number, and the bytes sent by each collective in its calls.

    The numbers may be fractions: averages over updates.
    """

    calls: Counter[Call] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def num_bytes(self) -> float:
        return sum(call.num_bytes * count for call, count in self.calls.items())

    @property
    def flops(self) -> float:
        return sum(call.flops * count for call, count in self.calls.items())

    @property
    def launches(self) -> float:
        return sum(self.calls.values())

    @property
    def num_collectives(self) -> float:
        return sum(self.collectives.values())

    def add(self, other: Traffic, weight: float = 1.0) -> None:
        """Add `weight` times another one."""
        for mine, theirs in (
            (self.calls, other.calls),
            (self.collectives, other.collectives),
            (self.sent, other.sent),
        ):
            for name, count in theirs.items():
                mine[name] += weight * count  # type: ignore[index, operator]

    def by_operator(self) -> Iterator[tuple[str, Traffic]]:
        """The launches of each operator, those with most bytes first."""
        parts: dict[str, Traffic] = {}
        for call, count in self.calls.items():
            parts.setdefault(call.name, Traffic()).calls[call] = count
        yield from sorted(parts.items(), key=lambda item: -item[1].num_bytes)


class Counting(TorchDispatchMode):
    """Counts in its block, until `take`."""

    def __init__(self) -> None:
        super().__init__()
        self._traffic = Traffic()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        space, _, name = func._schema.name.partition("::")
        if space == "c10d":
            self._traffic.collectives[name] += 1
            self._traffic.sent[name] += sum(map(size_of, _tensors(args[0])))
        elif name == "convolution_backward":
            self._traffic.calls.update(_convolution_backward(func, args, kwargs, result))
        elif name not in FREE and not _is_view(func) and any(True for _ in _tensors(result)):
            num_bytes = _bytes_of(func, name, args, kwargs, result)
            flops = _flops_of(func, args, kwargs, result)
            self._traffic.calls[Call(name, num_bytes, flops)] += 1
        elif any(_is_changed(argument) for argument in func._schema.arguments):
            # Changes its arguments and returns nothing, as fused optimisers do.
            self._traffic.calls[Call(name, _bytes_of(func, name, args, kwargs, result), 0)] += 1
        return result

    def take(self) -> Traffic:
        """What was counted since the last call."""
        traffic, self._traffic = self._traffic, Traffic()
        return traffic


def size_of(x: Tensor) -> int:
    """Bytes of a tensor; elements that strides of 0 repeat count once."""
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride or not size else 1
    return count * x.element_size()


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


def _distinct(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors, each counted once."""
    return sum(size_of(x) for x in {id(x): x for x in tensors}.values())


def _is_changed(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _is_view(func: Any) -> bool:
    """Whether all results share the memory of an argument that stays unchanged."""
    returns = func._schema.returns
    return bool(returns) and all(
        item.alias_info is not None and not item.alias_info.is_write for item in returns
    )


def _bytes_of(func: Any, name: str, args: tuple[Any, ...], kwargs: Any, result: Any) -> int:
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    given |= kwargs
    read: list[Tensor] = []
    changed: list[Tensor] = []
    for argument in func._schema.arguments:
        tensors = list(_tensors(given.get(argument.name)))
        is_changed = _is_changed(argument) and argument.name not in UNCHANGED.get(name, ())
        ignores_old_value = name in PURE_WRITES or argument.name == "out"
        if not (is_changed and ignores_old_value):
            read += tensors
        if is_changed:
            changed += tensors
    known = {id(x) for x in changed}
    written = [*changed, *(x for x in _tensors(result) if id(x) not in known)]
    if name in READ_IN_PART:
        return 2 * _distinct(written) + _distinct(read[1:])
    return _distinct(read) + _distinct(written)


def _flops_of(func: Any, args: tuple[Any, ...], kwargs: Any, result: Any) -> int:
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=result)


def _convolution_backward(
    func: Any, args: tuple[Any, ...], kwargs: Any, result: Any
) -> Iterator[Call]:
    """One launch per gradient: it reads the output's gradient and the other operand."""
    grad, x, weight = args[:3]
    wanted = [bool(part) for part in args[-1][:2]]
    flops = _flops_of(func, args, kwargs, result) - grouped_excess(result[1], grad, args[9])
    flops //= max(1, sum(wanted))
    for gradient, other, kind in ((result[0], weight, "data"), (result[1], x, "weight")):
        if gradient is not None:
            moved = size_of(grad) + size_of(other) + size_of(gradient)
            yield Call(f"convolution backward, {kind}", moved, flops)
    if result[2] is not None:
        yield Call("convolution backward, bias", size_of(grad) + size_of(result[2]), 0)
