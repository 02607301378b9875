"""Rules: tensors made from sizes and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from ..builder import Unknown, is_known
from ..ir import Sym
from .operands import is_tensor, number, plus
from .registry import ELEMENTWISE, rule

Tensor = Any


# ----------------------------------------------------------------------------------------------------------- constant
@rule("aten.full.default")
def full(k: Any, size: Sequence[Any], fill_value: Any, dtype: Any = None) -> Tensor:
    return k.full(size, k.size(fill_value), k.out.dtype)


@rule("aten.scalar_tensor.default")
def scalar_tensor(k: Any, value: Any, dtype: Any = None) -> Tensor:
    return k.full((), k.size(value), k.out.dtype)


@rule("aten.zeros.default", "aten.empty.memory_format", "aten.empty_strided.default", "aten.empty_permuted.default")
def zeros(k: Any, size: Sequence[Any], *_: Any, **__: Any) -> Tensor:
    """`empty` holds zeros: torch promises nothing about its values."""
    return k.full(size, 0, k.out.dtype)


@rule("aten.ones.default")
def ones(k: Any, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return k.full(size, 1, k.out.dtype)


@rule("aten.zeros_like.default", "aten.empty_like.default", layout=ELEMENTWISE)
def zeros_like(k: Any, x: Tensor, dtype: Any = None) -> Tensor:
    return ops.zeros_like(x, dtype=k.out.dtype)


@rule("aten.ones_like.default", layout=ELEMENTWISE)
def ones_like(k: Any, x: Tensor, dtype: Any = None) -> Tensor:
    return ops.ones_like(x, dtype=k.out.dtype)


@rule("aten.full_like.default", layout=ELEMENTWISE)
def full_like(k: Any, x: Tensor, fill_value: Any, dtype: Any = None) -> Tensor:
    value = number(fill_value)
    return ops.full_like(x, bool(value) if k.out.dtype == "bool" else value, dtype=k.out.dtype)


def _new(k: Any, size: Sequence[Any], value: Any) -> Tensor:
    """A constant tensor, in the axis order in which the driver labels the result of an ELEMENTWISE rule."""
    size = [size[a] for a in k.perm] if len(k.perm) == len(size) else list(size)
    if k.functional and all(is_known(s) for s in size) and not isinstance(value, (Sym, Unknown)):
        return k.broadcast_to(k.constant(np.full([1] * len(size), value), k.out.dtype), size)
    return k.full(size, k.size(value), k.out.dtype)


@rule("aten.new_zeros.default", "aten.new_empty.default", "aten.new_empty_strided.default", layout=ELEMENTWISE)
def new_zeros(k: Any, x: Tensor, size: Sequence[Any], *_: Any, **__: Any) -> Tensor:
    return _new(k, size, 0)


@rule("aten.new_ones.default", layout=ELEMENTWISE)
def new_ones(k: Any, x: Tensor, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return _new(k, size, 1)


@rule("aten.new_full.default", layout=ELEMENTWISE)
def new_full(k: Any, x: Tensor, size: Sequence[Any], fill_value: Any, dtype: Any = None) -> Tensor:
    return _new(k, size, fill_value)


# ------------------------------------------------------------------------------------------------------------- ranges
@rule("aten.arange.start_step")
def arange_start_step(k: Any, start: Any, end: Any, step: Any = 1, dtype: Any = None) -> Tensor:
    if not any(isinstance(v, float) for v in (start, end, step)):
        return k.arange(start, end, step, k.out.dtype)
    count = math.ceil((end - start) / step)  # torch counts and multiplies in double, whatever the dtype
    return k.constant(start + np.arange(count, dtype="float64") * step, k.out.dtype)


@rule("aten.arange.start")
def arange_start(k: Any, start: Any, end: Any, dtype: Any = None) -> Tensor:
    return arange_start_step(k, start, end, 1)


@rule("aten.arange.default")
def arange(k: Any, end: Any, dtype: Any = None) -> Tensor:
    return arange_start_step(k, 0, end, 1)


def _spaced(k: Any, start: Any, end: Any, steps: int) -> Tensor:
    """torch counts from whichever end is nearer."""
    dtype = k.out.dtype if k.out.is_floating else "float64"
    index = np.arange(steps)
    near, last = index < steps // 2, max(steps - 1, 1)
    if not is_tensor(start) and not is_tensor(end):
        kind: Any = np.dtype(dtype).type if dtype != "bfloat16" else np.float32
        step = (kind(end) - kind(start)) / kind(last)
        up, down = kind(start) + step * index.astype(kind), kind(end) - step * (steps - 1 - index).astype(kind)
        return np.where(near | (steps == 1), up, down)
    start, end = (k.cast(v, dtype) if is_tensor(v) else v for v in (start, end))
    step = ops.divide(ops.subtract(end, start), last)
    up = plus(ops.multiply(k.constant(index, dtype), step), start)
    down = ops.subtract(end, ops.multiply(k.constant(steps - 1 - index, dtype), step))
    return ops.where(k.constant(near | (steps == 1)), up, down)


@rule(*(f"aten.linspace.{o}" for o in ("default", "Tensor_Tensor", "Tensor_Scalar", "Scalar_Tensor")))
def linspace(k: Any, start: Any, end: Any, steps: int, dtype: Any = None) -> Tensor:
    points = _spaced(k, start, end, steps)
    return k.constant(points, k.out.dtype) if isinstance(points, np.ndarray) else points


@rule(*(f"aten.logspace.{o}" for o in ("default", "Tensor_Tensor", "Tensor_Scalar", "Scalar_Tensor")))
def logspace(k: Any, start: Any, end: Any, steps: int, base: float = 10.0, dtype: Any = None) -> Tensor:
    points = _spaced(k, start, end, steps)
    return (
        k.constant(np.power(base, points), k.out.dtype) if isinstance(points, np.ndarray) else ops.power(base, points)
    )


# ----------------------------------------------------------------------------------------------------------- matrices
@rule("aten.eye.default", "aten.eye.m")
def eye(k: Any, n: Any, m: Any = None, dtype: Any = None) -> Tensor:
    m = n if m is None else m
    if is_known(n) and is_known(m):
        return k.constant(np.eye(n, m), k.out.dtype)
    rows, columns = k.arange(0, n, 1, "int32"), k.arange(0, m, 1, "int32")
    return k.cast(ops.equal(ops.expand_dims(rows, 1), ops.expand_dims(columns, 0)), k.out.dtype)


@rule("aten.tril.default")
def tril(k: Any, x: Tensor, diagonal: Any = 0) -> Tensor:
    return _triangle(k, x, diagonal, lower=True)


@rule("aten.triu.default")
def triu(k: Any, x: Tensor, diagonal: Any = 0) -> Tensor:
    return _triangle(k, x, diagonal, lower=False)


def _triangle(k: Any, x: Tensor, diagonal: Any, lower: bool) -> Tensor:
    rows, columns = k.shape(x)[-2:]
    if is_known(diagonal) and k.functional and not (is_known(rows) and is_known(columns)):
        return ops.tril(x, diagonal) if lower else ops.triu(x, diagonal)
    if is_known(rows) and is_known(columns) and is_known(diagonal):
        keep = k.constant(np.tri(rows, columns, diagonal if lower else diagonal - 1, dtype=bool) == lower)
    else:
        offset = ops.subtract(
            ops.expand_dims(k.arange(0, columns, 1, "int32"), 0), ops.expand_dims(k.arange(0, rows, 1, "int32"), 1)
        )
        keep = (ops.less_equal if lower else ops.greater_equal)(offset, diagonal)
    return ops.where(keep, x, ops.zeros_like(x)) if k.dtype(x) != "bool" else ops.logical_and(keep, x)


@rule("aten.tril_indices.default")
def tril_indices(k: Any, row: int, col: int, offset: int = 0, dtype: Any = None) -> Tensor:
    return k.constant(np.stack(np.tril_indices(row, offset, col)), k.out.dtype)


@rule("aten.triu_indices.default")
def triu_indices(k: Any, row: int, col: int, offset: int = 0, dtype: Any = None) -> Tensor:
    return k.constant(np.stack(np.triu_indices(row, offset, col)), k.out.dtype)
