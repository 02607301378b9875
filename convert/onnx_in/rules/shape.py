"""Ops that give the same elements another shape, or join and part tensors."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..operands import ints, leaf, rank_of, shape_of
from ..registry import rule
from .sizes import dims_of, made_dims, of_dims, product, same


# --------------------------------------------------------------------------------------------------------- one to one
@rule("Identity")
def identity(x: Any) -> Any:
    return x


@rule("StopGradient", domain="isomorph")
def stop_gradient(x: Any) -> Any:
    return x.detach()


@rule("Reshape", since=1)
def reshape_1(x: Any, *, shape: tuple[int, ...] = (), consumed_inputs: Any = None) -> Any:
    return reshape(x, shape)


@rule("Reshape", since=5)
def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    """A 0 in the shape keeps that dim of x, unless `allowzero`."""
    dims = ints(shape)
    if not isinstance(dims, tuple):
        return x.reshape(dims) if allowzero else reshape_to(x, dims)
    if allowzero:
        return x.reshape(dims)
    given = dims_of(x)
    if len(dims) == 2 and _is(dims[0], 0) and _is(dims[1], -1) and given is not None and len(given) > 1:
        return of_dims(x.flatten(1), (given[0], product(given[1:])))  # of an empty batch, too
    dims = tuple((x.size(i) if given is None else given[i]) if _is(d, 0) else d for i, d in enumerate(dims))
    return of_dims(x.reshape(dims), _inferred(given, dims))


def _inferred(given: Any, dims: Any) -> Any:
    """The dims of a reshape with its -1 in numbers, where the others divide what there was without a rest."""
    place = next((i for i, d in enumerate(dims) if _is(d, -1)), None)
    if place is None:
        return dims
    rest = [d for i, d in enumerate(dims) if i != place]
    found = None
    if given is not None:
        left = list(given)
        for d in [d for d in rest if not isinstance(d, int)]:
            at = next((i for i, g in enumerate(left) if same(g, d)), None)
            left = [g for i, g in enumerate(left) if i != at] if at is not None else [0]
        whole, part = (math.prod(d for d in ds if isinstance(d, int)) for ds in (left, rest))
        if part and whole and whole % part == 0:
            found = product([whole // part, *(d for d in left if not isinstance(d, int))])
    return (*dims[:place], found, *dims[place + 1 :])


@leaf
def reshape_to(x: torch.Tensor, shape: Any) -> torch.Tensor:
    """A 0 in the shape, which is known at run time only, keeps that dim of x."""
    return x.reshape([x.size(i) if i < x.dim() and d == 0 else d for i, d in enumerate(shape)])


@rule("Flatten")
def flatten(x: Any, *, axis: int = 1) -> Any:
    """To a matrix: the dims before `axis`, and those from it on."""
    rank = rank_of(x)
    if rank is None:
        return flatten_at(x, axis)
    axis = axis + rank if axis < 0 else axis
    if rank < 2 or axis in (0, rank):
        return x.reshape(1, -1) if axis == 0 else x.reshape(-1, 1)
    x = x if axis == rank - 1 else x.flatten(axis)
    return x if axis == 1 else x.flatten(0, axis - 1)


@leaf
def flatten_at(x: torch.Tensor, axis: int) -> torch.Tensor:
    """`flatten` of a rank that is known at run time only."""
    return flatten(x, axis=axis)  # type: ignore[no-any-return]


@rule("Transpose")
def transpose(x: Any, *, perm: tuple[int, ...] | None = None) -> Any:
    rank, made = rank_of(x), made_dims(x)
    if perm is None and rank is None:
        return reverse_axes(x)
    perm = tuple(reversed(range(rank or 0))) if perm is None else perm
    moved = x.permute(perm)
    return moved if made is None else of_dims(moved, [made[p] for p in perm])


@leaf
def reverse_axes(x: torch.Tensor) -> torch.Tensor:
    return x.permute(tuple(reversed(range(x.dim()))))


@rule("Squeeze", since=1)
def squeeze_1(x: Any, *, axes: tuple[int, ...] | None = None) -> Any:
    return squeeze(x, axes)


@rule("Squeeze", since=13)
def squeeze(x: Any, axes: Any = None) -> Any:
    axes = ints(axes)
    if axes is None:
        shape = shape_of(x)
        if shape is not None and all(isinstance(d, int) for d in shape):
            axes = tuple(i for i, d in enumerate(shape) if d == 1)
        else:
            return x.squeeze()
    if not isinstance(axes, tuple):
        return x.squeeze(axes)
    return x if not axes else x.squeeze(axes[0] if len(axes) == 1 else axes)


@rule("Unsqueeze", since=1)
def unsqueeze_1(x: Any, *, axes: tuple[int, ...]) -> Any:
    return unsqueeze(x, axes)


@rule("Unsqueeze", since=13)
def unsqueeze(x: Any, axes: Any) -> Any:
    """`axes` are those of the result."""
    axes = ints(axes)
    rank = rank_of(x)
    if isinstance(axes, tuple) and len(axes) == 1:
        return _new_axis(x, axes[0])
    if not isinstance(axes, tuple) or (rank is None and any(a < 0 for a in axes)):
        return insert_axes(x, axes)
    places = {a % (rank + len(axes)) for a in axes} if rank is not None else set(axes)
    for axis in sorted(places):
        x = _new_axis(x, axis)
    return x


def _new_axis(x: Any, axis: int) -> Any:
    made = made_dims(x)
    if made is None:
        return x.unsqueeze(axis)
    at = axis if axis >= 0 else axis + len(made) + 1
    return of_dims(x.unsqueeze(axis), [*made[:at], 1, *made[at:]])


@leaf
def insert_axes(x: torch.Tensor, axes: Any) -> torch.Tensor:
    """`unsqueeze` of several axes of the result that are known at run time only."""
    for axis in sorted(a % (x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


@rule("Expand", since=8)
def expand(x: Any, shape: Any) -> Any:
    """Both ways: a 1 in the shape keeps the dim of x."""
    wanted, known = ints(shape), shape_of(x)
    if not isinstance(wanted, tuple) or known is None:
        return broadcast(x, wanted)
    new = len(wanted) - len(known)
    if new < 0:
        wanted, new = (1,) * -new + wanted, 0
    given = dims_of(x) or ()
    at = [(d, given[i - new] if i >= new else None) for i, d in enumerate(wanted)]
    if not all(isinstance(d, int) or g is None or _is(g, 1) or same(g, d) for d, g in at):
        return broadcast(x, wanted)
    dims = tuple(-1 if g is not None and (_is(d, 1) or same(g, d)) else d for d, g in at)
    if all(_is(d, -1) for d in dims):
        return x
    return of_dims(x.expand(dims), [g if _is(d, 1) and g is not None else d for d, g in at])


@leaf
def broadcast(x: torch.Tensor, shape: Any) -> torch.Tensor:
    """x and a tensor of this shape broadcast together: the first of the two."""
    shape = [1] * (x.dim() - len(shape)) + list(shape)
    new = len(shape) - x.dim()
    return x.expand([-1 if i >= new and d == 1 else d for i, d in enumerate(shape)])


@rule("Tile", since=1)
def tile_1(x: Any, tiles: Any, axis: Any) -> Any:
    """Along one axis."""
    return repeated(x, ints(tiles), ints(axis))


@leaf
def repeated(x: torch.Tensor, tiles: Any, axis: Any) -> torch.Tensor:
    return torch.cat([x] * int(tiles[0]), int(axis[0]))


@rule("Tile", since=6)
def tile(x: Any, repeats: Any) -> Any:
    return x.repeat(ints(repeats))


# ------------------------------------------------------------------------------------------------------ join and part
@rule("Concat", since=1)
def concat_1(*parts: Any, axis: int = 1) -> Any:
    return concat(*parts, axis=axis)


@rule("Concat", since=4)
def concat(*parts: Any, axis: int) -> Any:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


@rule("Split", since=1)
def split_1(x: Any, sizes: Any = None, *, axis: int = 0, split: Any = None, site: Any) -> Any:
    return split_13(x, sizes if split is None else split, axis=axis, site=site)


@rule("Split", since=2)
def split_2(x: Any, *, axis: int = 0, split: Any = None, site: Any) -> Any:
    return split_13(x, split, axis=axis, site=site)


@rule("Split", since=13)
def split_13(x: Any, split: Any = None, *, axis: int = 0, site: Any) -> Any:
    """Equal parts where no sizes are given."""
    return _parts(x, ints(split), axis, len(site.outputs))


@rule("Split", since=18)
def split_18(x: Any, split: Any = None, *, axis: int = 0, num_outputs: int | None = None, site: Any) -> Any:
    """The last part may be smaller where no sizes are given."""
    return _parts(x, ints(split), axis, len(site.outputs) if num_outputs is None else num_outputs)


def _parts(x: Any, sizes: Any, axis: int, count: int) -> tuple[Any, ...]:
    if sizes is None:
        shape = shape_of(x)
        length = None if shape is None else shape[axis]
        if not isinstance(length, int):
            length = x.size(axis)
        each = (length + count - 1) // count
        if isinstance(each, int):
            sizes = tuple(max(0, min(each, length - i * each)) for i in range(count))
        else:
            found = split_evenly(x, count, axis)
            return tuple(found[i] for i in range(count))
    parts = torch.split(x, list(sizes) if isinstance(sizes, tuple) else sizes, axis)
    return tuple(parts[i] for i in range(count))


@leaf
def split_evenly(x: torch.Tensor, count: int, axis: int) -> tuple[torch.Tensor, ...]:
    """`count` parts, all of one size but the last ones, which may be smaller or empty."""
    each = (x.size(axis) + count - 1) // count
    last = x.size(axis) - each * (count - 1)
    if last > 0:
        return torch.split(x, [each] * (count - 1) + [last], axis)
    sizes = [torch.sym_max(0, torch.sym_min(each, x.size(axis) - i * each)) for i in range(count)]
    return torch.split(x, sizes, axis)


# ------------------------------------------------------------------------------------------------------------- blocks
@rule("DepthToSpace", since=1)
def depth_to_space(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Channels become blocks of pixels; the block's position is the slowest (DCR) or the fastest (CRD) of them."""
    if mode == "CRD":
        return torch.pixel_shuffle(x, blocksize)
    blocks = x.unflatten(1, (blocksize, blocksize, -1)).permute(0, 3, 4, 1, 5, 2)
    return blocks.flatten(4, 5).flatten(2, 3)


@rule("SpaceToDepth", since=1)
def space_to_depth(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """The reverse of `depth_to_space`."""
    if mode == "CRD":
        return torch.pixel_unshuffle(x, blocksize)
    blocks = x.unflatten(3, (-1, blocksize)).unflatten(2, (-1, blocksize))
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def _is(item: Any, value: int) -> bool:
    """Whether a known dim has this value; comparing a proxy would record it."""
    return isinstance(item, int) and item == value
