"""Rules: sampling at given positions, torch's GridSampler.h. Gradients reach the input and the grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from keras import ops

from ..builder import is_known
from .operands import plus
from .registry import SPATIAL, rule
from .resize import cubic
from .spatial import sizes_of

ZEROS, BORDER, REFLECTION = 0, 1, 2
BILINEAR, NEAREST = 0, 1


def real(k: Any, size: Any, dtype: str) -> Any:
    """A size as a number the coordinates can be computed with."""
    return float(size) if is_known(size) else ops.cast(size, dtype)


def unnormalised(at: Any, size: Any, align: bool) -> Any:
    """[-1, 1] to [0, size - 1], or to pixel edges."""
    return (at + 1.0) * ((size - 1.0) / 2.0) if align else ((at + 1.0) * size - 1.0) / 2.0


def clipped(at: Any, size: Any) -> Any:
    """Into [0, size - 1]; at and beyond the border no gradient passes (clip_coordinates_set_grad)."""
    high = ops.zeros_like(at) + (size - 1.0)
    return ops.where(at <= 0.0, ops.zeros_like(at), ops.where(at >= high, high, at))


def reflected(at: Any, size: Any, align: bool) -> Any:
    """Mirrored at the first and last pixel (`align`) or at the outer pixel edges."""
    low, span = (0.0, size - 1.0) if align else (-0.5, size)
    if isinstance(span, float) and span == 0.0:
        return ops.zeros_like(at)
    away = at - low
    away = ops.where(away < 0.0, -away, away)
    flips = ops.floor(ops.stop_gradient(away) / span)
    rest = away - flips * span
    even = ops.equal(flips - 2.0 * ops.floor(flips / 2.0), 0.0)
    return ops.where(even, rest + low, (span + low) - rest)


def padded(at: Any, size: Any, mode: int, align: bool) -> Any:
    """The coordinate after the padding mode."""
    if mode == ZEROS:
        return at
    return clipped(at if mode == BORDER else reflected(at, size, align), size)


def picker(k: Any, x: Any, grid: Any, sizes: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
    """A function from whole-number coordinates, one (N, *out) tensor per axis, to values (N, *out, C), zero outside
    of `x`.
    """
    dtype = k.dtype(x)
    count = 1
    for size in sizes:
        count = count * size
    flat = k.reshape(x, [-1, x.shape[-1]])
    first = grid[..., 0]
    one = ops.cast(
        ops.ones_like(first[tuple(slice(0, 1) if a else slice(None) for a in range(len(first.shape)))]), "int32"
    )
    batch = ops.cumsum(one, axis=0) - 1

    def pick(coordinates: Sequence[Any]) -> Any:
        index, inside = batch * count, None
        offset = None
        for at, size in zip(coordinates, sizes, strict=True):
            limit = real(k, size, k.dtype(grid))
            here = ops.logical_and(at >= 0.0, at <= limit - 1.0)
            inside = here if inside is None else ops.logical_and(inside, here)
            whole = ops.cast(ops.where(here, at, ops.zeros_like(at)), "int32")
            offset = whole if offset is None else plus(offset * size, whole)
        values = ops.take(flat, plus(offset, index), axis=0)
        return values * ops.expand_dims(ops.cast(inside, dtype), -1)

    return pick


@rule("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default", layout=SPATIAL)
def grid_sampler(k: Any, x: Any, grid: Any, interpolation: int, padding: int, align: bool) -> Any:
    """`grid` (N, *out, n) holds x before y before z; `x` comes as (N, [D,] H, W, C)."""
    n = k.rank(x) - 2
    sizes = sizes_of(k, x, n)
    lengths = [real(k, s, k.dtype(grid)) for s in sizes]
    pick = picker(k, x, grid, sizes)
    ats = [unnormalised(grid[..., n - 1 - axis], lengths[axis], align) for axis in range(n)]
    if interpolation not in (BILINEAR, NEAREST):
        return bicubic(pick, ats, lengths, padding, align)
    ats = [padded(at, size, padding, align) for at, size in zip(ats, lengths, strict=True)]
    if interpolation == NEAREST:
        return pick([ops.round(ops.stop_gradient(at)) for at in ats])
    starts = [ops.floor(ops.stop_gradient(at)) for at in ats]
    total = None
    for corner in product((0, 1), repeat=n):
        weight: Any = 1.0
        for at, start, high in zip(ats, starts, corner, strict=True):
            weight = weight * (at - start if high else (start + 1.0) - at)
        term = pick([start + float(high) for start, high in zip(starts, corner, strict=True)]) * ops.expand_dims(
            weight, -1
        )
        total = term if total is None else plus(total, term)
    return total


def bicubic(pick: Any, ats: Sequence[Any], lengths: Sequence[Any], padding: int, align: bool) -> Any:
    """Four taps per axis, each put through the padding mode on its own."""
    starts = [ops.floor(ops.stop_gradient(at)) for at in ats]
    total = None
    for taps in product((-1.0, 0.0, 1.0, 2.0), repeat=len(ats)):
        weight: Any = 1.0
        for at, start, tap in zip(ats, starts, taps, strict=True):
            # the distance is at - start - tap in [0, 2]; its sign is known, so no kink at 0
            weight = weight * cubic(ops, (at - start - tap) if tap <= 0 else (start + tap) - at, -0.75)
        where = [
            padded(start + tap, size, padding, align) for start, tap, size in zip(starts, taps, lengths, strict=True)
        ]
        term = pick(where) * ops.expand_dims(weight, -1)
        total = term if total is None else plus(total, term)
    return total


@rule("aten.affine_grid_generator.default")
def affine_grid_generator(k: Any, theta: Any, size: Sequence[Any], align: bool) -> Any:
    """Positions (N, *out, n) of an affine map of the [-1, 1] cube, theta (N, n, n + 1)."""
    spatial = [k.size(s) for s in size[2:]]
    dtype, n = k.dtype(theta), len(spatial)
    if all(is_known(s) for s in spatial):
        lines = [(np.linspace(-1, 1, s) if s > 1 else np.zeros(1)) * (1.0 if align else (s - 1) / s) for s in spatial]
        axes = np.meshgrid(*lines, indexing="ij")
        base = k.constant(np.stack([*reversed(axes), np.ones_like(axes[0])], -1).reshape(-1, n + 1), dtype)
    else:
        ones = [ops.ones((s,), dtype) for s in spatial]
        lines = []
        for s in spatial:
            length = real(k, s, dtype)
            i = ops.cast(k.arange(0, s, 1, "int64"), dtype)
            lines.append(i * (2.0 / ops.maximum(length - 1.0, 1.0)) - 1.0 if align else (i * 2.0 + 1.0) / length - 1.0)
        axes = ops.meshgrid(*lines, indexing="ij")
        base = ops.stack([ops.reshape(a, (-1,)) for a in (*reversed(axes), ops.meshgrid(*ones, indexing="ij")[0])], -1)
    grid = ops.matmul(base, ops.transpose(theta, (0, 2, 1)))
    return k.reshape(grid, [k.shape(theta)[0], *spatial, n])
