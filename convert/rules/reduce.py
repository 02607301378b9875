"""Rules: sums, means, extrema, norms and cumulative ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from ..builder import is_known
from .operands import by_parts, is_float, plus, product, root, torch_order
from .registry import MAPPED, rule

Tensor = Any


def axes_of(k: Any, x: Tensor, dim: Any, keepdim: bool) -> tuple[int, ...]:
    """The positions to reduce; a 0-d tensor has none, whatever `dim` says."""
    return k.reduce(dim, keepdim) if k.rank(x) else ()


# ---------------------------------------------------------------------------------------------------- sums and means
@rule("aten.sum.default", "aten.sum.dim_IntList", layout=MAPPED)
def sum_(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return ops.sum(k.cast(x, k.out.dtype), axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.mean.default", "aten.mean.dim", layout=MAPPED)
def mean(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    axes = axes_of(k, x, dim, keepdim)
    return by_parts(lambda y: ops.mean(y, axis=axes, keepdims=keepdim), k.cast(x, k.out.dtype))


@rule("aten.nansum.default", layout=MAPPED)
def nansum(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    y = ops.where(ops.isnan(x), ops.zeros_like(x), x) if is_float(k, x) else x
    return ops.sum(k.cast(y, k.out.dtype), axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.prod.default", "aten.prod.dim_int", layout=MAPPED)
def prod(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return ops.prod(k.cast(x, k.out.dtype), axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList", layout=MAPPED)
def count_nonzero(k: Any, x: Tensor, dim: Any = None) -> Tensor:
    return ops.sum(ops.cast(ops.not_equal(x, 0), "int64"), axis=axes_of(k, x, dim, False))


@rule("aten.any.default", "aten.any.dim", "aten.any.dims", layout=MAPPED)
def any_(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return ops.any(ops.cast(x, "bool"), axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.all.default", "aten.all.dim", "aten.all.dims", layout=MAPPED)
def all_(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return ops.all(ops.cast(x, "bool"), axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.trace.default")
def trace(k: Any, x: Tensor) -> Tensor:
    return ops.sum(ops.diagonal(k.cast(x, k.out.dtype)))


# ----------------------------------------------------------------------------------------------------------- variance
def _moments(k: Any, x: Tensor, dim: Any, correction: Any, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Variance with Bessel's `correction` (None is 1) and the mean."""
    axes = axes_of(k, x, dim, keepdim)
    correction = 1 if correction is None else correction
    center = ops.mean(x, axis=axes, keepdims=True)
    squares = ops.square(ops.subtract(x, center))
    if correction == 0:
        variance = ops.mean(squares, axis=axes, keepdims=keepdim)
    else:
        sizes = [k.shape(x)[a] for a in axes]
        if all(is_known(s) for s in sizes):
            free: Any = float(max(product(sizes) - correction, 0))
        else:
            free = ops.maximum(ops.subtract(ops.sum(ops.ones_like(x), axis=axes, keepdims=keepdim), correction), 0.0)
        variance = ops.divide(ops.sum(squares, axis=axes, keepdims=keepdim), free)
    return variance, center if keepdim else ops.squeeze(center, axis=axes)


