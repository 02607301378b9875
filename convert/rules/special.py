"""Rules: gamma, zeta and Bessel functions, in elementary functions that every backend can differentiate."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from keras import ops

from ..builder import Dynamic
from .operands import is_complex, plus
from .registry import ELEMENTWISE, rule

Tensor = Any

BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)  # B2, B4, ...
SHIFT = 8  # the asymptotic series are taken at x + SHIFT, and brought back by the recurrence


def _horner(x: Tensor, coefficients: Any) -> Tensor:
    """sum c[i] x**i."""
    *rest, total = coefficients
    for c in reversed(rest):
        total = plus(ops.multiply(x, total), c)
    return total


def _right_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where x is left of 1/2, and x mirrored to the right there."""
    left = ops.less(x, 0.5)
    return left, ops.where(left, ops.subtract(1.0, x), x)


def _to_nearest_integer(x: Tensor) -> Tensor:
    """x - round(x): the sine of pi x from it is exact at integers."""
    return ops.subtract(x, ops.stop_gradient(ops.round(x)))


@rule("aten.lgamma.default", layout=ELEMENTWISE, promote=True)
def lgamma(k: Any, x: Tensor) -> Tensor:
    """Stirling's series at x + 8, and log(pi / |sin(pi x)|) - lgamma(1 - x) on the left."""
    left, y = _right_half(x)
    near = ops.less(y, 16.0)
    steps = [ops.log(ops.where(near, plus(y, float(i)), 1.0)) for i in range(SHIFT)]
    z = ops.where(near, plus(y, float(SHIFT)), y)
    inverse = ops.reciprocal(z)
    series = _horner(ops.square(inverse), [b / ((2 * i + 2) * (2 * i + 1)) for i, b in enumerate(BERNOULLI)])
    stirling = plus(
        ops.multiply(ops.subtract(z, 0.5), ops.subtract(ops.log(z), 1.0)), 0.5 * math.log(2 * math.pi) - 0.5
    )
    value = ops.subtract(plus(stirling, ops.multiply(series, inverse)), functools.reduce(plus, steps))
    sine = ops.abs(ops.sin(ops.multiply(_to_nearest_integer(x), math.pi)))
    mirrored = ops.subtract(ops.subtract(math.log(math.pi), ops.log(ops.where(left, sine, 1.0))), value)
    return ops.where(ops.isfinite(x), ops.where(left, mirrored, value), ops.abs(x))


@rule("aten.digamma.default", layout=ELEMENTWISE, promote=True)
def digamma(k: Any, x: Tensor) -> Tensor:
    """The asymptotic series at x + 8, and psi(1 - x) - pi / tan(pi x) on the left. NaN at negative integers."""
    left, y = _right_half(x)
    steps = [ops.reciprocal(plus(y, float(i))) for i in range(SHIFT)]
    z = plus(y, float(SHIFT))
    square = ops.square(ops.reciprocal(z))
    series = ops.multiply(_horner(square, [b / (2 * i + 2) for i, b in enumerate(BERNOULLI)]), square)
    value = ops.subtract(ops.log(z), plus(ops.multiply(ops.reciprocal(z), 0.5), series))
    value = ops.subtract(value, functools.reduce(plus, steps))
    tangent = ops.tan(ops.multiply(ops.where(left, _to_nearest_integer(x), 0.25), math.pi))
    mirrored = ops.subtract(value, ops.divide(math.pi, tangent))
    pole = ops.logical_and(ops.less(x, 0), ops.equal(x, ops.round(x)))
    return ops.where(pole, math.nan, ops.where(left, mirrored, value))


def _zeta(k: Any, s: Any, q: Tensor) -> Tensor:
    """Hurwitz' sum (q + i)**-s by Euler and Maclaurin, for s > 1: 24 terms, then the series at q + 24."""
    terms = 24
    rows = plus(ops.expand_dims(q, -1), k.constant(np.arange(terms), k.dtype(q)))
    power = s if not hasattr(s, "shape") else ops.expand_dims(s, -1)
    head = ops.sum(ops.power(rows, ops.negative(power) if hasattr(s, "shape") else -power), axis=-1)
    a = plus(q, float(terms))
    last = ops.power(a, ops.negative(s) if hasattr(s, "shape") else -s)
    total = plus(head, ops.multiply(last, plus(ops.divide(a, ops.subtract(s, 1.0)), 0.5)))
    rising, inverse = ops.multiply(last, s), ops.reciprocal(a)
    for i, b in enumerate(BERNOULLI):
        rising = ops.multiply(rising, inverse)
        total = plus(total, ops.multiply(rising, b / math.factorial(2 * i + 2)))
        rising = ops.multiply(ops.multiply(rising, inverse), ops.multiply(plus(s, 2.0 * i + 1), plus(s, 2.0 * i + 2)))
    return total


@rule("aten.special_zeta.default", layout=ELEMENTWISE, promote=True)
def zeta(k: Any, s: Tensor, q: Tensor) -> Tensor:
    """For s > 1 and q > -15; s = 1 is infinite, s < 1 undefined, as torch has it."""
    value = _zeta(k, ops.where(ops.greater(s, 1), s, 2.0), q)
    return ops.where(ops.greater(s, 1), value, ops.where(ops.equal(s, 1), math.inf, math.nan))


