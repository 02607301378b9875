"""Integers and narrow floats that stand for real numbers: q = round(x / scale) + zero point, saturated."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import dtype_of, leaf, rank_of, shape_of
from ..registry import rule
from .cast import convert
from .dtypes import element_of, held
from .narrow import INTEGERS, bounds

__all__ = ["along", "integers", "quantised"]

UINT8 = 2


def along(parameter: Any, x: Any, axis: int, block: int) -> Any:
    """A scale or a zero point in a shape that broadcasts to x: one for all, one for each place of the axis, or one for
    each `block` places of it."""
    rank, shape = rank_of(x), shape_of(parameter)
    if shape is not None and (not shape or shape == (1,)) and not block:
        return parameter
    if rank is None or shape is None or block:
        return placed(parameter, x, axis, block)
    trailing = rank - 1 - axis % rank if rank > 1 else 0
    return parameter.reshape(-1, *[1] * trailing) if len(shape) == 1 and trailing else parameter


@leaf
def placed(parameter: torch.Tensor, x: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    """`along` at run time."""
    if block:
        kept = parameter.dtype.is_floating_point and parameter.dtype.itemsize == 1
        raw = parameter.view(torch.uint8) if kept else parameter
        whole = raw.repeat_interleave(block, axis).narrow(axis, 0, x.size(axis))
        return whole.view(parameter.dtype) if kept else whole
    if parameter.dim() != 1 or x.dim() < 2:
        return parameter
    return parameter.reshape(-1, *[1] * (x.dim() - 1 - axis % x.dim()))


def quantised(ratio: Any, zero: Any, element: int, saturate: bool = True) -> Any:
    """x / scale as elements of the onnx.TensorProto.DataType `element`."""
    if element not in INTEGERS:
        return convert(ratio if zero is None else ratio + zero.to(torch.float32), element, None, saturate)
    low, high = bounds(element)
    if dtype_of(ratio) in (torch.float16, torch.bfloat16) or dtype_of(ratio) is None:
        ratio = ratio.to(torch.float32)  # holds every integer of 16 bits
    whole = torch.round(ratio)
    whole = whole if zero is None else whole + zero.to(torch.int32)
    return torch.clamp(whole, low, high).to(held(element))


@rule("QuantizeLinear", since=10)
def quantize_linear(
    x: Any,
    scale: Any,
    zero: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    site: Any = None,
) -> Any:
    """The type is that of the zero point, else `output_dtype`, else uint8."""
    element = output_dtype or (None if site is None else element_of(site, 2)) or _element(zero)
    divisor = computable(scale)
    scale_, zero_ = along(divisor, x, axis, block_size), None if zero is None else along(zero, x, axis, block_size)
    if precision:
        x, scale_ = x.to(held(precision)), scale_.to(held(precision))
    elif dtype_of(x) != dtype_of(scale):
        x = x.type_as(divisor)
    ratio = x / scale_
    return quantised(ratio, zero_, element, bool(saturate))


def _element(zero: Any) -> int:
    """Of a zero point that says nothing but its torch dtype."""
    dtype = None if zero is None else dtype_of(zero)
    return next((e for e in (*INTEGERS, 17, 18, 19, 20) if held(e) == dtype), UINT8)


def computable(x: Any) -> Any:
    """Floats of 8 bits and integers as float32."""
    dtype = dtype_of(x)
    return x.to(torch.float32) if dtype is not None and (not dtype.is_floating_point or dtype.itemsize == 1) else x


@rule("DequantizeLinear", since=10)
def dequantize_linear(
    x: Any, scale: Any, zero: Any = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Any:
    """(x - zero point) * scale in the type of the scale, or `output_dtype`."""
    factor = along(computable(scale), x, axis, block_size)
    if zero is not None:
        wide = integers(x, zero)
        x, zero = x.to(wide), along(zero, x, axis, block_size).to(wide)
        x = x - zero
    if output_dtype:
        return x.to(held(output_dtype)) * factor.to(held(output_dtype))
    return x.type_as(factor) * factor


def integers(*xs: Any) -> torch.dtype:
    """The type in which differences of quantised values are exact."""
    known = [d for x in xs if (d := dtype_of(x)) is not None]
    return torch.float32 if any(d.is_floating_point for d in known) else torch.int32


@rule("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Any) -> Any:
    """uint8, over the range of x and zero."""
    low, high = torch.clamp(x.min(), max=0), torch.clamp(x.max(), min=0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    y = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


# ------------------------------------------------------------------------------------------------------------ products
@rule("MatMulInteger", since=10)
def matmul_integer(a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """int32. The sums are exact in float64 and wrap around as int32 would."""
    return torch.matmul(shifted_rows(a, a_zero), shifted_columns(b, b_zero)).to(torch.int64).to(torch.int32)


def shifted_rows(a: Any, zero: Any) -> Any:
    """a minus its zero point, one for all or one for each row, in float64."""
    a = a.to(torch.float64)
    return a if zero is None else a - by_row(zero).to(torch.float64)


def shifted_columns(b: Any, zero: Any) -> Any:
    b = b.to(torch.float64)
    return b if zero is None else b - zero.to(torch.float64)


def by_row(parameter: Any) -> Any:
    """A 1-D parameter of the rows of a matrix as a column."""
    shape = shape_of(parameter)
    if shape is None:
        return column(parameter)
    return parameter.reshape(-1, 1) if len(shape) == 1 and shape != (1,) else parameter


@leaf
def column(parameter: torch.Tensor) -> torch.Tensor:
    """`by_row` at run time."""
    return parameter.reshape(-1, 1) if parameter.dim() == 1 and parameter.numel() > 1 else parameter


@rule("QLinearMatMul", since=10)
def qlinear_matmul(
    a: Any,
    a_scale: Any,
    a_zero: Any,
    b: Any,
    b_scale: Any,
    b_zero: Any,
    y_scale: Any,
    y_zero: Any,
    *,
    site: Any = None,
) -> Any:
    product = torch.matmul(shifted_rows(a, a_zero), shifted_columns(b, b_zero))
    scale = by_row(a_scale) * b_scale / y_scale
    element = (None if site is None else element_of(site, 7)) or _element(y_zero)
    return quantised(product.to(torch.float32) * scale, y_zero, element)
