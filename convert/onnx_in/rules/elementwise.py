"""Arithmetic, element by element, with numpy's broadcasting; before opset 7 with its own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from ..operands import dtype_of, leaf
from ..registry import rule
from .dtypes import aligned, in_integers, modular, ordered, scalar, unsigned

_add = modular(operator.add)
_sub = modular(operator.sub)
_mul = modular(operator.mul)


@rule("Add", since=7)
def add(a: Any, b: Any) -> Any:
    return _add(scalar(a, b), scalar(b, a))


@rule("Sub", since=7)
def sub(a: Any, b: Any) -> Any:
    return _sub(scalar(a, b), scalar(b, a))


@rule("Mul", since=7)
def mul(a: Any, b: Any) -> Any:
    return _mul(scalar(a, b), scalar(b, a))


@rule("Div", since=7)
def div(a: Any, b: Any) -> Any:
    """Integers are divided towards zero."""
    dtype = unsigned(a, b)
    if dtype == torch.uint64:
        return divide_uint64(a, b)
    if dtype is not None:
        return torch.div(a.to(torch.int64), b.to(torch.int64), rounding_mode="trunc").to(dtype)
    if dtype_of(a) is None and dtype_of(b) is None:
        return divide(a, b)
    if in_integers(a) or in_integers(b):
        return torch.div(a, scalar(b, a), rounding_mode="trunc")
    return scalar(a, b) / scalar(b, a)


@leaf
def divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Division towards zero of integers, true division of floats."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@leaf
def divide_uint64(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The quotient of uint64 tensors: half the dividend is divided as int64, and the quotient corrected by one."""
    x, y = a.to(torch.int64), b.to(torch.int64)
    half = (x >> 1) & (2**63 - 1)
    quotient = torch.div(half, torch.where(y > 0, y, 1), rounding_mode="trunc") << 1
    rest = x - quotient * y
    small = quotient + at_least(rest, y).to(torch.int64)
    return torch.where(y > 0, small, at_least(x, y).to(torch.int64)).to(torch.uint64)


def at_least(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x >= y of int64 tensors that hold the bits of uint64."""
    return (x ^ -(2**63)) >= (y ^ -(2**63))


def _before_7(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of the versions that broadcast the second operand along `axis`."""

    def apply(a: Any, b: Any, *, axis: int | None = None, broadcast: int = 0, consumed_inputs: Any = None) -> Any:
        return function(a, aligned(b, a, broadcast, axis))

    return apply


for _op, _function in (("Add", add), ("Sub", sub), ("Mul", mul), ("Div", div)):
    rule(_op)(_before_7(_function))


@rule("Mod", since=10)
def mod(a: Any, b: Any, *, fmod: int = 0) -> Any:
    """The remainder with the sign of b; with that of a, if fmod."""
    dtype = unsigned(a, b)
    if dtype == torch.uint64:
        return (a.to(torch.int64) - divide_uint64(a, b).to(torch.int64) * b.to(torch.int64)).to(dtype)
    if dtype is not None:
        return torch.remainder(a.to(torch.int64), b.to(torch.int64)).to(dtype)
    if fmod:
        return torch.fmod(a, scalar(b, a))
    return torch.remainder(a, scalar(b, a)) if in_integers(a) else floor_mod(a, b)


@leaf
def floor_mod(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The remainder with the sign of b, also where it is zero."""
    rest = torch.remainder(a, b)
    return torch.where(rest == 0, torch.copysign(rest, b), rest) if rest.is_floating_point() else rest


@rule("Pow", since=7)
def power(a: Any, b: Any) -> Any:
    """The type is that of the base."""
    base, exponent = dtype_of(a), dtype_of(b)
    if unsigned(b) is not None:
        b, exponent = b.to(torch.int64), torch.int64
    if base is None or exponent is None:
        return power_of_base(a, b)
    if base.is_floating_point:
        result = torch.pow(a, scalar(b, a))
        return result.type_as(a) if torch.promote_types(base, exponent) != base else result
    if exponent.is_floating_point:
        return integer_power(a, b)
    return torch.pow(a, b) if base == exponent else torch.pow(a, b).to(base)


rule("Pow")(_before_7(power))


@leaf
def power_of_base(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a ** b in the type of a."""
    return torch.pow(a, b).to(a.dtype) if a.is_floating_point() else integer_power(a, b)


@leaf
def integer_power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a ** b of integers a, computed in float64 if b is not integer, in the type of a."""
    return (torch.pow(a.double(), b.double()) if b.is_floating_point() else torch.pow(a, b)).to(a.dtype)


@rule("Neg")
def neg(x: Any, *, consumed_inputs: Any = None) -> Any:
    return -x


@rule("Abs")
def absolute(x: Any, *, consumed_inputs: Any = None) -> Any:
    return torch.abs(x) if unsigned(x) is None and dtype_of(x) != torch.bool else x


# --------------------------------------------------------------------------------------------- of any number of inputs
_maximum = ordered(torch.maximum)
_minimum = ordered(torch.minimum)


@rule("Max")
def maximum(*xs: Any, consumed_inputs: Any = None) -> Any:
    return reduce(_maximum, xs)


@rule("Min")
def minimum(*xs: Any, consumed_inputs: Any = None) -> Any:
    return reduce(_minimum, xs)


@rule("Sum")
def total(*xs: Any, consumed_inputs: Any = None) -> Any:
    return reduce(operator.add, xs)


@rule("Mean")
def mean(*xs: Any, consumed_inputs: Any = None) -> Any:
    return reduce(operator.add, xs) / len(xs)


# --------------------------------------------------------------------------------------------------------------- bits
rule("BitwiseAnd", since=18)(modular(operator.and_))
rule("BitwiseOr", since=18)(modular(operator.or_))
rule("BitwiseXor", since=18)(modular(operator.xor))
rule("BitwiseNot", since=18)(modular(operator.invert))


@rule("BitShift", since=11)
def bit_shift(x: Any, y: Any, *, direction: str) -> Any:
    """A shift by as many bits as the type has, or more, leaves the sign bit's extension alone."""
    left = direction == "LEFT"
    dtype = unsigned(x, y)
    if dtype == torch.uint64 and not left:
        return shift_right_uint64(x, y)
    shift = torch.bitwise_left_shift if left else torch.bitwise_right_shift
    return shift(x, y) if dtype is None else shift(x.to(torch.int64), y.to(torch.int64)).to(dtype)


@leaf
def shift_right_uint64(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x >> y of uint64 tensors."""
    bits, by = x.to(torch.int64), y.to(torch.int64)
    rest = (bits >> 1) & (2**63 - 1)
    shifted = torch.where((by > 0) & (by < 64), rest >> (by - 1).clamp(0, 63), 0)
    return torch.where(by == 0, bits, shifted).to(torch.uint64)
