"""Pooling, by window and whole."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from ..operands import dtype_of, ints, leaf, rank_of
from ..registry import rule
from .windows import conv_pads, pad_spatial, pool_pads, spatial_sizes, windows

MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def symmetric_pads(
    sizes: tuple[int, ...] | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
) -> tuple[int, ...] | None:
    """The pads as torch's own pools take them: the same at both ends and at most half a kernel; None where they are not
    such, or unknown by now."""
    found = conv_pads(sizes, kernel, strides, dilations, pads, auto_pad)
    if found is None or found[0] != found[1] or len(kernel) not in MAX_POOL:
        return None
    return found[0] if all(0 <= p <= k // 2 for p, k in zip(found[0], kernel, strict=True)) else None


# -------------------------------------------------------------------------------------------------------------- max
@rule("MaxPool")
def max_pool(
    x: Any,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
    site: Any = None,
) -> Any:
    rank = len(kernel_shape)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    window = (kernel_shape, strides, dilations, pads, auto_pad)
    if site is not None and any(site.outputs[1:]):
        y, indices = max_pool_with_indices(x, *window, ceil_mode, storage_order)
        return y, indices
    dtype = dtype_of(x)
    padding = symmetric_pads(spatial_sizes(x), *window)
    if padding is None or (dtype is not None and not dtype.is_floating_point):
        return max_pool_nd(x, *window, ceil_mode)
    rounds_up = bool(ceil_mode) and auto_pad in ("NOTSET", "")
    return MAX_POOL[rank](x, kernel_shape, strides, padding, dilations, rounds_up)


@leaf
def max_pool_nd(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    ceil_mode: int,
) -> Any:
    """A maximum pool of any rank, type and padding."""
    padded = _padded_for_max(x, kernel, strides, dilations, pads, auto_pad, ceil_mode)[0]
    if len(kernel) not in MAX_POOL:
        return windows(padded, kernel, strides, dilations).amax(-1).to(x.dtype)
    return MAX_POOL[len(kernel)](padded, kernel, strides, 0, dilations).to(x.dtype)


@leaf
def max_pool_with_indices(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    ceil_mode: int,
    storage_order: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A maximum pool and where in the whole tensor its values came from. Column-major, if storage_order is 1, are the
    spatial axes alone."""
    padded, begins = _padded_for_max(x, kernel, strides, dilations, pads, auto_pad, ceil_mode)
    y, found = MAX_POOL[len(kernel)](padded, kernel, strides, 0, dilations, return_indices=True)
    coordinates = []
    for size, begin in zip(reversed(padded.shape[2:]), reversed(begins), strict=True):
        coordinates.append(found % size - begin)
        found = found // size
    sizes = list(x.shape[2:])
    if storage_order:
        sizes.reverse()
    else:
        coordinates.reverse()
    indices = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1], *[1] * len(kernel))
    for size, coordinate in zip(sizes, coordinates, strict=True):
        indices = indices * size + coordinate
    return y.to(x.dtype), indices


def _padded_for_max(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    ceil_mode: int,
) -> tuple[Any, tuple[int, ...]]:
    """The input with the least value around it, as floats, which hold all 8-bit integers; and the pads before it."""
    begins, ends = pool_pads(tuple(x.shape[2:]), kernel, strides, dilations, pads, auto_pad, ceil_mode)
    data = x if x.is_floating_point() else x.to(torch.float64)
    return pad_spatial(data, begins, ends, float("-inf")), begins


