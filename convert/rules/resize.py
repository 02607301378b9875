"""Rules: resizing, as one small interpolation matrix per axis: exact, differentiable, in the dtype of the tensor.

Source positions follow torch's UpSample.h: align_corners maps corners to corners, else pixel centres; a given scale
factor is used as it is (not the ratio of the rounded sizes). Cubic interpolation has a = -0.75, with
antialias -0.5. Nearest repeats or gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ..builder import is_known
from .registry import SPATIAL, layer_form, rule
from .spatial import along, line, sizes_of

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


# ----------------------------------------------------------------------------------------------------- the matrices
def ratio(size: Any, out: Any, align: bool, scale: float | None) -> Any:
    """Source steps per output step."""
    if align:
        if is_known(out):
            return (size - 1) / (out - 1) if out > 1 else 0.0
        return (size - 1) / ops.maximum(out - 1, 1)
    return 1.0 / scale if scale else size / out


def positions(k: Any, size: Any, out: Any, align: bool, scale: float | None) -> Any:
    """The source position of every output, unclipped, in float64."""
    i, step = line(k, out, "float64"), ratio(size, out, align, scale)
    step = step if isinstance(step, float) else ops.cast(step, "float64")
    return i * step if align else (i + 0.5) * step - 0.5


def functions(*arrays: Any) -> Any:
    """numpy for tables of known size, keras.ops otherwise: the few functions used below are in both."""
    return np if all(isinstance(a, np.ndarray) for a in arrays) else ops


def linear_matrix(k: Any, size: Any, out: Any, align: bool, scale: float | None) -> Any:
    """(out, size), two neighbours per row."""
    at, j = positions(k, size, out, align, scale), line(k, size, "float64")
    f = functions(at, j)
    at = f.clip(at, 0.0, _real(size - 1))
    return f.maximum(1.0 - f.abs(at[:, None] - j[None, :]), 0.0)


def cubic_matrix(k: Any, size: Any, out: Any, align: bool, scale: float | None, a: float = -0.75) -> Any:
    """(out, size), four neighbours per row; those beyond the border count for the border."""
    at, j = positions(k, size, out, align, scale), line(k, size, "float64")
    f = functions(at, j)
    start = f.floor(at)
    total: Any = 0.0
    for tap in (-1, 0, 1, 2):
        weight = cubic(f, f.abs(at - start - tap), a)
        hit = f.clip(start + tap, 0.0, _real(size - 1))[:, None] == j[None, :]
        total = total + weight[:, None] * (hit.astype("float64") if f is np else ops.cast(hit, "float64"))
    return total


def cubic(f: Any, t: Any, a: float) -> Any:
    """Keys' cubic convolution kernel at distance t >= 0."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return f.where(t <= 1, near, f.where(t < 2, far, f.zeros_like(t)))


def antialias_matrix(k: Any, size: Any, out: Any, align: bool, scale: float | None, is_cubic: bool) -> Any:
    """(out, size): Pillow's filters, as wide as the reduction, rows summing to one."""
    step = ratio(size, out, align, scale)
    known = is_known(size) and is_known(out)
    step = step if known else ops.cast(step, "float64")
    wide = max(step, 1.0) if known else ops.maximum(step, 1.0)
    i, j = line(k, out, "float64"), line(k, size, "float64")
    f = functions(i, j)
    support = (2.0 if is_cubic else 1.0) * wide
    centre = (i + 0.5) * step
    low = f.maximum(f.trunc(centre - support + 0.5), 0.0)
    high = f.minimum(f.trunc(centre + support + 0.5), _real(size))
    t = f.abs(j[None, :] - centre[:, None] + 0.5) / wide
    weight = cubic(f, t, -0.5) if is_cubic else f.maximum(1.0 - t, 0.0)
    weight = f.where((j[None, :] >= low[:, None]) & (j[None, :] < high[:, None]), weight, f.zeros_like(weight))
    return weight / f.sum(weight, axis=1, keepdims=True)


def _real(size: Any) -> Any:
    return float(size) if is_known(size) else ops.cast(size, "float64")


def interpolate(k: Any, x: Any, align: bool, scales: Sequence[Any], matrix: Any, **options: Any) -> Any:
    """`matrix(...)` of every axis applied to it; an axis that stays as it is costs nothing."""
    n = k.rank(x) - 2
    sizes, batch, dtype = sizes_of(k, x, n), k.shape(x)[0], k.dtype(x)
    outs = [k.size(d) for d in k.out.shape[2:]]
    for axis in range(n):
        table = matrix(k, sizes[axis], outs[axis], align, scales[axis], **options)
        if isinstance(table, np.ndarray):
            if sizes[axis] == outs[axis] and np.array_equal(table, np.eye(outs[axis])):
                continue
            table = k.constant(table, dtype)
        else:
            table = ops.cast(table, dtype)
        x = along(k, x, axis, table, batch, [*outs[:axis], *sizes[axis:]], outs[axis])
    return x


def factors(scales: Any, n: int) -> list[Any]:
    return list(scales) if scales else [None] * n