@rule("aten.polygamma.default", "aten.special_polygamma.default", layout=ELEMENTWISE, promote=True)
def polygamma(k: Any, n: int, x: Tensor) -> Tensor:
    """The n-th derivative of digamma: (-1)**(n + 1) n! zeta(n + 1, x)."""
    if n == 0:
        return digamma(k, x)
    return ops.multiply(_zeta(k, float(n + 1), x), (-1.0) ** (n + 1) * math.factorial(n))


# ------------------------------------------------------------------------------------------------------------- Bessel
def _bessel(k: Any, x: Tensor, order: int, scaled: bool) -> Tensor:
    """I0 or I1 (Abramowitz and Stegun 9.6.10 and 9.7.1): the power series up to 20, the asymptotic one beyond."""
    if k.functional:
        raise Dynamic("a long series, better kept as one layer than as a hundred")
    size = ops.abs(x)
    near = ops.less(size, 20.0)
    t = ops.square(ops.multiply(ops.where(near, size, 1.0), 0.5))
    powers = _horner(t, [1 / (math.factorial(i) * math.factorial(i + order)) for i in range(60)])
    powers = ops.multiply(powers, ops.multiply(ops.where(near, x, 1.0), 0.5)) if order else powers
    powers = ops.multiply(powers, ops.exp(ops.negative(ops.where(near, size, 1.0)))) if scaled else powers
    coefficients, c = [], 1.0
    for i in range(24):
        coefficients.append(c)
        c *= -(4 * order**2 - (2 * i + 1) ** 2) / (8 * (i + 1))
    z = ops.where(near, 20.0, size)
    tail = ops.divide(_horner(ops.reciprocal(z), coefficients), ops.sqrt(ops.multiply(z, 2 * math.pi)))
    tail = tail if scaled else ops.multiply(tail, ops.exp(z))
    return ops.where(near, powers, ops.multiply(tail, ops.sign(x)) if order else tail)


for _order in (0, 1):
    _plain = (
        "aten.i0.default" if _order == 0 else "aten.special_i1.default",
        f"aten.special_modified_bessel_i{_order}.default",
    )
    rule(*_plain, layout=ELEMENTWISE, promote=True)(lambda k, x, _n=_order: _bessel(k, x, _n, False))
    rule(f"aten.special_i{_order}e.default", layout=ELEMENTWISE, promote=True)(
        lambda k, x, _n=_order: _bessel(k, x, _n, True)
    )


@rule("aten.special_spherical_bessel_j0.default", layout=ELEMENTWISE, promote=True)
def spherical_bessel_j0(k: Any, x: Tensor) -> Tensor:
    zero = ops.equal(x, 0)
    safe = ops.where(zero, ops.ones_like(x), x)
    value = ops.where(zero, ops.ones_like(x), ops.divide(ops.sin(safe), safe))
    return ops.where(ops.equal(ops.abs(x), math.inf), ops.zeros_like(x), value)


@rule("aten.special_erfcx.default", layout=ELEMENTWISE, promote=True)
def erfcx(k: Any, x: Tensor) -> Tensor:
    """exp(x**2) erfc(x); beyond 10 by its asymptotic series."""
    near = ops.less(x, 10.0)
    y, z = ops.where(near, x, 1.0), ops.where(near, 10.0, x)
    double = [math.prod(range(1, 2 * i, 2)) for i in range(14)]
    series = _horner(ops.reciprocal(ops.multiply(ops.square(z), 2.0)), [(-1.0) ** i * d for i, d in enumerate(double)])
    tail = ops.divide(series, ops.multiply(z, math.sqrt(math.pi)))
    return ops.where(near, ops.multiply(ops.exp(ops.square(y)), ops.erfc(y)), tail)


@rule("aten.special_log_ndtr.default", layout=ELEMENTWISE, promote=True)
def log_ndtr(k: Any, x: Tensor) -> Tensor:
    """log of the normal distribution function. torch's own decomposition has a NaN gradient in the branch not taken."""
    t = ops.multiply(x, math.sqrt(0.5))
    left = ops.less(x, -1.0)
    a, b = ops.where(left, t, -1.0), ops.where(left, 0.0, t)
    low = ops.subtract(ops.log(ops.multiply(erfcx(k, ops.negative(a)), 0.5)), ops.square(a))
    return ops.where(left, low, ops.log1p(ops.multiply(ops.erfc(b), -0.5)))


# ----------------------------------------------------------------------------------------------------------- integers
@rule("aten.gcd.default", layout=ELEMENTWISE, promote=True)
def gcd(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return ops.gcd(x, y)


@rule("aten.lcm.default", layout=ELEMENTWISE, promote=True)
def lcm(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return ops.lcm(x, y)


@rule("aten.angle.default", layout=ELEMENTWISE)
def angle(k: Any, x: Tensor) -> Tensor:
    """Of a real number: pi where it is negative, NaN for NaN."""
    if is_complex(x):
        return ops.arctan2(ops.imag(x), ops.real(x))
    return ops.where(ops.isnan(x), math.nan, ops.where(ops.less(x, 0), ops.full_like(x, math.pi), ops.zeros_like(x)))