@rule("MaxUnpool", since=9)
def max_unpool(
    x: Any,
    indices: Any,
    output_shape: Any = None,
    *,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    rank = len(kernel_shape)
    pads = pads or (0,) * 2 * rank
    return unpool(x, indices, ints(output_shape), kernel_shape, strides or (1,) * rank, pads)


@leaf
def unpool(
    x: torch.Tensor,
    indices: torch.Tensor,
    output_shape: tuple[int, ...] | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
) -> torch.Tensor:
    """Each value put where it came from in the tensor that was pooled, zeros elsewhere. The indices are of the shape
    that the window gives; a larger output_shape adds zeros at the ends."""
    rank = len(kernel)
    inferred = [(size - 1) * strides[i] - pads[i] - pads[rank + i] + kernel[i] for i, size in enumerate(x.shape[2:])]
    shape = (x.shape[0], x.shape[1], *inferred)
    y = torch.zeros(prod(shape), dtype=x.dtype, device=x.device)
    y = y.scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(shape)
    if output_shape is None:
        return y
    more = [wanted - size for wanted, size in zip(output_shape, shape, strict=True)]
    return F.pad(y, [p for m in reversed(more) for p in (0, m)])


# ---------------------------------------------------------------------------------------------------------- average
@rule("AveragePool")
def average_pool(
    x: Any,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    rank = len(kernel_shape)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    window = (kernel_shape, strides, dilations, pads, auto_pad)
    padding = symmetric_pads(spatial_sizes(x), *window)
    narrow = rank == 3 and dtype_of(x) not in (torch.float32, torch.float64)  # torch's has no float16
    if padding is None or any(d != 1 for d in dilations) or narrow:
        return average_pool_nd(x, *window, ceil_mode, bool(count_include_pad))
    rounds_up = bool(ceil_mode) and auto_pad in ("NOTSET", "")
    return AVERAGE_POOL[rank](x, kernel_shape, strides, padding, rounds_up, bool(count_include_pad))


@leaf
def average_pool_nd(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    ceil_mode: int,
    count_include_pad: bool,
) -> torch.Tensor:
    """An average pool of any rank, dilation and padding. What a last window has beyond the padding never counts."""
    sizes = tuple(x.shape[2:])
    begins, ends = pool_pads(sizes, kernel, strides, dilations, pads, auto_pad, ceil_mode)
    counted = x.new_ones((1, 1, *sizes))
    if count_include_pad:
        declared = conv_pads(sizes, kernel, strides, dilations, pads, auto_pad)
        assert declared is not None
        counted = pad_spatial(counted, *declared, value=1.0)
        rest = tuple(end - d for end, d in zip(ends, declared[1], strict=True))
        counted = pad_spatial(counted, (0,) * len(kernel), rest)
    else:
        counted = pad_spatial(counted, begins, ends)
    # the mean over all elements of a window, over the share of those that count
    return _window_mean(pad_spatial(x, begins, ends), kernel, strides, dilations) / _window_mean(
        counted, kernel, strides, dilations
    )


def _window_mean(
    x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> torch.Tensor:
    """The mean of each window, by torch's own pool if it can."""
    rank = len(kernel)
    has_it = rank < 3 or (rank == 3 and x.dtype in (torch.float32, torch.float64))
    if has_it and all(d == 1 for d in dilations):
        pooled: torch.Tensor = AVERAGE_POOL[rank](x, kernel, strides)
        return pooled
    return windows(x, kernel, strides, dilations).mean(-1)


# ---------------------------------------------------------------------------------------------------------- p-norms
@rule("LpPool")
def lp_pool(
    x: Any,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    p: float = 2,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    ones = (1,) * len(kernel_shape)
    return lp_pool_nd(x, p, kernel_shape, strides or ones, dilations or ones, pads, auto_pad, ceil_mode)


@leaf
def lp_pool_nd(
    x: torch.Tensor,
    p: float,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    ceil_mode: int,
) -> torch.Tensor:
    """The p-norm of each window; its derivative at a window of zeros is zero."""
    begins, ends = pool_pads(tuple(x.shape[2:]), kernel, strides, dilations, pads, auto_pad, ceil_mode)
    norms: torch.Tensor = torch.linalg.vector_norm(
        windows(pad_spatial(x, begins, ends), kernel, strides, dilations), p, -1
    )
    return norms


# ------------------------------------------------------------------------------------------------------------ whole
@rule("GlobalAveragePool")
def global_average_pool(x: Any) -> Any:
    rank = rank_of(x)
    return spatial_mean(x) if rank is None else x.mean(tuple(range(2, rank)), keepdim=True) if rank > 2 else x


@rule("GlobalMaxPool")
def global_max_pool(x: Any) -> Any:
    rank = rank_of(x)
    return spatial_max(x) if rank is None else x.amax(tuple(range(2, rank)), keepdim=True) if rank > 2 else x


@rule("GlobalLpPool")
def global_lp_pool(x: Any, *, p: float = 2) -> Any:
    rank = rank_of(x)
    if rank is None:
        return spatial_norm(x, p)
    return torch.linalg.vector_norm(x, p, tuple(range(2, rank)), keepdim=True) if rank > 2 else x.abs()


@leaf
def spatial_mean(x: torch.Tensor) -> Any:
    return global_average_pool(x)


@leaf
def spatial_max(x: torch.Tensor) -> Any:
    return global_max_pool(x)


@leaf
def spatial_norm(x: torch.Tensor, p: float) -> Any:
    return global_lp_pool(x, p=p)
