"""Ops that put a border around a tensor, or cut one off."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..operands import constant_of, dtype_of, ints, leaf, rank_of, shape_of
from ..registry import rule
from .sizes import product

_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@rule("Pad", since=1)
def pad_1(x: Any, *, paddings: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Any:
    return _pad(x, paddings, mode, value, None)


@rule("Pad", since=2)
def pad_2(x: Any, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Any:
    return _pad(x, pads, mode, value, None)


@rule("Pad", since=11)
def pad(x: Any, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant") -> Any:
    """pads: the starts of all axes, then the ends; a negative one cuts off."""
    known = constant_of(value)
    filler = 0 if value is None else known.reshape(()).item() if known is not None else value.reshape(())
    return _pad(x, ints(pads), mode, filler, ints(axes))


def _pad(x: Any, pads: Any, mode: str, value: Any, axes: Any) -> Any:
    rank = rank_of(x)
    if rank is None or not isinstance(pads, tuple) or not (axes is None or isinstance(axes, tuple)):
        return pad_by(x, pads, mode, value, axes)
    count = len(pads) // 2
    places = range(rank) if axes is None else [a % rank for a in axes]
    sides = {a: (pads[i], pads[i + count]) for i, a in enumerate(places)}
    wanted = {a: s for a, s in sides.items() if not all(isinstance(p, int) and p == 0 for p in s)}
    if not wanted:
        return x
    last = min(wanted)
    flat = [p for a in reversed(range(last, rank)) for p in wanted.get(a, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=value) if isinstance(value, (int, float)) else fill(x, flat, value)
    if _torch_pads(x, flat, mode):
        return F.pad(x, flat, mode=_MODES[mode])
    return extend(x, wanted, mode)


def _torch_pads(x: Any, flat: list[Any], mode: str) -> bool:
    """Whether torch's own padding of the last one to three dims does it."""
    shape, count = shape_of(x), len(flat) // 2
    if shape is None or count > 3 or len(shape) not in (count + 1, count + 2):
        return False
    if dtype_of(x) not in (torch.float32, torch.float64) or not all(isinstance(p, int) and p >= 0 for p in flat):
        return False
    dims = [d for d in reversed(shape) for _ in (0, 1)]
    room = {"edge": 2**62, "reflect": -1, "wrap": 0}[mode]  # how much wider than the dim a pad may be
    return all(isinstance(d, int) and d > 0 and p <= d + room for d, p in zip(dims, flat, strict=False))


@leaf
def fill(x: torch.Tensor, pads: Any, value: torch.Tensor) -> torch.Tensor:
    """A constant border whose value is known at run time only. pads: as torch has them."""
    inside = F.pad(torch.ones_like(x, dtype=torch.bool), pads, value=False)
    return torch.where(inside, F.pad(x, pads), value)


@leaf
def extend(x: torch.Tensor, sides: Any, mode: str) -> torch.Tensor:
    """A border of x's own elements (reflect, edge or wrap), however wide. sides: {axis: (before, after)}."""
    for axis, (before, after) in sides.items():
        size = x.size(axis)
        source = torch.arange(-before, size + after, device=x.device)
        if mode == "edge":
            source = source.clamp(0, size - 1)
        elif mode == "wrap":
            source = source % size
        else:  # there and back again
            period = torch.sym_max(2 * (size - 1), 1)  # not max: under torch.cond that gives the 1
            source = size - 1 - (size - 1 - source % period).abs()
        x = x.index_select(axis, source)
    return x


@leaf
def pad_by(x: torch.Tensor, pads: Any, mode: str, value: Any, axes: Any) -> torch.Tensor:
    """`pad` of a rank, or with pads or axes, that are known at run time only."""
    found: torch.Tensor = _pad(x, tuple(pads), mode, value, None if axes is None else tuple(axes))
    return found


@rule("CenterCropPad", since=18)
def center_crop_pad(x: Any, shape: Any, *, axes: tuple[int, ...] | None = None) -> Any:
    """Cut or padded with zeros on both sides alike; the odd element is the end's."""
    return crop_or_pad(x, ints(shape), axes)


@leaf
def crop_or_pad(x: torch.Tensor, shape: Any, axes: Any) -> torch.Tensor:
    """The middle of x in this size along these axes, or x in the middle of zeros."""
    pads = [0] * (2 * x.dim())
    for axis, size in zip(range(x.dim()) if axes is None else axes, shape, strict=True):
        more = size - x.size(axis)
        before = more // 2 if more >= 0 else -(-more // 2)
        at = 2 * (x.dim() - 1 - axis % x.dim())
        pads[at : at + 2] = [before, more - before]
    return F.pad(x, pads)


@rule("Col2Im", since=18)
def col2im(
    x: Any,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    """The sum of overlapping blocks. x: (batch, channels * block, blocks)."""
    image, block = ints(image_shape), ints(block_shape)
    if not isinstance(image, tuple) or not isinstance(block, tuple):
        return fold(x, image, block, dilations, pads, strides)
    n = len(block)
    dilations, pads, strides = dilations or (1,) * n, pads or (0,) * 2 * n, strides or (1,) * n
    if n == 2 and pads[:n] == pads[n:]:
        return F.fold(x, image, block, dilations, pads[:n], strides)
    return fold(x, image, block, dilations, pads, strides)


@leaf
def fold(x: torch.Tensor, image: Any, block: Any, dilations: Any, pads: Any, strides: Any) -> torch.Tensor:
    """`F.fold` for any number of dims and for pads that differ at both ends."""
    n = len(block)
    dilations, pads, strides = dilations or (1,) * n, pads or (0,) * 2 * n, strides or (1,) * n
    whole = [image[d] + pads[d] + pads[d + n] for d in range(n)]
    place = torch.zeros([1] * (2 * n), dtype=torch.int64, device=x.device)  # of (block ..., step ...) in the flat image
    for d in range(n):
        steps = (whole[d] - dilations[d] * (block[d] - 1) - 1) // strides[d] + 1
        within = torch.arange(block[d], device=x.device).unsqueeze(1) * dilations[d]
        at = within + torch.arange(steps, device=x.device) * strides[d]
        view = [1] * (2 * n)
        view[d], view[n + d] = block[d], steps
        place = place * whole[d] + at.reshape(view)
    columns = x.reshape(x.size(0), -1, place.numel())
    empty = columns.new_zeros(columns.size(0), columns.size(1), product(whole))
    summed: torch.Tensor = empty.index_add(2, place.reshape(-1), columns).unflatten(2, whole)
    for d in range(n):
        summed = summed.narrow(2 + d, pads[d], image[d])
    return summed
