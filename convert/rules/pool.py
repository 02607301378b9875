"""Rules: pooling. Maxima pad with -infinity, their gradient goes to the first of equals; means count as torch's do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ..builder import Dynamic, is_known
from .operands import plus
from .registry import SPATIAL, layer_form, rule
from .spatial import (
    Pads,
    along,
    batched,
    bin_means,
    bins,
    ints,
    line,
    out_sizes,
    pad,
    same_is_exact,
    sizes_of,
    taps,
    unbatched,
    whole,
)

MAX = {f"aten.max_pool{n}d.default": n for n in (1, 2, 3)}
MAX_INDEXED = {
    "aten.max_pool1d_with_indices.default": 1,
    "aten.max_pool2d_with_indices.default": 2,
    "aten.max_pool3d_with_indices.default": 3,
}
AVERAGE = {f"aten.avg_pool{n}d.default": n for n in (1, 2, 3)}
ADAPTIVE = {
    f"aten.{prefix}adaptive_avg_pool{n}d.default": n for n in (1, 2, 3) for prefix in ("", "_") if n > 1 or not prefix
}
ADAPTIVE_MAX = {f"aten.adaptive_max_pool{n}d.default": n for n in (1, 2, 3)}
LAYERS = {
    "max": (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D),
    "average": (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D),
    "global": (
        keras.layers.GlobalAveragePooling1D,
        keras.layers.GlobalAveragePooling2D,
        keras.layers.GlobalAveragePooling3D,
    ),
}


def padding_of(
    sizes: Sequence[Any],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Pads:
    """(before, after) per axis; ceil_mode adds at the end what the last window needs, unless it would start in the
    padding.
    """
    pads = []
    for size, w, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        reach, extra = d * (w - 1) + 1, 0
        if ceil_mode and s > 1:
            out = -((size + 2 * p - reach) // -s) + 1
            beyond = (out - 1) * s >= size + p
            out = out - (int(beyond) if is_known(size) else ops.cast(beyond, "int32"))
            extra = (out - 1) * s + reach - (size + 2 * p)
            extra = max(extra, 0) if is_known(size) else ops.maximum(extra, 0)
        pads.append((p, p + extra))
    return pads


def least(dtype: str) -> float:
    """What padding a maximum must not see: -infinity, or the least integer."""
    return -math.inf if dtype.startswith(("float", "bfloat")) else int(np.iinfo(dtype).min)


def first_max(x: Any, axis: int) -> tuple[Any, Any]:
    """The maximum along `axis`, kept, and its first position; the gradient goes there alone."""
    at = ops.argmax(x, axis=axis, keepdims=True)
    return ops.take_along_axis(x, at, axis=axis), at


# ------------------------------------------------------------------------------------------------------------ max
# pooling
def pooled(k: Any, pool: Any, x: Any, w: Windows, mode: str) -> Any:
    """`ops.max_pool` or `ops.average_pool` on batched `x`, padded by the caller unless `mode` is "same".

    Three spatial axes are pooled one by one: TensorFlow has no 3-D pooling in float64, and its MaxPool3D hands the
    gradient to all of several equal maxima. The last axis goes first, so that the first in row-major order wins, as
    in torch. Uneven windows of a Functional node likewise: Keras reloads a tuple as a list, which its JAX backend
    does not take.
    """
    even = len(set(w.kernel)) == len(set(w.stride)) == 1
    if w.n < 3 and (even or not k.functional):
        return pool(x, w.kernel[0] if even else w.kernel, w.stride[0] if even else w.stride, mode, "channels_last")
    if mode == "same":
        raise Dynamic("uneven windows with implicit padding")
    sizes = [size + lo + hi for size, (lo, hi) in zip(w.sizes, w.pads, strict=True)]
    channels = x.shape[-1]
    for axis in reversed(range(w.n)):
        width = channels
        for size in sizes[axis + 1 :]:
            width = width * size
        x = pool(k.reshape(x, [-1, sizes[axis], width]), w.kernel[axis], w.stride[axis], "valid", "channels_last")
        sizes[axis] = w.out[axis]
        x = k.reshape(x, [-1, *sizes, channels])
    return x


class Windows:
    """The geometry of one pooling call."""

    def __init__(
        self, k: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, n: int
    ) -> None:
        self.n = n
        self.kernel = ints(kernel, n)
        self.stride = ints(stride, n) if not isinstance(stride, (list, tuple)) or stride else self.kernel
        self.dilation = ints(dilation, n)
        self.sizes = sizes_of(k, x, n)
        # with ceil_mode a window may be wider than what there is: then it is all of it
        self.kernel = tuple(
            min(width, size + 2 * around) if is_known(size) and d == 1 else width
            for width, size, around, d in zip(self.kernel, self.sizes, ints(padding, n), self.dilation, strict=True)
        )
        self.pads = padding_of(self.sizes, self.kernel, self.stride, ints(padding, n), self.dilation, ceil_mode)
        self.lows = [lo for lo, _ in self.pads]

    @property
    def out(self) -> list[Any]:
        return out_sizes(self.sizes, self.pads, self.kernel, self.stride, self.dilation)

    @property
    def is_dilated(self) -> bool:
        return any(d > 1 for d in self.dilation)

    @property
    def same(self) -> bool:
        return same_is_exact(self.sizes, self.kernel, self.stride, self.dilation, self.pads)


def max_taps(x: Any, w: Windows, dtype: str) -> tuple[Any, Any]:
    """Maxima and the number of the kernel position where each was first met."""
    views = ops.stack(taps(pad(x, w.pads, least(dtype)), w.kernel, w.stride, w.dilation, w.out), axis=-1)
    value, at = first_max(views, -1)
    return ops.squeeze(value, -1), ops.squeeze(at, -1)


@rule(*MAX, layout=SPATIAL)
def max_pool(k: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    w = Windows(k, x, kernel, stride, padding, dilation, ceil_mode, MAX[k.node.op])
    dtype = k.dtype(x)
    x, single = batched(x, w.n)
    if w.is_dilated:
        y = max_taps(x, w, dtype)[0]
    else:
        same = w.same and w.n < 3
        y = pooled(k, ops.max_pool, x if same else pad(x, w.pads, least(dtype)), w, "same" if same else "valid")
    return unbatched(y, w.n) if single else y


@layer_form(*MAX, params=())
def max_pool_layer(k: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    w = Windows(k, x, kernel, stride, padding, dilation, ceil_mode, MAX[k.node.op])
    if w.is_dilated or w.n == 3 or len(x.shape) != w.n + 2:  # MaxPooling3D: see `pooled`
        return None
    x, mode = (x, "same") if w.same else (pad(x, w.pads, least(k.dtype(x))), "valid")
    return pooling_layer(k, "max", w, x, mode)


def pooling_layer(k: Any, kind: str, w: Windows, x: Any, mode: str) -> Any:
    cls = LAYERS[kind][w.n - 1]
    size, stride = (w.kernel[0], w.stride[0]) if w.n == 1 else (w.kernel, w.stride)
    return k.layer(cls, x, weights={}, pool_size=size, strides=stride, padding=mode, data_format="channels_last")


@rule(*MAX_INDEXED, layout=SPATIAL)
def max_pool_with_indices(
    k: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Any, Any]:
    w = Windows(k, x, kernel, stride, padding, dilation, ceil_mode, MAX_INDEXED[k.node.op])
    dtype = k.dtype(x)
    x, single = batched(x, w.n)
    value, tap = max_taps(x, w, dtype)
    index: Any = None
    for axis in range(w.n):
        position = np.indices(w.kernel)[axis].reshape(-1) * w.dilation[axis] - w.lows[axis]
        start = line(k, w.out[axis], "int64") * w.stride[axis]
        shape = [-1 if a == axis + 1 else 1 for a in range(w.n + 2)]
        at = plus(ops.take(k.constant(position, "int64"), tap, axis=0), ops.reshape(start, shape))
        index = at if axis == 0 else plus(index * whole(w.sizes[axis]), at)
    return (unbatched(value, w.n), unbatched(index, w.n)) if single else (value, index)


# -------------------------------------------------------------------------------------------------------- average
# pooling
def counts(w: Windows, include: bool) -> np.ndarray:
    """How many elements each window counts, (1, *out, 1)."""
    total = np.ones((1,) * (w.n + 2))
    for axis, (size, out) in enumerate(zip(w.sizes, w.out, strict=True)):
        start = np.arange(out) * w.stride[axis] - w.lows[axis]
        end = np.minimum(start + w.kernel[axis], size + w.lows[axis])
        count = end - start if include else np.minimum(end, size) - np.maximum(start, 0)
        total = total * count.reshape([-1 if a == axis + 1 else 1 for a in range(w.n + 2)])
    return total


def plain_average(w: Windows, include: bool, divisor: Any) -> str | None:
    """The Keras padding under which its own average pooling is torch's, after explicit padding for "valid"; None:
    none is.
    """
    if divisor is not None or not all(is_known(hi) for _, hi in w.pads):
        return None
    if w.n == 3 and not include and w.same and any(lo or hi for lo, hi in w.pads):
        return None
    if not any(lo or hi for lo, hi in w.pads) or (include and all(lo == hi for lo, hi in w.pads)):
        return "valid"
    return "same" if not include and w.same else None


@rule(*AVERAGE, layout=SPATIAL)
def avg_pool(
    k: Any,
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any = None,
) -> Any:
    w = Windows(k, x, kernel, stride, padding, 1, ceil_mode, AVERAGE[k.node.op])
    dtype = k.dtype(x)
    x, single = batched(x, w.n)
    mode = plain_average(w, count_include_pad, divisor_override)

    def average(a: Any, pads: Any = None) -> Any:
        same = mode == "same" and w.n < 3
        return pooled(k, ops.average_pool, a if same else pad(a, pads or w.pads), w, "same" if same else "valid")

    y = average(x)
    if divisor_override is not None:
        y = y * (math.prod(w.kernel) / divisor_override)
    elif mode is None and all(is_known(s) for s in w.sizes):
        y = y * k.constant(math.prod(w.kernel) / counts(w, count_include_pad), dtype)
    elif mode is None:
        ones, rest = ops.ones_like(x[..., :1]), w.pads
        if count_include_pad:  # padding counts, what ceil_mode adds behind it does not
            ones, rest = pad(ones, [(lo, lo) for lo in w.lows], 1.0), [(0, hi - lo) for lo, hi in w.pads]
        y = y / average(ones, rest)
    return unbatched(y, w.n) if single else y


@layer_form(*AVERAGE, params=())
def avg_pool_layer(
    k: Any,
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any = None,
) -> Any:
    w = Windows(k, x, kernel, stride, padding, 1, ceil_mode, AVERAGE[k.node.op])
    mode = plain_average(w, count_include_pad, divisor_override)
    if mode is None or len(x.shape) != w.n + 2 or (w.n == 3 and k.dtype(x) == "float64"):
        return None
    return pooling_layer(k, "average", w, x if mode == "same" else pad(x, w.pads), mode)


# ------------------------------------------------------------------------------------------------------- adaptive
# pooling
def divides(sizes: Sequence[Any], outs: Sequence[Any]) -> bool:
    return all(is_known(s) and is_known(o) and o > 0 and s % o == 0 for s, o in zip(sizes, outs, strict=True))


@rule(*ADAPTIVE, layout=SPATIAL)
def adaptive_avg_pool(k: Any, x: Any, output_size: Any) -> Any:
    n = ADAPTIVE[k.node.op]
    given, outs, sizes, dtype = x, ints(output_size, n), sizes_of(k, x, n), k.dtype(x)
    batch = k.shape(x)[0] if len(x.shape) == n + 2 else 1
    x, single = batched(x, n)
    if all(is_known(o) and o == 1 for o in outs):
        y = ops.mean(x, axis=tuple(range(1, n + 1)), keepdims=True)
    elif divides(sizes, outs):
        window = [s // o for s, o in zip(sizes, outs, strict=True)]
        y = pooled(k, ops.average_pool, x, Windows(k, given, window, window, 0, 1, False, n), "valid")
    else:
        y = x
        for axis, (size, out) in enumerate(zip(sizes, outs, strict=True)):
            y = along(k, y, axis, bin_means(k, size, out, dtype), batch, [*outs[:axis], *sizes[axis:]], out)
    return unbatched(y, n) if single else y


@layer_form(*ADAPTIVE, params=())
def adaptive_avg_pool_layer(k: Any, x: Any, output_size: Any) -> Any:
    n = ADAPTIVE[k.node.op]
    if len(x.shape) != n + 2 or any(not is_known(o) or o != 1 for o in ints(output_size, n)):
        return None
    return k.layer(LAYERS["global"][n - 1], x, weights={}, keepdims=True, data_format="channels_last")


@rule(*ADAPTIVE_MAX, layout=SPATIAL)
def adaptive_max_pool(k: Any, x: Any, output_size: Any) -> tuple[Any, Any]:
    """Axis by axis from the last, so that among equals the first in row-major order wins, as in torch."""
    n = ADAPTIVE_MAX[k.node.op]
    outs, sizes = ints(output_size, n), sizes_of(k, x, n)
    x, single = batched(x, n)
    index, below = None, 1
    for axis in reversed(range(n)):
        values, indices = [], []
        for start, end in bins(sizes[axis], outs[axis]):
            cut = (slice(None),) * (axis + 1) + (slice(start, end),)
            value, at = first_max(x[cut], axis + 1)
            here = (ops.cast(at, "int64") + whole(start)) * below
            values.append(value)
            indices.append(here if index is None else here + ops.take_along_axis(index[cut], at, axis=axis + 1))
        x, index = ops.concatenate(values, axis + 1), ops.concatenate(indices, axis + 1)
        below = below * whole(sizes[axis])
    return (unbatched(x, n), unbatched(index, n)) if single else (x, index)


# ----------------------------------------------------------------------------------------------- fractional max pooling
def fractional_starts(k: Any, sample: Any, size: Any, out: int, pool: int, dtype: str) -> Any:
    """The first positions (N, C, out) of the windows along one axis, torch's generate_intervals; `sample` (N, C, 1)."""
    if out == 1:
        return ops.zeros_like(sample, dtype="int64") + whole(size - pool)
    alpha = (size - pool) / (out - 1)
    i = k.constant(np.arange(out - 1), dtype)
    starts = ops.cast(plus(sample, i) * alpha, "int64") - ops.cast(sample * alpha, "int64")
    return ops.concatenate([starts, ops.zeros_like(starts[..., :1]) + whole(size - pool)], -1)


