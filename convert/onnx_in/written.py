"""What a float32 of the file was before it was rounded: 0.001 for 0.0010000000474974513, 1/6 for 0.1666666716337204.

A file holds a model's numbers as float32; its author wrote them in Python, in float64. In float32 nothing changes, for
what is found here rounds to the very number of the file. In float64 the module then computes what the author wrote, and
so can be compared with a model that never was in a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

__all__ = ["shortest", "written", "written_all"]

DIGITS = 6  # a decimal of no more is taken to be what stood there
DENOMINATOR = 256
LONGEST = 16  # a longer list is data


def written(number: float) -> float:
    """The simplest number that rounds to this float32: a short decimal, a fraction, a root of one, a multiple of pi;
    else the shortest decimal."""
    single = np.float32(number)
    if not abs(number) < 1e38 or float(single) != number:  # near the end of float32 the decimal may lie beyond it
        return number
    text = np.format_float_scientific(single, unique=True)
    decimal = shortest(number)
    if sum(c.isdigit() for c in text.partition("e")[0].strip("-").rstrip("0")) <= DIGITS or number == int(number):
        return decimal
    return next((c for c in _candidates(number) if np.float32(c) == single), decimal)


def shortest(number: float) -> float:
    """A float32 as the shortest decimal that is the same float32: 1e-05 and not 9.99999974e-06."""
    return float(np.format_float_scientific(np.float32(number), unique=True))


def _candidates(number: float) -> Iterator[float]:
    """In this order: p/q, sqrt(p/q), pi*p/q, p/(pi*q), sqrt(p/(pi*q)), log(n)."""
    sign = math.copysign(1.0, number)
    size = abs(number)
    yield sign * _fraction(size)
    yield sign * math.sqrt(_fraction(size * size))
    yield sign * _fraction(size / math.pi) * math.pi
    yield sign * _fraction(size * math.pi) / math.pi
    yield sign * math.sqrt(_fraction(size * size * math.pi) / math.pi)
    if size < 40:
        yield sign * math.log(max(round(math.exp(size)), 1))


def _fraction(number: float) -> float:
    """The nearest p/q with a small q."""
    return float(Fraction(number).limit_denominator(DENOMINATOR))


def written_all(numbers: tuple[float, ...]) -> tuple[float, ...]:
    """`written` of each, if they are few."""
    return tuple(map(written, numbers)) if len(numbers) <= LONGEST else numbers
