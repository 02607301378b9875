"""Rules: padding of every mode, sliding windows and their adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from ..builder import is_known
from ..promote import category
from .operands import plus
from .registry import MAPPED, rule
from .shape import Size, part, plain, sizes_of


# -------------------------------------------------------------------------------------------------------------- padding
def _sides(k: Any, x: Any, pad: Sequence[Size]) -> dict[int, tuple[Size, Size]]:
    """torch's list (last axis first) as {physical axis: (before, after)}, zero pairs left out."""
    rank = k.rank(x)
    pairs = {k.axis(rank - 1 - i // 2): (pad[i], pad[i + 1]) for i in range(0, len(pad), 2)}
    return {axis: p for axis, p in pairs.items() if not all(is_known(v) and v == 0 for v in p)}


def _split_signs(
    sides: dict[int, tuple[Size, Size]],
) -> tuple[dict[int, tuple[Size, Size]], dict[int, tuple[int, int]]]:
    """What to add and what to cut off (as positive numbers)."""
    grow = {a: tuple(0 if is_known(v) and v < 0 else v for v in plain(*p)) for a, p in sides.items()}
    cut = {
        a: (-min(0, p[0]) if is_known(p[0]) else 0, -min(0, p[1]) if is_known(p[1]) else 0) for a, p in sides.items()
    }
    return grow, cut  # type: ignore[return-value]


def _crop(x: Any, cut: dict[int, tuple[int, int]]) -> Any:
    for axis, (before, after) in cut.items():
        if before or after:
            x = part(x, axis, before or None, -after or None)
    return x


def constant_pad(k: Any, x: Any, sides: dict[int, tuple[Size, Size]], value: Any) -> Any:
    grow, cut = _split_signs(sides)
    x = _crop(x, cut)
    if category(k.out.dtype) < 2:
        value = bool(value) if k.out.dtype == "bool" else int(value)
    if all(is_known(v) and v == 0 for p in grow.values() for v in p):
        return x
    return ops.pad(x, [grow.get(a, (0, 0)) for a in range(k.rank(x))], constant_values=value)


def border_pad(k: Any, x: Any, sides: dict[int, tuple[Size, Size]], mode: str) -> Any:
    """reflect, replicate or circular, from slices: `ops.pad` reflects the last axes alone on Keras' torch backend, and
    knows the other two modes on none. A negative side crops."""
    grow, cut = _split_signs(sides)
    if mode == "circular":  # torch wraps what is left
        x, cut = _crop(x, cut), {}
    for axis, (before, after) in grow.items():
        whole = [x]
        if not is_known(before) or before > 0:
            whole.insert(0, _border(k, x, axis, before, True, mode))
        if not is_known(after) or after > 0:
            whole.append(_border(k, x, axis, after, False, mode))
        x = ops.concatenate(whole, axis=axis) if len(whole) > 1 else x
    return _crop(x, cut)


def _border(k: Any, x: Any, axis: int, count: Size, before: bool, mode: str) -> Any:
    """What stands before or after `x`."""
    if mode == "circular":
        return part(x, axis, -count) if before else part(x, axis, 0, count)
    if mode == "reflect":
        return ops.flip(part(x, axis, 1, count + 1) if before else part(x, axis, -1 - count, -1), axis=axis)
    return _copies(k, part(x, axis, 0, 1) if before else part(x, axis, -1), axis, count)


def _copies(k: Any, x: Any, axis: int, count: Size) -> Any:
    return ops.tile(x, [count if a == axis else 1 for a in range(k.rank(x))])


@rule("aten.pad.default", layout=MAPPED)
def pad(k: Any, x: Any, pad: Sequence[Size], mode: str = "constant", value: float | None = None) -> Any:
    return (
        constant_pad(k, x, _sides(k, x, pad), value or 0)
        if mode == "constant"
        else border_pad(k, x, _sides(k, x, pad), mode)
    )


@rule("aten.constant_pad_nd.default", layout=MAPPED)
def constant_pad_nd(k: Any, x: Any, pad: Sequence[Size], value: Any = 0) -> Any:
    return constant_pad(k, x, _sides(k, x, pad), value)


@rule("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default", layout=MAPPED)
def reflection_pad(k: Any, x: Any, padding: Sequence[Size]) -> Any:
    return border_pad(k, x, _sides(k, x, padding), "reflect")


@rule(
    "aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default", layout=MAPPED
)
def replication_pad(k: Any, x: Any, padding: Sequence[Size]) -> Any:
    return border_pad(k, x, _sides(k, x, padding), "replicate")


@rule("aten._pad_circular.default", layout=MAPPED)
def pad_circular(k: Any, x: Any, pad: Sequence[Size]) -> Any:
    return border_pad(k, x, _sides(k, x, pad), "circular")


# -------------------------------------------------------------------------------------------------------------- windows
@rule("aten.unfold.default", "aten.unfold_copy.default")
def unfold(k: Any, x: Any, dimension: int, size: int, step: int) -> Any:
    """(..., L, ...) -> (..., n, ..., size), n = (L - size) // step + 1."""
    if not k.rank(x):
        return k.reshape(x, sizes_of(k, k.out))
    axis = dimension % k.rank(x)
    count = k.size(k.out.shape[axis])
    if (
        is_known(count) and size % step == 0 and size > step
    ):  # whole blocks of `step`, joined: no gather, no scatter backward
        many = size // step
        shape = list(k.shape(x))
        blocks = k.reshape(
            part(x, axis, 0, (count + many - 1) * step), [*shape[:axis], count + many - 1, step, *shape[axis + 1 :]]
        )
        y = ops.concatenate([part(blocks, axis, j, j + count) for j in range(many)], axis=axis + 1)
    elif is_known(count) and step >= size:
        shape = list(k.shape(x))
        short = count * step - shape[axis] if is_known(shape[axis]) else step
        if is_known(shape[axis]):
            x = (
                part(x, axis, 0, count * step)
                if short <= 0
                else ops.pad(x, [(0, short if a == axis else 0) for a in range(k.rank(x))])
            )
            y = part(k.reshape(x, [*shape[:axis], count, step, *shape[axis + 1 :]]), axis + 1, 0, size)
        else:
            y = _strided(x, axis, size, step)
    elif is_known(count) and size > 16:
        y = ops.take(x, k.constant(np.arange(count)[:, None] * step + np.arange(size), "int64"), axis=axis)
    else:
        y = _strided(x, axis, size, step)
    return ops.moveaxis(y, axis + 1, -1)


def _strided(x: Any, axis: int, size: int, step: int) -> Any:
    """Window element i as one strided slice, for each i: works for any length."""
    if size == 0:
        return ops.expand_dims(part(x, axis, 0, None, step), axis + 1)[(slice(None),) * (axis + 1) + (slice(0, 0),)]
    return ops.stack([part(x, axis, i, i + 1 - size or None, step) for i in range(size)], axis=axis + 1)


def _pair(values: Sequence[Size]) -> tuple[Size, Size]:
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


@rule("aten.im2col.default")
def im2col(
    k: Any, x: Any, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Any:
    """([N,] C, H, W) -> ([N,] C * kh * kw, L), windows in row-major order."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = map(_pair, (kernel_size, dilation, padding, stride))
    lead = [(0, 0)] * (k.rank(x) - 2)
    x = ops.pad(x, [*lead, (ph, ph), (pw, pw)]) if ph or pw else x
    h, w = plain(*k.shape(x)[-2:])
    oh, ow = (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1
    views = [
        x[..., i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return k.reshape(ops.stack(views, axis=-3), sizes_of(k, k.out))


@rule("aten.col2im.default")
def col2im(
    k: Any,
    x: Any,
    output_size: Sequence[Size],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Any:
    """The adjoint of im2col: overlapping windows are added up."""
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = map(_pair, (kernel_size, dilation, padding, stride))
    h, w = plain(*_pair(output_size))
    oh, ow = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    *lead, rows, _ = k.shape(x)
    channels = rows // (kh * kw)
    grid = k.reshape(x, [*lead, channels, kh * kw, oh, 1, ow, 1])
    rank = len(lead) + 1
    # every window element on its stride grid, then shifted into the canvas
    grid = ops.pad(grid, [*[(0, 0)] * (rank + 2), (0, sh - 1), (0, 0), (0, sw - 1)])
    grid = k.reshape(grid, [*lead, channels, kh * kw, oh * sh, ow * sw])
    tall, wide = max(h + 2 * ph, oh * sh + dh * (kh - 1)), max(w + 2 * pw, ow * sw + dw * (kw - 1))
    total = None
    for i in range(kh):
        for j in range(kw):
            one = grid[(slice(None),) * rank + (i * kw + j,)]
            placed = ops.pad(
                one, [*[(0, 0)] * rank, (i * dh, tall - oh * sh - i * dh), (j * dw, wide - ow * sw - j * dw)]
            )
            total = placed if total is None else plus(total, placed)
    assert total is not None
    return total[..., ph : ph + h, pw : pw + w]
