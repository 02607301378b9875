"""Resize along one axis: which elements of the input an element of the output reads, and how it weighs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import floor
from typing import Any

import torch

__all__ = ["Along", "gather_taps", "outside", "taps"]


@dataclass(frozen=True)
class Along:
    """An axis of `size` elements that becomes one of `target`. scale: target over size, as exactly as it was given.
    start, end: the part that is cropped, 0 to 1."""

    axis: int
    size: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def coordinates(along: Along, kind: str, device: torch.device) -> torch.Tensor:
    """Where in the input each element of the output lies. Shape (target,), float64."""
    x = torch.arange(along.target, dtype=torch.float64, device=device)
    # the length is the output's own, also where the scale asks for a fraction of an element more: so ONNX's text, ONNX
    # Runtime and torch; onnx.reference, and with it two of ONNX's tests, has the fraction
    size, length = along.size, along.target
    if kind == "asymmetric":
        return x / along.scale
    if kind == "align_corners":
        return x * 0 if length == 1 else x * (size - 1) / (length - 1)
    if kind == "tf_crop_and_resize":
        start, width = along.start * (size - 1), (along.end - along.start) * (size - 1)
        return x * 0 + start + width / 2 if length == 1 else start + x * width / (length - 1)
    half = (x + 0.5) / along.scale - 0.5
    if kind == "half_pixel":
        return half
    if kind == "pytorch_half_pixel":
        return half if length > 1 else x * 0
    if kind == "half_pixel_symmetric":
        return half + size / 2 * (1 - length / (along.scale * size))
    raise ValueError(f"coordinate_transformation_mode is {kind!r}")


def outside(along: Along, options: Any, device: torch.device) -> torch.Tensor:
    """Which elements of the output lie outside the input. Shape (target,)."""
    x = coordinates(along, options.coordinates, device)
    return (x < 0) | (x > along.size - 1)


def taps(along: Along, options: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(indices, weights), each (target, taps); no weights for nearest. Beyond its ends the input goes on with its last
    elements, or, with exclude_outside, is left out."""
    x = coordinates(along, options.coordinates, device)
    if options.mode == "nearest":
        return _round(x, options.nearest, along.scale).clamp(0, along.size - 1).long().unsqueeze(1), None
    reach, kernel = {"linear": (1, linear), "cubic": (2, cubic)}[options.mode]
    squeeze = min(along.scale, 1.0) if options.antialias else 1.0
    before = floor(-reach / squeeze) + 1
    offsets = torch.arange(before, 2 - before, device=device)
    base = x.floor()
    weights = kernel((offsets - (x - base).unsqueeze(1)) * squeeze, options.cubic_a)
    indices = base.long().unsqueeze(1) + offsets
    if options.exclude_outside:
        weights = torch.where((indices >= 0) & (indices < along.size), weights, 0.0)
    if options.exclude_outside or options.antialias:
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total == 0, 1.0, total)
    return indices.clamp(0, along.size - 1), weights


def _round(x: torch.Tensor, how: str, scale: float) -> torch.Tensor:
    if how == "by_scale":
        how = "ceil" if scale < 1 else "floor"
    if how == "round_prefer_floor":
        return (x - 0.5).ceil()
    if how == "round_prefer_ceil":
        return (x + 0.5).floor()
    return {"floor": torch.floor, "ceil": torch.ceil}[how](x)


def linear(x: torch.Tensor, _: float) -> torch.Tensor:
    return (1 - x.abs()).clamp(min=0)


def cubic(x: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' kernel with its parameter a."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def gather_taps(x: torch.Tensor, axis: int, indices: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The axis read at `indices` (target, taps) and summed with `weights`."""
    if weights is None:
        return x.index_select(axis, indices[:, 0])
    shape = (-1, *[1] * (x.dim() - 1 - axis))
    parts = [
        x.index_select(axis, index) * weight.to(x.dtype).reshape(shape)
        for index, weight in zip(indices.unbind(1), weights.unbind(1), strict=True)
    ]
    return reduce(torch.add, parts)
