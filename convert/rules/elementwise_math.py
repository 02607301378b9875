"""Rules: functions of one or two real variables. Every constant is a Python float, so float64 stays float64."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

from keras import ops

from .operands import alike, is_complex, is_float, is_tensor, joined, number, plus, times
from .registry import ELEMENTWISE, rule

Tensor = Any

# What keras.ops has with torch's values and derivatives.
_UNARY: dict[str, Callable[..., Any]] = {
    "exp": ops.exp,
    "expm1": ops.expm1,
    "log": ops.log,
    "log1p": ops.log1p,
    "sqrt": ops.sqrt,
    "rsqrt": ops.rsqrt,
    "reciprocal": ops.reciprocal,
    "sin": ops.sin,
    "cos": ops.cos,
    "tan": ops.tan,
    "asin": ops.arcsin,
    "acos": ops.arccos,
    "atan": ops.arctan,
    "sinh": ops.sinh,
    "cosh": ops.cosh,
    "tanh": ops.tanh,
    "asinh": ops.arcsinh,
    "acosh": ops.arccosh,
    "atanh": ops.arctanh,
    "erf": lambda x: ops.erf(ops.clip(x, -30.0, 30.0)),  # TensorFlow's is NaN at infinity in float64
    "erfc": ops.erfc,
    "erfinv": ops.erfinv,
    "sigmoid": ops.sigmoid,
    "log2": lambda x: ops.multiply(ops.log(x), 1 / math.log(2)),
    "log10": lambda x: ops.multiply(ops.log(x), 1 / math.log(10)),
    "exp2": lambda x: ops.exp(ops.multiply(x, math.log(2))),
    "deg2rad": lambda x: ops.multiply(x, math.pi / 180),
    "rad2deg": lambda x: ops.multiply(x, 180 / math.pi),
    "special_ndtr": lambda x: ops.multiply(ops.erfc(ops.multiply(x, -math.sqrt(0.5))), 0.5),
}


def _log(z: Tensor, factor: float = 1.0) -> Tensor:
    """factor * log(z): the factor goes to the parts, since -inf times a complex number is NaN."""
    return joined(times(ops.log(ops.abs(z)), factor), times(ops.arctan2(ops.imag(z), ops.real(z)), factor))


def _sin(z: Tensor) -> Tensor:
    x, y = ops.real(z), ops.imag(z)
    return joined(ops.multiply(ops.sin(x), ops.cosh(y)), ops.multiply(ops.cos(x), ops.sinh(y)))


def _cos(z: Tensor) -> Tensor:
    x, y = ops.real(z), ops.imag(z)
    return joined(ops.multiply(ops.cos(x), ops.cosh(y)), ops.negative(ops.multiply(ops.sin(x), ops.sinh(y))))


# Where keras.ops compute complex128 in complex64. The principal branches are torch's.
_COMPLEX: dict[str, Callable[..., Any]] = {
    "log": _log,
    "log2": lambda z: _log(z, 1 / math.log(2)),
    "log10": lambda z: _log(z, 1 / math.log(10)),
    "sqrt": lambda z: ops.exp(_log(z, 0.5)),
    "rsqrt": lambda z: ops.exp(_log(z, -0.5)),
    "reciprocal": lambda z: 1.0 / z,
    "sin": _sin,
    "cos": _cos,
    "tan": lambda z: _sin(z) / _cos(z),
    "sinh": lambda z: _sin(z * 1j) * -1j,
    "cosh": lambda z: _cos(z * 1j),
    "tanh": lambda z: _sin(z * 1j) * -1j / _cos(z * 1j),
    "exp": ops.exp,
    "exp2": lambda z: ops.exp(z * math.log(2)),
    "expm1": lambda z: ops.exp(z) - 1.0,
    "log1p": lambda z: _log(z + 1.0),
    "sigmoid": lambda z: 1.0 / (ops.exp(-z) + 1.0),
}


def _unary(name: str, of_real: Callable[..., Any]) -> Callable[..., Any]:
    def lower(k: Any, x: Tensor) -> Tensor:
        if not is_complex(x):
            return of_real(x)
        if name not in _COMPLEX:
            raise NotImplementedError(f"{name} of complex numbers")
        return _COMPLEX[name](x)

    return lower


for _name, _function in _UNARY.items():
    rule(f"aten.{_name}.default", layout=ELEMENTWISE, promote=True)(_unary(_name, _function))


@rule("aten.square.default", layout=ELEMENTWISE, promote=True)
def square(k: Any, x: Tensor) -> Tensor:
    return times(x, x) if is_complex(x) else ops.square(x)


# --------------------------------------------------------------------------------------------------------- rounding
def _rounding(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda k, x: function(x) if is_float(k, x) else x


for _name, _function in {
    "floor": ops.floor,
    "ceil": ops.ceil,
    "round": ops.round,
    "trunc": ops.trunc,
    "fix": ops.trunc,
}.items():
    rule(f"aten.{_name}.default", layout=ELEMENTWISE)(_rounding(_function))


@rule("aten.round.decimals", layout=ELEMENTWISE)
def round_decimals(k: Any, x: Tensor, decimals: int = 0) -> Tensor:
    """Half to even of x * 10**decimals, as torch computes it: for negative decimals it divides first."""
    if not is_float(k, x):
        return x
    factor = float(10 ** abs(decimals))
    if decimals < 0:
        return ops.multiply(ops.round(ops.divide(x, factor)), factor)
    return ops.divide(ops.round(ops.multiply(x, factor)), factor)


@rule("aten.frac.default", layout=ELEMENTWISE)
def frac(k: Any, x: Tensor) -> Tensor:
    return ops.subtract(x, ops.stop_gradient(ops.trunc(x)))


# ----------------------------------------------------------------------------------------------------------- powers
def _complex_power(z: Tensor, exponent: Any) -> Tensor:
    """Small whole powers are products, so that zero stays zero."""
    if exponent in (-2, -1, 1, 2, 3, 4):
        product = z
        for _ in range(abs(int(exponent)) - 1):
            product = product * z
        return product if exponent > 0 else 1.0 / product
    return ops.exp(_log(z, exponent) if isinstance(exponent, (int, float)) else _log(z) * exponent)


@rule("aten.pow.Tensor_Scalar", "aten.float_power.Tensor_Scalar", layout=ELEMENTWISE, promote=True)
def pow_scalar(k: Any, x: Tensor, exponent: Any) -> Tensor:
    exponent = number(exponent)
    if is_complex(x) or isinstance(exponent, complex):
        return _complex_power(x, exponent)
    special: dict[Any, Any] = {
        0: ops.ones_like,
        1: lambda v: v,
        2: ops.square,
        3: lambda v: ops.multiply(ops.square(v), v),
    }
    if is_float(k, x):
        special.update(
            {0.5: ops.sqrt, -0.5: ops.rsqrt, -1: ops.reciprocal, -2: lambda v: ops.reciprocal(ops.square(v))}
        )
    if not is_tensor(exponent) and exponent in special:
        return special[exponent](x)
    return ops.power(x, exponent)


@rule("aten.pow.Scalar", "aten.float_power.Scalar", layout=ELEMENTWISE, promote=True)
def pow_of_scalar(k: Any, base: Any, exponent: Tensor) -> Tensor:
    if is_complex(exponent):
        return ops.exp(exponent * cmath.log(base))
    return ops.power(number(base), exponent)


@rule("aten.pow.Tensor_Tensor", "aten.float_power.Tensor_Tensor", layout=ELEMENTWISE, promote=True)
def pow_tensor(k: Any, x: Tensor, exponent: Tensor) -> Tensor:
    """x ** 0 has no gradient; TensorFlow's would be NaN at x = 0."""
    if is_complex(x):
        return ops.exp(_log(x) * exponent)
    if not is_float(k, x):
        return ops.power(x, exponent)
    none = ops.equal(exponent, 0)
    base = ops.where(none, ops.stop_gradient(ops.where(ops.equal(x, 0), ops.ones_like(x), x)), x)
    return ops.power(base, exponent)


