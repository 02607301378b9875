"""Pooling and resizing: what the border counts as, which sizes, which points are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from isomorph.parity.explaining.cause_tests.base import Again, alternative
from isomorph.parity.tolerance import Array

MAX = ("MaxPool1d", "MaxPool2d", "MaxPool3d")
AVERAGE = ("AvgPool1d", "AvgPool2d", "AvgPool3d")
UPSAMPLE = ("Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d")
SMOOTH = ("linear", "bilinear", "bicubic", "trilinear")


def _several(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * rank


@alternative(*MAX)
def maximum(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    rank = int(type(module).__name__[-2])
    padding, kernel = _several(module.padding, rank), _several(module.kernel_size, rank)
    stride = _several(module.stride, rank)
    yield f"ceil_mode is {not module.ceil_mode}", again.having(ceil_mode=not module.ceil_mode)
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    if any(padding):
        sides = [p for size in reversed(padding) for p in (size, size)]
        yield (
            "padded with 0, not with -infinity",
            pool(F.pad(x, sides), kernel, stride, 0, module.dilation, module.ceil_mode),
        )
    yield from _asymmetric(x, pool, kernel, stride, float("-inf"))
    if rank == 2 and padding[0] != padding[1]:
        yield "the padding of height and width is exchanged", again.having(padding=padding[::-1])
    average: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    yield "the average, not the maximum", average(x, kernel, stride, padding, module.ceil_mode)


@alternative(*AVERAGE)
def average(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    rank = int(type(module).__name__[-2])
    padding, kernel = _several(module.padding, rank), _several(module.kernel_size, rank)
    stride = _several(module.stride, rank)
    other = not module.count_include_pad
    yield f"count_include_pad is {other}", again.having(count_include_pad=other)
    yield f"ceil_mode is {not module.ceil_mode}", again.having(ceil_mode=not module.ceil_mode)
    if rank == 2 and padding[0] != padding[1]:
        yield "the padding of height and width is exchanged", again.having(padding=padding[::-1])
    size = float(np.prod(kernel))
    yield "the sum, not the average", [again.run()[0] * size]
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    yield "the maximum, not the average", pool(x, kernel, stride, padding, 1, module.ceil_mode)


def _asymmetric(x: Any, pool: Any, kernel: Any, stride: Any, value: float) -> Iterator[tuple[str, Any]]:
    """'same' as TensorFlow pads it: what is left over goes after."""
    sides: list[int] = []
    for size, k, s in zip(reversed(x.shape[-len(kernel) :]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        sides += [total // 2, total - total // 2]
    yield "padding is asymmetric ('same' as TensorFlow pads it)", pool(F.pad(x, sides, value=value), kernel, stride)


# ------------------------------------------------------------------------------------------------------------- resizing
@alternative(*UPSAMPLE)
def upsample(again: Again) -> Iterator[tuple[str, Any]]:
    yield from _resized(again.x, again.fault.expected[0].shape[2:], again.module.mode, bool(again.module.align_corners))


@alternative("interpolate", "upsample")
def interpolate(again: Again) -> Iterator[tuple[str, Any]]:
    mode, corners = again.argument("mode", 3, "nearest"), bool(again.argument("align_corners", 4, False))
    yield from _resized(again.x, again.fault.expected[0].shape[2:], mode, corners)


def _resized(x: torch.Tensor, size: tuple[int, ...], mode: str, corners: bool) -> Iterator[tuple[str, Any]]:
    rank = x.ndim - 2
    smooth = ("", "linear", "bilinear", "trilinear")[rank]
    modes = ["nearest", "nearest-exact", smooth, *(["bicubic"] if rank == 2 else [])]
    if mode in SMOOTH:
        yield f"align_corners is {not corners}", F.interpolate(x, size, mode=mode, align_corners=not corners)
    for other in modes:
        if other != mode:
            for aligned in (False, True) if other in SMOOTH else (None,):
                extra = f" with align_corners {aligned}" if aligned is not None and aligned != corners else ""
                text = f"{other}{extra}, not {mode}"
                yield text, F.interpolate(x, size, mode=other, align_corners=aligned)
    if mode in (smooth, "bicubic") and not corners:
        yield "no half-pixel centres: points are read from the corner", _separable(x, size, mode, 0.0, -0.75)
    if mode == "bicubic":
        for a in (-0.5, -1.0, -0.6):
            yield f"the cubic's constant is {a}, not -0.75", _separable(x, size, mode, 0.5, a, corners)
        yield "antialiased", F.interpolate(x, size, mode=mode, align_corners=corners, antialias=True)
    elif mode == "bilinear":
        yield "antialiased", F.interpolate(x, size, mode=mode, align_corners=corners, antialias=True)


def _separable(
    x: torch.Tensor, size: tuple[int, ...], mode: str, centre: float, a: float, corners: bool = False
) -> Array:
    """Interpolation axis by axis with the places read shifted by `centre` pixels, and the cubic's constant `a`."""
    result = x.numpy()
    for axis, new in enumerate(size, 2):
        old = result.shape[axis]
        scale = (old - 1) / max(new - 1, 1) if corners else old / new
        at = np.arange(new) * scale if corners else (np.arange(new) + centre) * scale - centre
        if mode != "bicubic":
            at = np.clip(at, 0.0, None)
        low = np.floor(at).astype(int)
        total = 0.0
        for offset in (-1, 0, 1, 2) if mode == "bicubic" else (0, 1):
            weight = _weight(np.abs(at - (low + offset)), mode, a)
            rows = np.take(result, np.clip(low + offset, 0, old - 1), axis)
            total = total + rows * weight.reshape([-1 if k == axis else 1 for k in range(result.ndim)])
        result = np.asarray(total)
    return result


def _weight(t: Array, mode: str, a: float) -> Array:
    if mode != "bicubic":
        return np.clip(1.0 - t, 0.0, None)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
