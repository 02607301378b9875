"""Functions of one number, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..operands import dtype_of
from ..registry import rule
from .dtypes import in_integers, ordered, scalar, unsigned

LOWEST = -3.4028234663852886e38  # the defaults of Clip before opset 11
HIGHEST = 3.4028234663852886e38

# op -> (the oldest version of its schema, its function)
FUNCTIONS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "Acos": (7, torch.acos),
    "Acosh": (9, torch.acosh),
    "Asin": (7, torch.asin),
    "Asinh": (9, torch.asinh),
    "Atan": (7, torch.atan),
    "Atanh": (9, torch.atanh),
    "Ceil": (1, torch.ceil),
    "Cos": (7, torch.cos),
    "Cosh": (9, torch.cosh),
    "Exp": (1, torch.exp),
    "Floor": (1, torch.floor),
    "Log": (1, torch.log),
    "Reciprocal": (1, torch.reciprocal),
    "Round": (11, torch.round),  # halves to even
    "Sigmoid": (1, torch.sigmoid),
    "Sin": (7, torch.sin),
    "Sinh": (9, torch.sinh),
    "Sqrt": (1, torch.sqrt),
    "Tan": (7, torch.tan),
    "Tanh": (1, torch.tanh),
}


def _unary(function: Callable[[Any], Any]) -> Callable[..., Any]:
    def apply(x: Any, *, consumed_inputs: Any = None) -> Any:
        return function(x)

    return apply


for _op, (_since, _function) in FUNCTIONS.items():
    rule(_op, since=_since)(_unary(_function))


@rule("Det", since=11)
def det(x: Any) -> Any:
    """Of floats of 16 bits too, which torch does not factorise."""
    dtype = dtype_of(x)
    if dtype in (torch.float16, torch.bfloat16):
        return torch.linalg.det(x.to(torch.float32)).to(dtype)
    return torch.linalg.det(x)


@rule("Erf", since=9)
def erf(x: Any) -> Any:
    """Of integers too: the result is cut to an integer."""
    return torch.erf(x.to(torch.float64)).to(dtype_of(x)) if in_integers(x) else torch.erf(x)


@rule("Sign", since=9)
def sign(x: Any) -> Any:
    dtype = unsigned(x)
    return torch.sign(x) if dtype is None else (x != 0).to(dtype)


@rule("IsNaN", since=9)
def is_nan(x: Any) -> Any:
    return torch.isnan(_wide(x))


@rule("IsInf", since=10)
def is_inf(x: Any, *, detect_negative: int = 1, detect_positive: int = 1) -> Any:
    x = _wide(x)
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)


def _wide(x: Any) -> Any:
    """Floats of 8 bits as float32: torch does not compute with them."""
    dtype = dtype_of(x)
    return x.to(torch.float32) if dtype is not None and dtype.itemsize == 1 else x


# ---------------------------------------------------------------------------------------------------------------- Clip
@rule("Clip")
def clip_1(x: Any, *, min: float = LOWEST, max: float = HIGHEST, consumed_inputs: Any = None) -> Any:
    """The defaults are no bounds: what is infinite stays so, as in later versions."""
    low, high = None if min <= LOWEST else min, None if max >= HIGHEST else max
    return x if low is None and high is None else torch.clamp(x, low, high)


@rule("Clip", since=11)
def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """Where low > high, the result is high."""
    dtype = unsigned(x)
    if dtype is not None:
        bounded = x if low is None else ordered(torch.maximum)(x, low)
        return bounded if high is None else ordered(torch.minimum)(bounded, high)
    if low is None and high is None:
        return x
    bounds = [None if bound is None else scalar(bound, x) for bound in (low, high)]
    if all(isinstance(bound, float) for bound in bounds) and bounds == [0.0, 6.0]:
        return torch.nn.functional.relu6(x)  # what exporters mean; unlike clamp's, its gradient at the bounds is zero
    return torch.clamp(x, *bounds)