@rule("aten.fractional_max_pool2d.default", "aten.fractional_max_pool3d.default")
def fractional_max_pool(k: Any, x: Any, kernel: Any, output_size: Any, samples: Any) -> tuple[Any, Any]:
    """Windows at pseudo-random places given by `samples` (N, C, n): x before y in 2-D, depth first in 3-D."""
    n = 2 if "2d" in k.node.op else 3
    single = k.rank(x) == n + 1
    shape = ((1,) if single else ()) + tuple(k.shape(x))
    sizes, outs, kernel = shape[2:], ints(output_size, n), ints(kernel, n)
    index: Any = None
    for axis in range(n):
        sample = samples[..., n - 1 - axis if n == 2 else axis][..., None]
        starts = fractional_starts(k, sample, sizes[axis], outs[axis], kernel[axis], k.dtype(samples))
        width = [1] * (2 * n)
        width[axis] = outs[axis]
        places = ops.reshape(starts, (-1, shape[1], *width))
        steps = np.arange(kernel[axis]).reshape([-1 if a == n + axis else 1 for a in range(2 * n)])
        places = plus(places, k.constant(steps[None, None], "int64"))
        index = places if index is None else plus(index * whole(sizes[axis]), places)
    count, window = math.prod(outs), math.prod(kernel)
    flat = k.reshape(x, [-1, shape[1], math.prod(sizes)])
    flat = ops.take_along_axis(flat, ops.reshape(index, (-1, shape[1], count * window)), 2)
    value, at = first_max(ops.reshape(flat, (-1, shape[1], *outs, window)), -1)
    found = ops.take_along_axis(ops.reshape(index, (-1, shape[1], *outs, window)), ops.cast(at, "int64"), -1)
    value, found = ops.squeeze(value, -1), ops.squeeze(found, -1)
    return (ops.squeeze(value, 0), ops.squeeze(found, 0)) if single else (value, found)
