"""Arithmetic and activations, element by element."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import dtype_of
from ..registry import rule


@rule("Add")
def add(a: Any, b: Any, **_: Any) -> Any:
    return a + b


@rule("Mul")
def mul(a: Any, b: Any, **_: Any) -> Any:
    return a * b


@rule("Div")
def div(a: Any, b: Any, **_: Any) -> Any:
    """Integers are divided towards zero."""
    dtype = dtype_of(a) or dtype_of(b)
    if dtype is not None and not dtype.is_floating_point:
        return torch.div(a, b, rounding_mode="trunc")
    return a / b


@rule("Relu")
def relu(x: Any, **_: Any) -> Any:
    return torch.relu(x)
