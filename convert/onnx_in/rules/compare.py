"""Comparison, logic, choice."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from ..operands import dtype_of
from ..registry import rule
from .dtypes import aligned, is_text, ordered, scalar
from .text import choose_text, equal_text


def _comparison(function: Callable[..., Any]) -> Callable[..., Any]:
    compare = ordered(function, restore=False)

    def apply(a: Any, b: Any) -> Any:
        return compare(scalar(a, b), scalar(b, a))

    return apply


def _before_7(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of the versions that broadcast the second operand along `axis`."""

    def apply(a: Any, b: Any, *, axis: int | None = None, broadcast: int = 0) -> Any:
        return function(a, aligned(b, a, broadcast, axis))

    return apply


@rule("Equal", since=7)
def equal(a: Any, b: Any) -> Any:
    if is_text(a) or is_text(b):
        return equal_text(a, b)
    return a == scalar(b, a)


greater, less = _comparison(operator.gt), _comparison(operator.lt)
for _op, _function in (
    ("Equal", equal),
    ("Greater", greater),
    ("Less", less),
    ("And", torch.logical_and),
    ("Or", torch.logical_or),
    ("Xor", torch.logical_xor),
):
    rule(_op)(_before_7(_function))

rule("Greater", since=7)(greater)
rule("Less", since=7)(less)
rule("GreaterOrEqual", since=12)(_comparison(operator.ge))
rule("LessOrEqual", since=12)(_comparison(operator.le))


@rule("And", since=7)
def logical_and(a: Any, b: Any) -> Any:
    return torch.logical_and(a, b)


@rule("Or", since=7)
def logical_or(a: Any, b: Any) -> Any:
    return torch.logical_or(a, b)


@rule("Xor", since=7)
def logical_xor(a: Any, b: Any) -> Any:
    return torch.logical_xor(a, b)


@rule("Not")
def logical_not(x: Any) -> Any:
    return torch.logical_not(x)


@rule("Where", since=9)
def where(condition: Any, a: Any, b: Any) -> Any:
    if is_text(a) or is_text(b):
        return choose_text(condition, a, b)
    if dtype_of(a) is None:
        return torch.where(condition, a, b)
    return torch.where(condition, a, scalar(b, a))
