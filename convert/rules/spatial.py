"""What the spatial rules share: batch axes, explicit padding, and where Keras' "same" is exactly torch's padding.

Tensors here are channels last, (N, *spatial, C); `n` is the number of spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from keras import ops

from ..builder import is_known
from ..layout import channels_last

Pads = list[tuple[int, int]]


def ints(value: Any, n: int) -> tuple[Any, ...]:
    """torch's int-or-list argument as `n` entries."""
    entries = [value] if not isinstance(value, (list, tuple)) else list(value)
    return tuple(entries * n if len(entries) == 1 else entries)


def sizes_of(k: Any, x: Any, n: int) -> list[Any]:
    """The spatial sizes, torch order, of a batched or unbatched operand as it is handed to a SPATIAL rule."""
    shape = k.shape(x)
    if len(shape) == n + 2:
        return list(shape[1:-1])
    order = channels_last(n + 1)
    return [shape[order.index(a)] for a in range(1, n + 1)]


def batched(x: Any, n: int) -> tuple[Any, bool]:
    """`x` as (N, *spatial, C), and whether a batch axis was added. Without a batch the driver hands over (C, s2..,
    s1).
    """
    if len(x.shape) == n + 2:
        return x, False
    order = channels_last(n + 1)
    axes = [order.index(a) for a in (*range(1, n + 1), 0)]
    return ops.expand_dims(ops.transpose(x, axes) if axes != list(range(n + 1)) else x, 0), True


def unbatched(y: Any, n: int) -> Any:
    """The inverse of `batched`."""
    order = (*range(1, n + 1), 0)
    return ops.transpose(ops.squeeze(y, 0), [order.index(a) for a in channels_last(n + 1)])


def pad(x: Any, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Any:
    """The spatial axes padded by (before, after) each."""
    if all(is_known(p) and p == 0 for side in pads for p in side):
        return x
    return ops.pad(x, [(0, 0), *pads, (0, 0)], mode="constant", constant_values=value)


def crop(x: Any, crops: Sequence[tuple[int, int]]) -> Any:
    """The spatial axes cropped by (before, after) each; a negative amount pads with zeros."""
    x = pad(x, [(max(-lo, 0), max(-hi, 0)) for lo, hi in crops])
    cut = tuple(slice(max(lo, 0), -hi if hi > 0 else None) for lo, hi in crops)
    return x[(slice(None), *cut)] if any(c != slice(0, None) for c in cut) else x


def same_is_exact(
    sizes: Sequence[Any], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads
) -> bool:
    """Whether padding="same" pads every axis by exactly `pads`: always for stride 1 where it is centred, else for
    known sizes.
    """
    for size, width, s, d, (lo, hi) in zip(sizes, kernel, stride, dilation, pads, strict=True):
        if s == 1:
            total = d * (width - 1)
        elif is_known(size):
            total = max((-(-size // s) - 1) * s + d * (width - 1) + 1 - size, 0)
        else:
            return False
        if (lo, hi) != (total // 2, total - total // 2):
            return False
    return any(lo or hi for lo, hi in pads)


def taps(
    x: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[Any]
) -> list[Any]:
    """For each kernel position, in row-major order, the strided view of (padded) `x` that it meets, each (N, *out,
    C).
    """
    views = []
    for offset in product(*(range(w) for w in kernel)):
        cut = []
        for o, s, d, size in zip(offset, stride, dilation, out, strict=True):
            start = o * d
            cut.append(slice(start, start + (size - 1) * s + 1, s))
        views.append(x[(slice(None), *cut)])
    return views


def out_sizes(
    sizes: Sequence[Any], pads: Pads, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Any]:
    """How many windows fit, per axis."""
    return [
        (size + lo + hi - d * (w - 1) - 1) // s + 1
        for size, (lo, hi), w, s, d in zip(sizes, pads, kernel, stride, dilation, strict=True)
    ]


# -------------------------------------------------------------------------------------- small matrices along one axis
def line(k: Any, size: Any, dtype: str) -> Any:
    """0, 1, ... size - 1: numpy where the size is known, else a tensor."""
    return np.arange(size).astype(dtype) if is_known(size) else k.arange(0, size, 1, dtype)


def whole(size: Any) -> Any:
    """A size as int64, to be computed with beside int64 tensors."""
    return size if is_known(size) else ops.cast(size, "int64")


def bins(size: Any, out: int) -> list[tuple[Any, Any]]:
    """Adaptive pooling's windows, [floor(i*size/out), ceil((i+1)*size/out)): torch's start_index and end_index."""
    return [(i * size // out, -((i + 1) * size // -out)) for i in range(out)]


def bin_means(k: Any, size: Any, out: Any, dtype: str) -> Any:
    """The matrix (out, size) whose rows average one adaptive window each."""
    i, j = line(k, out, "int64"), line(k, size, "int64")
    size, out = whole(size), whole(out)
    i, j = i[:, None], j[None, :]
    start, end = i * size // out, -((i + 1) * size // -out)
    inside = (j >= start) & (j < end)
    if isinstance(inside, np.ndarray):
        return k.constant(inside / (end - start), dtype)
    return ops.cast(inside, dtype) / ops.cast(end - start, dtype)


def along(k: Any, x: Any, axis: int, matrix: Any, batch: Any, sizes: Sequence[Any], out: Any) -> Any:
    """`matrix` (out, size) applied to spatial axis `axis` of `x` (N, *sizes, C), as one matrix product."""
    channels = x.shape[-1]
    if axis == len(sizes) - 1:
        return ops.matmul(matrix, x)
    before, rest = list(sizes[:axis]), list(sizes[axis + 1 :])
    width = channels
    for size in rest:
        width = width * size
    flat = ops.matmul(matrix, k.reshape(x, [batch, *before, sizes[axis], width]))
    return k.reshape(flat, [batch, *before, out, *rest, channels])
