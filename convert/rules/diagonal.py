"""Rules: diagonals, and ops that put a part into a tensor (`*_scatter`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from ..builder import is_known
from .registry import MAPPED, rule
from .shape import FAR, Size, iota, part, plain


@rule("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(k: Any, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return ops.diagonal(x, offset=offset, axis1=dim1, axis2=dim2)


@rule("aten.linalg_diagonal.default")
def linalg_diagonal(k: Any, x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return ops.diagonal(x, offset=offset, axis1=dim1, axis2=dim2)


def on_diagonal(k: Any, d: Any, rows: int, columns: int, offset: int, other: Any) -> Any:
    """(..., n) on a diagonal of (..., rows, columns), `other` elsewhere. `where`, not a product: infinities stay."""
    count = k.shape(d)[-1]
    place = np.clip(np.arange(rows) - max(0, -offset), 0, count - 1)
    spread = d if offset == 0 and count == rows else ops.take(d, k.constant(place, "int64"), axis=-1)
    return ops.where(k.constant(np.eye(rows, columns, k=offset, dtype=bool)), ops.expand_dims(spread, -1), other)


@rule("aten.diag_embed.default")
def diag_embed(k: Any, x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    (n,) = plain(k.shape(x)[-1])
    rank = k.rank(x) + 1
    a, b = dim1 % rank, dim2 % rank
    if a > b:
        a, b, offset = b, a, -offset
    size = n + abs(offset)
    return ops.moveaxis(on_diagonal(k, x, size, size, offset, _zero(k, x)), (-2, -1), (a, b))


@rule("aten.diag.default")
def diag(k: Any, x: Any, offset: int = 0) -> Any:
    if k.rank(x) == 2:
        return ops.diagonal(x, offset=offset)
    size = plain(k.shape(x)[0])[0] + abs(offset)
    return on_diagonal(k, x, size, size, offset, _zero(k, x))


@rule("aten.diagflat.default")
def diagflat(k: Any, x: Any, offset: int = 0) -> Any:
    return diag(k, k.reshape(x, (-1,)), offset)


def _zero(k: Any, x: Any) -> Any:
    return (
        ops.zeros_like(ops.expand_dims(x, -1))
        if k.rank(x) == 0
        else ops.zeros_like(part(ops.expand_dims(x, -1), k.rank(x) - 1, 0, 1))
    )


@rule("aten.diagonal_scatter.default")
def diagonal_scatter(k: Any, x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    y = ops.moveaxis(x, (dim1, dim2), (-2, -1))
    rows, columns = plain(*k.shape(y)[-2:])
    return ops.moveaxis(on_diagonal(k, src, rows, columns, offset, y), (-2, -1), (dim1, dim2))


@rule("aten.select_scatter.default")
def select_scatter(k: Any, x: Any, src: Any, dim: int, index: Size) -> Any:
    dim %= k.rank(x)
    n, index = plain(k.shape(x)[dim], index)
    index = index + n if is_known(index) and index < 0 else index
    here = ops.equal(iota(k, n), index)
    here = k.reshape(here, [n if a == dim else 1 for a in range(k.rank(x))])
    return ops.where(here, ops.expand_dims(src, dim), x)


@rule("aten.slice_scatter.default", layout=MAPPED)
def slice_scatter(k: Any, x: Any, src: Any, dim: int = 0, start: Size = None, end: Size = None, step: int = 1) -> Any:
    dim %= k.rank(x)
    axis = k.axis(dim)
    if k.type(x).shape == k.type(src).shape:
        return src
    (n,) = plain(k.shape(x)[axis])
    start, end = (_clamped(v, n, default) for v, default in ((start, 0), (end, n)))
    if step == 1:
        end = start + plain(k.shape(src)[axis])[0]
        whole = [part(x, axis, 0, start), src, part(x, axis, end)]
        return ops.concatenate(
            [p for p, empty in zip(whole, (_same(start, 0), False, _same(end, n)), strict=True) if not empty], axis=axis
        )
    places = np.arange(n)
    inside = (places >= start) & (places < end) & ((places - start) % step == 0)
    source = ops.take(
        src, k.constant(np.clip((places - start) // step, 0, max(0, k.shape(src)[axis] - 1)), "int64"), axis=axis
    )
    return ops.where(k.constant(inside.reshape([-1 if a == axis else 1 for a in range(k.rank(x))])), source, x)


def _clamped(at: Size, n: Size, default: Size) -> Size:
    if at is None or (is_known(at) and at >= FAR):
        return default
    (at,) = plain(at)
    if not (is_known(at) and is_known(n)):
        return at + n if is_known(at) and at < 0 else at
    return max(0, min(n, at + n if at < 0 else at))


def _same(a: Size, b: Size) -> bool:
    return bool(is_known(a) and is_known(b) and a == b)