for _n in (1, 2, 3):

    @rule(f"aten.upsample_{LINEAR[_n]}{_n}d.vec", layout=SPATIAL)
    def upsample_linear_vec(k: Any, x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
        return interpolate(k, x, align_corners, factors(scale_factors, k.rank(x) - 2), linear_matrix)

    @rule(f"aten.upsample_{LINEAR[_n]}{_n}d.default", layout=SPATIAL)
    def upsample_linear(k: Any, x: Any, output_size: Any, align_corners: bool, *scales: Any) -> Any:
        return interpolate(k, x, align_corners, scales, linear_matrix)


@rule("aten.upsample_bicubic2d.vec", layout=SPATIAL)
def upsample_bicubic2d_vec(k: Any, x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    return interpolate(k, x, align_corners, factors(scale_factors, 2), cubic_matrix)


@rule("aten.upsample_bicubic2d.default", layout=SPATIAL)
def upsample_bicubic2d(k: Any, x: Any, output_size: Any, align_corners: bool, *scales: Any) -> Any:
    return interpolate(k, x, align_corners, scales, cubic_matrix)


@rule("aten._upsample_bilinear2d_aa.vec", "aten._upsample_bicubic2d_aa.vec", layout=SPATIAL)
def upsample_aa_vec(k: Any, x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    return interpolate(
        k, x, align_corners, factors(scale_factors, 2), antialias_matrix, is_cubic="bicubic" in k.node.op
    )


@rule("aten._upsample_bilinear2d_aa.default", "aten._upsample_bicubic2d_aa.default", layout=SPATIAL)
def upsample_aa(k: Any, x: Any, output_size: Any, align_corners: bool, *scales: Any) -> Any:
    return interpolate(k, x, align_corners, scales, antialias_matrix, is_cubic="bicubic" in k.node.op)


# -------------------------------------------------------------------------------------------------------- nearest
def nearest_index(size: int, out: int, scale: float | None, exact: bool, dtype: str, rounded: bool) -> np.ndarray:
    """The source index of every output as torch's CPU kernels round it.

    One computes in the tensor's dtype; the other (`rounded`: 2-D outputs of up to 256 rows and columns in all) in
    float32.
    """
    i: Any = np.arange(out)
    real: Any = np.float64 if dtype == "float64" and not rounded else np.float32
    step = real(1.0 / scale) if scale else real(size) / real(out)
    if not exact:
        at = (i.astype(real) * step).astype(np.float32)
    elif rounded:
        at = ((i + 0.5) * np.float64(step)).astype(np.float32)
    else:
        at = ((np.float64(step) * (i + 0.5) - 0.5).astype(real) + real(0.5)).astype(np.float32)
    index: np.ndarray = np.minimum(np.floor(at).astype(np.int64), size - 1)
    return index


def whole_factor(index: np.ndarray, size: int) -> int | None:
    """The factor if the index only repeats every entry the same number of times."""
    factor = len(index) // size if size and len(index) % size == 0 else 0
    return factor if factor and np.array_equal(index, np.arange(len(index)) // factor) else None


def tables(k: Any, x: Any, scales: Sequence[Any], exact: bool) -> list[np.ndarray] | None:
    """The indices of every axis where the sizes are known."""
    n = k.rank(x) - 2
    sizes, outs = sizes_of(k, x, n), [k.size(d) for d in k.out.shape[2:]]
    if not all(is_known(s) for s in (*sizes, *outs)):
        return None
    rounded = n == 2 and sum(outs) <= 256
    return [nearest_index(*row, exact, k.dtype(x), rounded) for row in zip(sizes, outs, scales, strict=True)]


def nearest(k: Any, x: Any, scales: Sequence[Any], exact: bool) -> Any:
    found = tables(k, x, scales, exact)
    if found is None:
        return nearest_free(k, x, scales, exact)
    for axis, index in enumerate(found, start=1):
        factor = whole_factor(index, x.shape[axis])
        if factor is None:
            x = ops.take(x, k.constant(index, "int32"), axis=axis)
        elif factor > 1:
            x = ops.repeat(x, factor, axis=axis)
    return x


def nearest_free(k: Any, x: Any, scales: Sequence[Any], exact: bool) -> Any:
    """The same for sizes that are only known at call time, in float32 steps."""
    sizes = sizes_of(k, x, k.rank(x) - 2)
    for axis, (size, dim, scale) in enumerate(zip(sizes, k.out.shape[2:], scales, strict=True), start=1):
        if (
            scale
            and scale == int(scale)
            and np.array_equal(np.floor(np.arange(4096) * np.float32(1 / scale)), np.arange(4096) // scale)
        ):
            x = ops.repeat(x, int(scale), axis=axis)
            continue
        out = k.size(dim)
        step = 1.0 / scale if scale else ops.cast(size, "float32") / ops.cast(out, "float32")
        at = ops.cast(line(k, out, "float32"), "float32") + (0.5 if exact else 0.0)
        x = ops.take(x, ops.minimum(ops.cast(ops.floor(at * step), "int32"), ops.cast(size - 1, "int32")), axis=axis)
    return x


NEAREST = {f"aten.{prefix}{n}d": n for prefix in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)}


@rule(*(f"{name}.vec" for name in NEAREST), layout=SPATIAL)
def upsample_nearest_vec(k: Any, x: Any, output_size: Any, scale_factors: Any) -> Any:
    return nearest(k, x, factors(scale_factors, k.rank(x) - 2), "exact" in k.node.op)


@rule(*(f"{name}.default" for name in NEAREST), layout=SPATIAL)
def upsample_nearest(k: Any, x: Any, output_size: Any, *scales: Any) -> Any:
    return nearest(k, x, scales, "exact" in k.node.op)


@layer_form(*(f"{name}.vec" for name in NEAREST), params=())
def upsampling_layer(k: Any, x: Any, output_size: Any, scale_factors: Any) -> Any:
    n = k.rank(x) - 2
    found = tables(k, x, factors(scale_factors, n), "exact" in k.node.op)
    sizes = None if found is None else [whole_factor(i, s) for i, s in zip(found, sizes_of(k, x, n), strict=True)]
    if sizes is None or any(s is None for s in sizes) or all(s == 1 for s in sizes):
        return None
    cls = (keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.UpSampling3D)[n - 1]
    config: dict[str, Any] = {"size": sizes[0]} if n == 1 else {"size": tuple(sizes), "data_format": "channels_last"}
    return k.layer(cls, x, weights={}, **config)