@rule("aten.var.correction", layout=MAPPED)
def var(k: Any, x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Tensor:
    return _moments(k, x, dim, correction, keepdim)[0]


@rule("aten.std.correction", layout=MAPPED)
def std(k: Any, x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Tensor:
    return root(var(k, x, dim, correction, keepdim))


@rule("aten.var_mean.correction", layout=MAPPED)
def var_mean(
    k: Any, x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    return _moments(k, x, dim, correction, keepdim)


@rule("aten.std_mean.correction", layout=MAPPED)
def std_mean(
    k: Any, x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    variance, center = _moments(k, x, dim, correction, keepdim)
    return root(variance), center


for _name, _by_correction in {"var": var, "std": std, "var_mean": var_mean, "std_mean": std_mean}.items():
    rule(f"aten.{_name}.default", layout=MAPPED)(
        lambda k, x, unbiased=True, _f=_by_correction: _f(k, x, None, int(unbiased))
    )
    rule(f"aten.{_name}.dim", layout=MAPPED)(
        lambda k, x, dim=None, unbiased=True, keepdim=False, _f=_by_correction: _f(k, x, dim, int(unbiased), keepdim)
    )


# ------------------------------------------------------------------------------------------------------------ extrema
@rule("aten.amax.default", "aten.max.default", layout=MAPPED)
def amax(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Equal maxima share the gradient evenly."""
    y = ops.cast(x, "int32") if k.dtype(x) == "bool" else x
    return ops.max(y, axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.amin.default", "aten.min.default", layout=MAPPED)
def amin(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    y = ops.cast(x, "int32") if k.dtype(x) == "bool" else x
    return ops.min(y, axis=axes_of(k, x, dim, keepdim), keepdims=keepdim)


@rule("aten.aminmax.default", layout=MAPPED)
def aminmax(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return amin(k, x, dim, keepdim), amax(k, x, dim, keepdim)


def _first(k: Any, x: Tensor, axis: int, greatest: bool) -> Tensor:
    """The index of the first extremum, NaN counting as one. Keras tells -0.0 from 0.0, torch does not."""
    if is_float(k, x):
        x = ops.where(ops.equal(x, 0), ops.zeros_like(x), x)
        top = float(np.finfo(k.dtype(x)).max) if k.dtype(x) != "bfloat16" else 3.3895313892515355e38
        x = ops.minimum(x, top) if greatest else ops.maximum(x, -top)  # so that a NaN outranks an infinity
        x = ops.where(ops.isnan(x), math.inf if greatest else -math.inf, x)
    elif k.dtype(x) == "bool":
        x = ops.cast(x, "int32")
    return ops.argmax(x, axis=axis) if greatest else ops.argmin(x, axis=axis)


def _arg(greatest: bool) -> Callable[..., Any]:
    def lower(k: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        rank = k.rank(x)
        if dim is None or not rank:
            index = _first(k, ops.reshape(torch_order(k, x), (-1,)), 0, greatest)
            axes_of(k, x, None, keepdim)
            return ops.reshape(index, (1,) * rank) if keepdim else index
        (axis,) = axes_of(k, x, dim, keepdim)
        index = _first(k, x, axis, greatest)
        return ops.expand_dims(index, axis) if keepdim else index

    return lower


rule("aten.argmax.default", layout=MAPPED)(_arg(True))
rule("aten.argmin.default", layout=MAPPED)(_arg(False))


def _with_index(greatest: bool) -> Callable[..., Any]:
    def lower(k: Any, x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
        """The gradient goes to the first extremum alone."""
        if not k.rank(x):
            return ops.multiply(x, 1), ops.cast(ops.zeros_like(x), "int64")
        (axis,) = axes_of(k, x, dim, keepdim)
        index = ops.expand_dims(_first(k, x, axis, greatest), axis)
        value = ops.take_along_axis(x, index, axis=axis)
        return (value, index) if keepdim else (ops.squeeze(value, axis), ops.squeeze(index, axis))

    return lower


rule("aten.max.dim", layout=MAPPED)(_with_index(True))
rule("aten.min.dim", layout=MAPPED)(_with_index(False))


@rule("aten.median.default", layout=MAPPED)
def median(k: Any, x: Tensor) -> Tensor:
    """The lower middle value; its equals share the gradient."""
    axes_of(k, x, None, False)
    flat = ops.reshape(x, (-1,))
    value = ops.stop_gradient(ops.take(ops.sort(flat), (product(k.shape(x)) - 1) // 2))
    if not is_float(k, x):
        return value
    equal = ops.equal(flat, value)
    shared = ops.divide(ops.sum(ops.where(equal, flat, ops.zeros_like(flat))), ops.sum(ops.cast(equal, k.dtype(x))))
    value = ops.where(ops.any(ops.isnan(flat)), math.nan, value)
    return plus(value, ops.subtract(shared, ops.stop_gradient(shared)))


@rule("aten.median.dim", layout=MAPPED)
def median_dim(k: Any, x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower middle value and its place; the first NaN where there is one."""
    if not k.rank(x):
        return ops.multiply(x, 1), ops.cast(ops.zeros_like(x), "int64")
    (axis,) = axes_of(k, x, dim, keepdim)
    index = ops.expand_dims(ops.take(ops.argsort(x, axis=axis), (k.shape(x)[axis] - 1) // 2, axis=axis), axis)
    if is_float(k, x):
        nan = ops.isnan(x)
        first = ops.argmax(ops.cast(nan, "int32"), axis=axis, keepdims=True)
        index = ops.where(ops.any(nan, axis=axis, keepdims=True), ops.cast(first, index.dtype), index)
    value = ops.take_along_axis(x, index, axis=axis)
    return (value, index) if keepdim else (ops.squeeze(value, axis), ops.squeeze(index, axis))


# -------------------------------------------------------------------------------------------------- logs and norms
@rule("aten.logsumexp.default", layout=MAPPED)
def logsumexp(k: Any, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    axes = axes_of(k, x, dim, keepdim)
    x = k.cast(x, k.out.dtype)
    return ops.logsumexp(x, axis=axes, keepdims=keepdim) if axes else ops.multiply(x, 1.0)


def vector_norm(x: Tensor, p: Any, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """(sum |x|^p)^(1/p); a zero vector has a zero gradient, equal maxima share theirs."""
    if p == 2:
        return root(ops.sum(ops.square(x), axis=axes, keepdims=keepdims))
    if p == 0:
        return ops.sum(ops.cast(ops.not_equal(x, 0), x.dtype), axis=axes, keepdims=keepdims)
    size = ops.abs(x)
    if p == 1:
        return ops.sum(size, axis=axes, keepdims=keepdims)
    if math.isinf(p):
        return (ops.max if p > 0 else ops.min)(size, axis=axes, keepdims=keepdims)
    zero = ops.equal(size, 0)
    powers = ops.power(ops.where(zero, ops.ones_like(size), size), p)
    total = ops.sum(ops.where(zero, ops.zeros_like(size) if p > 0 else math.inf, powers), axis=axes, keepdims=keepdims)
    none = ops.equal(total, 0)
    return ops.where(none, ops.zeros_like(total), ops.power(ops.where(none, ops.ones_like(total), total), 1 / p))


@rule("aten.linalg_vector_norm.default", layout=MAPPED)
def linalg_vector_norm(
    k: Any, x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    return vector_norm(k.cast(x, k.out.dtype), ord, axes_of(k, x, dim, keepdim), keepdim)


@rule(*(f"aten.norm.{o}" for o in ("Scalar", "ScalarOpt_dim", "ScalarOpt_dim_dtype", "ScalarOpt_dtype")), layout=MAPPED)
def norm(k: Any, x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return linalg_vector_norm(k, x, 2 if p is None else p, dim, keepdim)


@rule("aten.dist.default", promote=True)
def dist(k: Any, x: Tensor, y: Tensor, p: Any = 2) -> Tensor:
    difference = ops.subtract(x, y)
    return vector_norm(difference, p, tuple(range(len(difference.shape))), False)


# --------------------------------------------------------------------------------------------------------- cumulative
@rule("aten.cumsum.default", layout=MAPPED)
def cumsum(k: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = k.cast(x, k.out.dtype)
    return ops.cumsum(x, axis=k.axis(dim)) if k.rank(x) else ops.multiply(x, 1)


def _part(x: Tensor, axis: int, start: int | None, stop: int | None) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, stop),)]


@rule("aten.cumprod.default", layout=MAPPED)
def cumprod(k: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """By doubling steps of plain products: TensorFlow's own gradient is wrong where an entry is zero."""
    if not k.rank(x):
        return ops.multiply(k.cast(x, k.out.dtype), 1)
    axis = k.axis(dim)
    count = k.shape(x)[axis]
    x = k.cast(x, k.out.dtype)
    if not is_known(count):
        return _over_prefixes(k, x, axis, count, 1.0, lambda v: ops.prod(v, axis=-1))
    step = 1
    while step < count:
        tail = ops.multiply(_part(x, axis, step, None), _part(x, axis, None, -step))
        x, step = ops.concatenate([_part(x, axis, None, step), tail], axis=axis), 2 * step
    return x


def _triangle(k: Any, count: Any) -> Tensor:
    """[i, j] -> j <= i."""
    if is_known(count):
        return k.constant(np.tril(np.ones((count, count), bool)))
    index = k.arange(0, count, 1, "int32")
    return ops.less_equal(ops.expand_dims(index, 0), ops.expand_dims(index, 1))


def _over_prefixes(k: Any, x: Tensor, axis: int, count: Any, fill: float, reduce: Callable[..., Any]) -> Tensor:
    """`reduce` (over the last axis) of each prefix along `axis`. Memory grows with the square of the axis."""
    rows = ops.expand_dims(ops.moveaxis(x, axis, -1), -2)
    return ops.moveaxis(reduce(ops.where(_triangle(k, count), rows, fill)), -1, axis)


@rule("aten.logcumsumexp.default", layout=MAPPED)
def logcumsumexp(k: Any, x: Tensor, dim: int) -> Tensor:
    if not k.rank(x):
        return ops.multiply(x, 1)
    axis = k.axis(dim)
    return _over_prefixes(k, x, axis, k.shape(x)[axis], -math.inf, lambda v: ops.logsumexp(v, axis=-1))


def _running(greatest: bool) -> Callable[..., Any]:
    def lower(k: Any, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """The last of equal extrema is taken; after a NaN, the last NaN."""
        if not k.rank(x):
            return ops.multiply(x, 1), ops.cast(ops.zeros_like(x), "int64")
        axis = k.axis(dim)
        count = k.shape(x)[axis]
        y = ops.moveaxis(x if k.dtype(x) != "bool" else ops.cast(x, "int32"), axis, -1)
        rows, triangle = ops.expand_dims(y, -2), _triangle(k, count)
        if is_float(k, x):
            fill: Any = -math.inf if greatest else math.inf
        else:
            info = np.iinfo(k.dtype(x) if k.dtype(x) != "bool" else "int32")
            fill = int(info.min if greatest else info.max)
        prefix = ops.where(triangle, rows, fill)
        best = (ops.max if greatest else ops.min)(prefix, axis=-1, keepdims=True)
        hit = ops.equal(rows, best)
        if is_float(k, x):
            hit = ops.logical_or(hit, ops.isnan(rows))
        place = ops.subtract(ops.cumsum(ops.ones_like(ops.cast(rows, "int32")), axis=-1), 1)
        index = ops.max(ops.where(ops.logical_and(hit, triangle), place, 0), axis=-1)
        value = ops.take_along_axis(y, index, axis=-1)
        return ops.moveaxis(value, -1, axis), ops.moveaxis(index, -1, axis)

    return lower


rule("aten.cummax.default", layout=MAPPED)(_running(True))
rule("aten.cummin.default", layout=MAPPED)(_running(False))
