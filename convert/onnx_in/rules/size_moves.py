"""What moves the elements of small tensors that are known while lowering (see sizes.py): numpy does it."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..operands import Sizes
from ..registry import size_rule
from .sizes import I64_MAX, integral, larger, product, smaller

LARGEST = 256  # elements; what is larger is a tensor


def _known(x: Any) -> tuple[int, ...] | None:
    """An operand or attribute as plain integers, if it is that."""
    if isinstance(x, Sizes):
        return tuple(int(i) for i in x.items) if x.known else None
    return x if isinstance(x, tuple) else None


def _moved(x: Sizes, move: Callable[[np.ndarray], Any]) -> Any:
    """NotImplemented where numpy cannot (the rule then says why) or the result is large."""
    try:
        made = move(x.array)
    except (ValueError, IndexError):
        return NotImplemented
    if not isinstance(made, np.ndarray):
        return Sizes.scalar(made, x.element)
    return Sizes(made, x.element) if made.size <= LARGEST else NotImplemented


@size_rule("Identity")
def _identity(x: Sizes) -> Any:
    return x


@size_rule("Reshape")
def _reshape(x: Sizes, shape: Any, *, allowzero: int = 0) -> Any:
    dims = _known(shape)
    if dims is None:
        return NotImplemented
    kept = tuple(x.array.shape[i] if d == 0 and not allowzero and i < x.array.ndim else d for i, d in enumerate(dims))
    return _moved(x, lambda a: a.reshape(kept))


@size_rule("Flatten")
def _flatten(x: Sizes, *, axis: int = 1) -> Any:
    rows = math.prod(x.array.shape[:axis])
    return _moved(x, lambda a: a.reshape(rows, -1))


@size_rule("Transpose")
def _transpose(x: Sizes, *, perm: tuple[int, ...] | None = None) -> Any:
    return _moved(x, lambda a: a.transpose(perm))


@size_rule("Squeeze")
def _squeeze(x: Sizes, given: Any = None, *, axes: Any = None) -> Any:
    where = _known(given) if given is not None else axes
    return NotImplemented if given is not None and where is None else _moved(x, lambda a: np.squeeze(a, where))


@size_rule("Unsqueeze")
def _unsqueeze(x: Sizes, given: Any = None, *, axes: Any = None) -> Any:
    where = _known(given) if given is not None else axes
    return NotImplemented if where is None else _moved(x, lambda a: np.expand_dims(a, where))


@size_rule("Expand")
def _expand(x: Sizes, shape: Sizes) -> Any:
    dims = _known(shape)
    if dims is None:
        return NotImplemented
    return _moved(x, lambda a: np.broadcast_to(a, np.broadcast_shapes(a.shape, dims)))


@size_rule("Tile")
def _tile(x: Sizes, repeats: Sizes, axis: Any = None) -> Any:
    counts = _known(repeats)
    if counts is None or axis is not None or x.array.size * math.prod(counts) > LARGEST:
        return NotImplemented
    return _moved(x, lambda a: np.tile(a, counts))


@size_rule("Concat", run_time=True)
def _concat(*parts: Sizes, axis: int = 1) -> Any:
    return _moved(parts[0], lambda _: np.concatenate([p.array for p in parts], axis))


@size_rule("Split")
def _split(
    x: Sizes, given: Any = None, *, count: int, axis: int = 0, split: Any = None, num_outputs: Any = None
) -> Any:
    sizes = _known(given) if given is not None else split
    if given is not None and sizes is None:
        return NotImplemented
    if sizes is None:
        sizes = (-(-x.array.shape[axis] // count),) * count
    ends = np.cumsum(sizes)[:-1].tolist()
    return tuple(Sizes(part, x.element) for part in np.split(x.array, ends, axis))


@size_rule("Gather")
def _gather(x: Sizes, index: Sizes, *, axis: int = 0) -> Any:
    if not index.known:
        return NotImplemented
    where = index.array.astype(np.int64)
    return _moved(x, lambda a: a.take(where, axis))


@size_rule("GatherND")
def _gather_nd(x: Sizes, index: Sizes, *, batch_dims: int = 0) -> Any:
    if not index.known or batch_dims:
        return NotImplemented
    return _moved(x, lambda a: a[tuple(np.moveaxis(index.array.astype(np.int64), -1, 0))])


@size_rule("ScatterND")
def _scatter_nd(x: Sizes, index: Sizes, updates: Sizes, *, reduction: str = "none") -> Any:
    if not index.known or reduction != "none":
        return NotImplemented

    def write(a: np.ndarray) -> np.ndarray:
        made = a.copy()
        made[tuple(np.moveaxis(index.array.astype(np.int64), -1, 0))] = updates.array
        return made

    return _moved(x, write)


@size_rule("ScatterElements")
def _scatter_elements(x: Sizes, index: Sizes, updates: Sizes, *, axis: int = 0, reduction: str = "none") -> Any:
    if not index.known or reduction != "none":
        return NotImplemented

    def write(a: np.ndarray) -> np.ndarray:
        made = a.copy()
        np.put_along_axis(made, index.array.astype(np.int64), updates.array, axis)
        return made

    return _moved(x, write)


@size_rule("Slice")
def _slice(
    x: Sizes,
    first: Any = None,
    last: Any = None,
    along: Any = None,
    by: Any = None,
    *,
    starts: Any = None,
    ends: Any = None,
    axes: Any = None,
) -> Any:
    given = [_known(v) for v in (first, last, along, by)]
    if any(v is not None and g is None for v, g in zip((first, last, along, by), given, strict=True)):
        return NotImplemented
    starts, ends = given[0] or starts or (), given[1] or ends or ()
    axes, steps = given[2] or axes or tuple(range(len(starts))), given[3] or (1,) * len(starts)
    cuts = [slice(None)] * x.array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = slice(start, None if step < 0 and end < -x.array.shape[axis] else min(end, I64_MAX), step)
    return _moved(x, lambda a: a[tuple(cuts)])


def _reduction(op: str, join: Callable[[Any], Any]) -> None:
    def apply(
        x: Sizes, given: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Any:
        where = _known(given) if given is not None else axes
        if x.array.size == 0 or (given is not None and where is None) or (not where and noop_with_empty_axes):
            return NotImplemented
        if not all(map(integral, x.items)):
            return NotImplemented
        over = {a % max(x.array.ndim, 1) for a in where} if where else set(range(x.array.ndim))
        kept = [i for i in range(x.array.ndim) if i not in over]
        rows = x.array.transpose(*kept, *sorted(over)).reshape(math.prod(x.array.shape[i] for i in kept), -1)
        made = Sizes.of((join(tuple(row)) for row in rows), x.element)
        dims = [1 if i in over else d for i, d in enumerate(x.array.shape) if keepdims or i not in over]
        return Sizes(made.array.reshape(dims), x.element)

    size_rule(op)(apply)


_reduction("ReduceProd", product)
_reduction("ReduceSum", lambda row: functools.reduce(operator.add, row))
_reduction("ReduceMax", lambda row: functools.reduce(larger, row))
_reduction("ReduceMin", lambda row: functools.reduce(smaller, row))
