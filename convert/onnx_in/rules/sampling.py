"""Sampling at points that are not on the grid: GridSample, AffineGrid and DeformConv, over any number of axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from ..operands import dtype_of, ints, leaf, rank_of
from ..registry import rule
from .resize_taps import cubic
from .windows import split_pads

__all__ = ["added", "read_taps", "sample", "taps_at"]

WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nearest": lambda distance: torch.ones_like(distance),
    "linear": lambda distance: 1 - distance.abs(),
    "cubic": lambda distance: cubic(distance, -0.75),
}
MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}


# ------------------------------------------------------------------------------------------------------- the sampling
def _bounded(index: torch.Tensor, size: int, padding: str, align_corners: bool) -> torch.Tensor:
    """Indices inside an axis: the nearest ones, or, if `padding` is reflection, those mirrored at the border."""
    if padding == "reflection":
        period = max(2 * (size - 1), 1) if align_corners else 2 * size
        index = index.remainder(period)
        index = torch.minimum(index, (period if align_corners else period - 1) - index)
    return index.clamp(0, size - 1)


def taps_at(
    points: list[torch.Tensor], sizes: tuple[int, ...], mode: str, padding: str, align_corners: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a value at each point is made of: pairs of (flat index, weight), shaped like the points.

    points: for each axis where they lie, in elements of the input. padding: zeros, border or reflection.
    """
    axes = []
    for x, size in zip(points, sizes, strict=True):
        base = x.round() if mode == "nearest" else x.floor()
        offsets = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[mode]
        taps = []
        for offset in offsets:
            distance = x - base - offset
            index = (base + offset).long()
            found = WEIGHTS[mode](distance)
            if padding == "zeros":
                found = torch.where((index >= 0) & (index < size), found, torch.zeros_like(found))
            taps.append((_bounded(index, size, padding, align_corners), found))
        axes.append(taps)
    result = []
    for chosen in product(*axes):
        index, weight = chosen[0]
        for (more, factor), size in zip(chosen[1:], sizes[1:], strict=True):
            index, weight = index * size + more, weight * factor
        result.append((index, weight))
    return result


def read_taps(
    x: torch.Tensor, batch: torch.Tensor, taps: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[torch.Tensor]:
    """The weighed values at taps (N, P) of the images `batch` (N,) of x (B, C, *sizes). Each is (N, C, P)."""
    table = x.flatten(2).transpose(1, 2).flatten(0, 1)
    first = (batch * prod(x.shape[2:])).unsqueeze(1)
    parts = []
    for index, weight in taps:
        rows = table.index_select(0, (index + first).reshape(-1)).unflatten(0, index.shape)
        parts.append((rows * weight.to(x.dtype).unsqueeze(-1)).transpose(1, 2))
    return parts


def added(parts: list[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, parts)


def sample(
    x: torch.Tensor, points: list[torch.Tensor], mode: str, padding: str = "zeros", align_corners: bool = False
) -> torch.Tensor:
    """x (N, C, *sizes) at points, for each axis (N, P). Returns (N, C, P)."""
    taps = taps_at(points, tuple(x.shape[2:]), mode, padding, align_corners)
    return added(read_taps(x, torch.arange(x.shape[0], device=x.device), taps))


# -------------------------------------------------------------------------------------------------------------- grids
@rule("GridSample", since=16)
def grid_sample(
    x: Any, grid: Any, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Any:
    kind, rank, dtype = MODES[mode], rank_of(x), dtype_of(x)
    torch_has = rank == 4 or (rank == 5 and kind != "cubic")
    if torch_has and dtype is not None and dtype.is_floating_point and dtype == dtype_of(grid):
        name = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}[kind]
        return F.grid_sample(x, grid, name, padding_mode, bool(align_corners))
    return sample_grid(x, grid, kind, padding_mode, bool(align_corners))


@leaf
def sample_grid(x: torch.Tensor, grid: torch.Tensor, mode: str, padding_mode: str, align_corners: bool) -> torch.Tensor:
    """GridSample over any number of axes and of any type. grid (N, *out, axes) counts the last axis first."""
    wide = x if x.is_floating_point() else x.to(torch.float64)
    points = []
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    for axis, size in enumerate(x.shape[2:]):
        unit = grid[..., grid.shape[-1] - 1 - axis].flatten(1)
        points.append((unit + 1) / 2 * (size - 1) if align_corners else ((unit + 1) * size - 1) / 2)
    y: torch.Tensor = sample(wide, points, mode, padding_mode, align_corners).unflatten(2, grid.shape[1:-1])
    return y.to(x.dtype)


@rule("AffineGrid", since=20)
def affine_grid(theta: Any, size: Any, *, align_corners: int = 0) -> Any:
    return F.affine_grid(theta, ints(size), bool(align_corners))


# ------------------------------------------------------------------------------------------------------------- kernels
@rule("DeformConv", since=19)
def deform_conv(
    x: Any,
    w: Any,
    offset: Any,
    b: Any = None,
    mask: Any = None,
    *,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    offset_group: int = 1,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    return deformed_conv(x, w, offset, b, mask, dilations, group, offset_group, pads, strides)


@leaf
def deformed_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    offset: torch.Tensor,
    b: torch.Tensor | None,
    mask: torch.Tensor | None,
    dilations: tuple[int, ...] | None,
    group: int,
    offset_group: int,
    pads: tuple[int, ...] | None,
    strides: tuple[int, ...] | None,
) -> torch.Tensor:
    """A convolution whose kernel's elements are moved by `offset` (N, offset_group * K * axes, *out) and weighed by
    `mask` (N, offset_group * K, *out), K elements of the kernel."""
    rank, batch = x.dim() - 2, x.shape[0]
    kernel, out = tuple(w.shape[2:]), tuple(offset.shape[2:])
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    begins = split_pads(pads, rank)[0]
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    moved = offset.reshape(batch, offset_group, prod(kernel), rank, *out)
    points = []
    for axis in range(rank):
        element = torch.arange(kernel[axis], device=x.device) * dilations[axis] - begins[axis]
        place = torch.arange(out[axis], device=x.device) * strides[axis]
        elements = element.reshape([-1 if a == axis else 1 for a in range(rank)]).expand(kernel).reshape(-1)
        at = elements.reshape(-1, *[1] * rank) + place.reshape([-1 if a == axis else 1 for a in range(rank)])
        points.append((moved[:, :, :, axis] + at).reshape(batch * offset_group, -1))
    images = x.reshape(batch * offset_group, x.shape[1] // offset_group, *x.shape[2:])
    seen = sample(images, points, "linear").unflatten(2, (prod(kernel), prod(out)))
    if mask is not None:
        seen = seen * mask.reshape(batch * offset_group, 1, prod(kernel), prod(out))
    columns = seen.reshape(batch, group, -1, prod(out))
    y: torch.Tensor = (w.reshape(group, w.shape[0] // group, -1) @ columns).reshape(batch, w.shape[0], *out)
    return y if b is None else y + b.reshape(1, -1, *[1] * rank)
