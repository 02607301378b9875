"""Resize and Upsample: torch's interpolate where it computes the same, else tap by tap along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..operands import dtype_of, floats, ints, leaf, shape_of
from ..registry import rule
from .resize_taps import Along, gather_taps, outside, taps

__all__ = ["Options", "interpolate_arguments"]

MODES = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}


@dataclass(frozen=True)
class Options:
    """Resize's attributes. axes: those that scales, sizes and roi speak of; None: all."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0
    policy: str = "stretch"
    axes: tuple[int, ...] | None = None


@rule("Resize", since=11)
def resize(
    x: Any,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Any:
    options = (
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value,
        keep_aspect_ratio_policy,
        axes,
    )
    if sizes is not None and shape_of(sizes) == (0,):
        sizes = None
    if sizes is not None:
        scales = None  # before opset 13 exporters wrote an empty one
    roi = roi if coordinate_transformation_mode == "tf_crop_and_resize" else None
    return _resize(x, floats(roi), floats(scales), ints(sizes), options)


@rule("Resize", since=10)
@rule("Upsample", since=9)
def upsample(x: Any, scales: Any, *, mode: str = "nearest") -> Any:
    """Asymmetric coordinates; nearest rounds down, and up where it makes an axis smaller. ONNX leaves that open: this
    is what ONNX Runtime does."""
    return _resize(x, None, floats(scales), None, _old_options(mode))


@rule("Upsample", since=7)
def upsample_7(x: Any, *, scales: tuple[float, ...], mode: str = "nearest") -> Any:
    return _resize(x, None, tuple(scales), None, _old_options(mode))


@rule("Upsample")
def upsample_1(x: Any, *, height_scale: float, width_scale: float, mode: str = "nearest") -> Any:
    return _resize(x, None, (1.0, 1.0, height_scale, width_scale), None, _old_options(mode))


def _old_options(mode: str) -> tuple[Any, ...]:
    mode = "linear" if mode in ("bilinear", "trilinear") else mode
    return (mode, "asymmetric", "by_scale", -0.75, False, False, 0.0, "stretch", None)


def _resize(x: Any, roi: Any, scales: Any, sizes: Any, options: tuple[Any, ...]) -> Any:
    """What is known by now as one call of interpolate, everything else by the size at run time."""
    roi, scales = (v if v is None else decimals(v) for v in (roi, scales))
    shape, dtype = shape_of(x), dtype_of(x)
    known = all(
        v is None or (isinstance(v, tuple) and all(isinstance(i, (int, float)) for i in v)) for v in (scales, sizes)
    )
    if shape is not None and known and (dtype is None or dtype.is_floating_point):
        arguments = interpolate_arguments(shape, scales, sizes, Options(*options))
        if arguments is not None:
            return F.interpolate(x, **arguments)
    return resize_at_run(x, roi, scales, sizes, options)


# ------------------------------------------------------------------------------------------------ torch's interpolate
def interpolate_arguments(
    shape: tuple[Any, ...], scales: tuple[float, ...] | None, sizes: tuple[Any, ...] | None, options: Options
) -> dict[str, Any] | None:
    """How torch's interpolate computes this Resize; None where it does not, or where what decides it is unknown."""
    rank = len(shape)
    plain = not options.antialias and options.policy == "stretch"
    if not plain or not 3 <= rank <= 5:
        return None
    scales, sizes = _of_all_axes(shape, scales, sizes, options.axes)
    if scales is not None:
        if scales[0] != 1 or scales[1] != 1:
            return None
        target: dict[str, Any] = {"scale_factor": list(scales[2:])}
        if options.coordinates == "align_corners" and all(type(d) is int for d in shape[2:]):
            sizes = (*shape[:2], *(int(d * s) for d, s in zip(shape[2:], scales[2:], strict=True)))
            target = {"size": list(sizes[2:])}
    elif sizes is None or not all(_same(a, b) for a, b in zip(sizes[:2], shape[:2], strict=True)):
        return None
    else:
        target = {"size": list(sizes[2:])}
    if options.mode == "nearest":
        return target | {"mode": "nearest"} if _repeats(shape, scales, sizes, options) else None
    if options.mode == "cubic" and (options.cubic_a != -0.75 or options.exclude_outside):
        return None
    mode = MODES.get((options.mode, rank - 2))
    fits = options.coordinates == "half_pixel" or (options.coordinates == "align_corners" and sizes is not None)
    if mode is None or not fits or options.exclude_outside:
        return None
    return target | {"mode": mode, "align_corners": options.coordinates == "align_corners"}


def _same(a: Any, b: Any) -> bool:
    return a is not None and not isinstance(a, str) and not isinstance(b, str) and b is not None and bool(a == b)


def _of_all_axes(
    shape: tuple[Any, ...], scales: Any, sizes: Any, axes: tuple[int, ...] | None
) -> tuple[tuple[float, ...] | None, tuple[Any, ...] | None]:
    """Scales and sizes with one element for each axis of the input."""
    if axes is None:
        return scales, sizes
    where = {axis % len(shape): i for i, axis in enumerate(axes)}
    if scales is not None:
        scales = tuple(scales[where[d]] if d in where else 1.0 for d in range(len(shape)))
    if sizes is not None:
        sizes = tuple(sizes[where[d]] if d in where else shape[d] for d in range(len(shape)))
    return scales, sizes


def _repeats(shape: tuple[Any, ...], scales: Any, sizes: Any, options: Options) -> bool:
    """Whether nearest repeats each element a whole number of times; there torch and ONNX round alike."""
    rounds = options.coordinates == "half_pixel" and options.nearest.startswith("round")
    if not rounds and (options.coordinates != "asymmetric" or options.nearest not in ("floor", "by_scale")):
        return False
    if scales is not None:
        return all(float(s).is_integer() for s in scales)
    pairs = list(zip(sizes, shape, strict=True))[2:]
    return all(type(a) is int and type(b) is int and a % b == 0 for a, b in pairs)


@leaf
def decimals(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """float32s as the numbers their author wrote: 0.7, not 0.699999988. Their products with sizes are as in float32."""
    return tuple(float(str(np.float32(n))) for n in numbers)


# ----------------------------------------------------------------------------------------------------- at run time
@leaf
def resize_at_run(
    x: torch.Tensor,
    roi: tuple[float, ...] | None,
    scales: tuple[float, ...] | None,
    sizes: tuple[int, ...] | None,
    options: tuple[Any, ...],
) -> torch.Tensor:
    """ONNX's Resize by the sizes at run time. options: the fields of `Options`."""
    o = Options(*options)
    if x.is_floating_point():
        arguments = interpolate_arguments(tuple(x.shape), scales, sizes, o)
        if arguments is not None:
            return F.interpolate(x, **arguments)
    wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float64
    y = x if o.mode == "nearest" else x.to(wide)
    hidden = None
    for along in axes_to_resize(tuple(x.shape), roi, scales, sizes, o):
        indices, weights = taps(along, o, x.device)
        y = gather_taps(y, along.axis, indices, weights)
        if o.coordinates == "tf_crop_and_resize":
            out = outside(along, o, x.device).reshape(-1, *[1] * (x.dim() - 1 - along.axis))
            hidden = out if hidden is None else hidden | out
    if y.is_floating_point() and not x.is_floating_point():
        y = torch.round(y * 65536) / 65536  # what is cut off to a whole number next may be 24.999999999
    y = y.to(x.dtype)
    return y if hidden is None else torch.where(hidden, torch.full_like(y, o.extrapolation), y)


def axes_to_resize(
    shape: tuple[int, ...],
    roi: tuple[float, ...] | None,
    scales: tuple[float, ...] | None,
    sizes: tuple[int, ...] | None,
    o: Options,
) -> list[Along]:
    """The axes that change, with sizes and scale. A policy other than stretch gives all axes one scale."""
    axes = range(len(shape)) if o.axes is None else [a % len(shape) for a in o.axes]
    count = len(axes)
    crops = o.coordinates == "tf_crop_and_resize" and roi is not None and len(roi) > 0
    shared = None
    if sizes is not None and o.policy != "stretch":
        ratios = [sizes[i] / shape[a] for i, a in enumerate(axes)]
        shared = min(ratios) if o.policy == "not_larger" else max(ratios)
    found = []
    for i, axis in enumerate(axes):
        start, end = (roi[i], roi[count + i]) if crops and roi is not None else (0.0, 1.0)
        size = shape[axis]
        if shared is not None:
            scale, target = shared, torch.sym_int(shared * size + 0.5)
        elif sizes is not None:
            target = sizes[i]
            scale = target / size
        else:
            assert scales is not None
            scale = scales[i]
            target = size if scale == end - start == 1 else torch.sym_int(size * (end - start) * scale)
        same = target is size or (target == size and scale == 1)
        if not same or (start, end) != (0.0, 1.0):
            found.append(Along(axis, size, target, scale, start, end))
    return found