@rule("aten.ldexp.Tensor", layout=ELEMENTWISE, promote=True)
def ldexp(k: Any, x: Tensor, exponent: Tensor) -> Tensor:
    return ops.multiply(x, ops.power(2.0, exponent))


# ---------------------------------------------------------------------------------------------------- two variables
@rule("aten.atan2.default", "aten.arctan2.default", layout=ELEMENTWISE, promote=True)
def atan2(k: Any, y: Tensor, x: Tensor) -> Tensor:
    """No gradient at the origin."""
    origin = ops.logical_and(ops.equal(x, 0), ops.equal(y, 0))
    side = ops.where(ops.signbit(x), ops.full_like(x, -1.0), ops.ones_like(x))
    return ops.arctan2(ops.where(origin, ops.stop_gradient(y), y), ops.where(origin, side, x))


@rule("aten.hypot.default", layout=ELEMENTWISE, promote=True)
def hypot(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return ops.sqrt(plus(ops.square(x), ops.square(y)))


def _log_sum(x: Tensor, y: Tensor, base: float) -> Tensor:
    """log(b**x + b**y) / log(b), shifted by the greater of the two where that is finite."""
    top = ops.stop_gradient(ops.maximum(x, y))
    top = ops.where(ops.isfinite(top), top, ops.zeros_like(top))
    scale = math.log(base)
    total = plus(ops.exp(ops.multiply(ops.subtract(x, top), scale)), ops.exp(ops.multiply(ops.subtract(y, top), scale)))
    return plus(top, ops.multiply(ops.log(total), 1 / scale))


@rule("aten.logaddexp.default", layout=ELEMENTWISE, promote=True)
def logaddexp(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return _log_sum(x, y, math.e)


@rule("aten.logaddexp2.default", layout=ELEMENTWISE, promote=True)
def logaddexp2(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return _log_sum(x, y, 2.0)


def _x_log(x: Any, y: Any, log: Callable[..., Any], least: float) -> Tensor:
    """x * log(y) that is zero where x is zero and y is at the log's edge or below."""
    x, y = alike(x, y)
    none = ops.logical_and(ops.equal(x, 0), ops.less_equal(y, least))
    return ops.where(none, ops.zeros_like(y), ops.multiply(x, log(ops.where(none, ops.ones_like(y), y))))


@rule("aten.xlogy.Tensor", "aten.xlogy.Scalar_Other", "aten.xlogy.Scalar_Self", layout=ELEMENTWISE, promote=True)
def xlogy(k: Any, x: Any, y: Any) -> Tensor:
    return _x_log(x, y, ops.log, 0.0)


@rule(
    "aten.special_xlog1py.default",
    "aten.special_xlog1py.other_scalar",
    "aten.special_xlog1py.self_scalar",
    layout=ELEMENTWISE,
    promote=True,
)
def xlog1py(k: Any, x: Any, y: Any) -> Tensor:
    return _x_log(x, y, ops.log1p, -1.0)


@rule("aten.sinc.default", layout=ELEMENTWISE, promote=True)
def sinc(k: Any, x: Tensor) -> Tensor:
    z = ops.multiply(x, math.pi)
    zero = ops.equal(z, 0)
    safe = ops.where(zero, ops.ones_like(z), z)
    return ops.where(zero, ops.ones_like(z), ops.divide(ops.sin(safe), safe))


@rule("aten.logit.default", layout=ELEMENTWISE, promote=True)
def logit(k: Any, x: Tensor, eps: float | None = None) -> Tensor:
    if eps is not None:
        x = ops.where(ops.less(x, eps), eps, ops.where(ops.greater(x, 1 - eps), 1 - eps, x))
    return ops.log(ops.divide(x, ops.subtract(1.0, x)))
