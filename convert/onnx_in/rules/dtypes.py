"""Element types: kernels that torch lacks, and constants as Python numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch

from ..operands import DTYPES, constant_of, dtype_of, info_of, leaf, rank_of
from ..written import written

__all__ = [
    "aligned",
    "element_of",
    "in_integers",
    "is_text",
    "modular",
    "ordered",
    "scalar",
    "unsigned",
]

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch stores them and hardly computes with them
TOP = -(2**63)  # the sign bit of int64
STRING = 8


def unsigned(*xs: Any) -> torch.dtype | None:
    """The type of the operands, if it is one of `UNSIGNED`."""
    return next((d for x in xs if (d := dtype_of(x)) in UNSIGNED), None)


def is_text(x: Any) -> bool:
    """Whether an operand holds strings, which are numpy object arrays."""
    return isinstance(x, np.ndarray) or info_of(x).element == STRING


def element_of(site: Any, index: int) -> int | None:
    """The onnx.TensorProto.DataType of an input of a node, which tells int4 from int8; None where unknown."""
    value = site.node.inputs[index] if index < len(site.node.inputs) else None
    return None if value is None or value.dtype is None else int(value.dtype)


def in_integers(x: Any) -> bool:
    """Whether an operand is known to hold integers."""
    dtype = dtype_of(x)
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def modular(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of torch for the unsigned types too, if its result is right modulo 2**64: + - * and bits."""

    @wraps(function)
    def apply(*xs: Any) -> Any:
        dtype = unsigned(*xs)
        return function(*xs) if dtype is None else function(*(x.to(torch.int64) for x in xs)).to(dtype)

    return apply


def ordered(function: Callable[..., Any], restore: bool = True) -> Callable[..., Any]:
    """The function of torch for the unsigned types too, if it only compares and picks. restore: it gives elements."""

    @wraps(function)
    def apply(*xs: Any) -> Any:
        dtype = unsigned(*xs)
        if dtype is None:
            return function(*xs)
        result = function(*(to_ordered(x, dtype) for x in xs))
        return from_ordered(result, dtype) if restore else result

    return apply


def to_ordered(x: Any, dtype: torch.dtype) -> Any:
    """An unsigned tensor as int64 in the same order."""
    return x.to(torch.int64) ^ TOP if dtype == torch.uint64 else x.to(torch.int64)


def from_ordered(x: Any, dtype: torch.dtype) -> Any:
    """The reverse of `to_ordered`."""
    return (x ^ TOP).to(dtype) if dtype == torch.uint64 else x.to(dtype)


def scalar(x: Any, beside: Any) -> Any:
    """A constant of one element as a Python number, if it stands beside an operand whose shape that does not change;
    else x itself."""
    value = constant_of(x)
    if value is None or value.numel() != 1 or isinstance(beside, torch.Tensor):
        return x
    dtype = value.dtype
    if dtype in UNSIGNED or dtype == torch.bool or (dtype.itemsize == 1 and dtype.is_floating_point):
        return x
    rank = rank_of(beside)
    if value.ndim and (rank is None or rank < value.ndim):
        return x
    return written(value.item()) if dtype == torch.float32 else value.item()


def aligned(b: Any, a: Any, broadcast: int, axis: int | None) -> Any:
    """The second operand as the ops before opset 7 broadcast it: its dims are those of `a` from `axis` on."""
    if not broadcast or axis is None:
        return b
    ranks = rank_of(a), rank_of(b)
    if ranks[0] is None or ranks[1] is None:
        return align(b, a, axis)
    trailing = ranks[0] - axis % max(ranks[0], 1) - ranks[1]
    return b[(..., *[None] * trailing)] if trailing > 0 else b


@leaf
def align(b: torch.Tensor, a: torch.Tensor, axis: int) -> torch.Tensor:
    """`aligned` where a rank is known at run time only."""
    trailing = a.dim() - axis % max(a.dim(), 1) - b.dim()
    return b[(..., *[None] * trailing)] if trailing > 0 else b


def held(element: int) -> torch.dtype:
    """The torch dtype that holds an onnx.TensorProto.DataType. Raises ValueError: none does."""
    if element in (27, 28):  # floats of 6 bits
        return torch.float32
    if element not in DTYPES:
        raise ValueError(f"torch holds no tensor of ONNX's element type {element}")
    return DTYPES[element]
