"""Rules: arithmetic, casts, selection, bits. Functions of one real variable are in `elementwise_math.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from .operands import alike, by_parts, is_complex, is_float, is_tensor, minus, number, over, plus, times
from .registry import ELEMENTWISE, rule

Tensor = Any


# ------------------------------------------------------------------------------------------------------ same values
@rule(
    *(f"aten.{name}" for name in ("to.dtype", "to.device", "to.other", "to.dtype_layout")),
    *(
        f"aten.{name}.default"
        for name in ("_to_copy", "type_as", "clone", "contiguous", "alias", "alias_copy", "lift_fresh_copy")
    ),
    *(f"aten.{name}.default" for name in ("positive", "resolve_conj", "resolve_neg")),
    layout=ELEMENTWISE,
)
def same(k: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x  # the driver casts every result to the dtype torch has


@rule("aten.detach.default", "aten.detach_copy.default", layout=ELEMENTWISE)
def detach(k: Any, x: Tensor) -> Tensor:
    return ops.stop_gradient(x)


# ------------------------------------------------------------------------------------------------------- arithmetic
@rule("aten.add.Tensor", "aten.add.Scalar", layout=ELEMENTWISE, promote=True)
def add(k: Any, x: Tensor, y: Any, alpha: Any = 1) -> Tensor:
    if k.dtype(x) == "bool":
        return ops.logical_or(x, number(y))
    return plus(x, times(number(y), alpha))


@rule(*(f"aten.{n}.{o}" for n in ("sub", "subtract") for o in ("Tensor", "Scalar")), layout=ELEMENTWISE, promote=True)
def sub(k: Any, x: Tensor, y: Any, alpha: Any = 1) -> Tensor:
    return minus(x, times(number(y), alpha))


@rule("aten.rsub.Tensor", "aten.rsub.Scalar", layout=ELEMENTWISE, promote=True)
def rsub(k: Any, x: Tensor, y: Any, alpha: Any = 1) -> Tensor:
    return minus(number(y), times(x, alpha))


@rule(*(f"aten.{n}.{o}" for n in ("mul", "multiply") for o in ("Tensor", "Scalar")), layout=ELEMENTWISE, promote=True)
def mul(k: Any, x: Tensor, y: Any) -> Tensor:
    return ops.logical_and(x, number(y)) if k.dtype(x) == "bool" else times(x, number(y))


@rule(
    *(f"aten.{n}.{o}" for n in ("div", "divide", "true_divide") for o in ("Tensor", "Scalar")),
    layout=ELEMENTWISE,
    promote=True,
)
def div(k: Any, x: Tensor, y: Any) -> Tensor:
    return over(x, number(y))


@rule(
    *(f"aten.{n}.{o}_mode" for n in ("div", "divide") for o in ("Tensor", "Scalar")), layout=ELEMENTWISE, promote=True
)
def div_mode(k: Any, x: Tensor, y: Any, rounding_mode: str | None) -> Tensor:
    if rounding_mode is None:
        return ops.divide(x, number(y))
    return floor_divide(k, x, number(y)) if rounding_mode == "floor" else _trunc_divide(k, x, number(y))


@rule("aten.floor_divide.default", "aten.floor_divide.Scalar", layout=ELEMENTWISE, promote=True)
def floor_divide(k: Any, x: Tensor, y: Any) -> Tensor:
    """As Python's `//`: from the remainder, so that 1.0 // 0.1 is 9. No gradient."""
    if not is_float(k, x):
        return ops.floor_divide(x, number(y))
    x, y = (ops.stop_gradient(v) for v in alike(x, y))
    quotient = ops.round(ops.divide(ops.subtract(x, ops.mod(x, y)), y))
    return ops.where(ops.equal(y, 0), ops.divide(x, y), quotient)


def _trunc_divide(k: Any, x: Tensor, y: Any) -> Tensor:
    if is_float(k, x):
        return ops.trunc(ops.stop_gradient(ops.divide(x, y)))
    quotient = ops.floor_divide(ops.abs(x), ops.abs(y))
    return ops.where(ops.not_equal(ops.less(x, 0), ops.less(y, 0)), ops.negative(quotient), quotient)


@rule(
    "aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor", layout=ELEMENTWISE, promote=True
)
def remainder(k: Any, x: Any, y: Any) -> Tensor:
    return ops.mod(*alike(x, y))


@rule("aten.fmod.Tensor", "aten.fmod.Scalar", layout=ELEMENTWISE, promote=True)
def fmod(k: Any, x: Tensor, y: Any) -> Tensor:
    """The sign of x. The value is exact, the gradient that of x - y * trunc(x / y)."""
    x, y = alike(x, y)
    size = ops.mod(ops.abs(x), ops.abs(y))
    value = ops.where(ops.less(x, 0), ops.negative(size), size)
    if not is_float(k, x):
        return value
    times_ = ops.stop_gradient(ops.trunc(ops.divide(x, y)))
    smooth = ops.subtract(x, ops.multiply(times_, y))
    smooth = ops.where(ops.isfinite(smooth), smooth, x)
    return plus(ops.stop_gradient(ops.subtract(value, smooth)), smooth)


@rule("aten.addcmul.default", layout=ELEMENTWISE, promote=True)
def addcmul(k: Any, x: Tensor, a: Tensor, b: Tensor, value: Any = 1) -> Tensor:
    return plus(x, times(times(a, b), value))


@rule("aten.addcdiv.default", layout=ELEMENTWISE, promote=True)
def addcdiv(k: Any, x: Tensor, a: Tensor, b: Tensor, value: Any = 1) -> Tensor:
    return plus(x, times(over(a, b), value))


@rule("aten.lerp.Scalar", "aten.lerp.Tensor", layout=ELEMENTWISE, promote=True)
def lerp(k: Any, start: Tensor, end: Tensor, weight: Any) -> Tensor:
    return plus(start, times(minus(end, start), weight))


@rule("aten.neg.default", "aten.negative.default", layout=ELEMENTWISE)
def neg(k: Any, x: Tensor) -> Tensor:
    return ops.negative(x)


@rule("aten.abs.default", "aten.absolute.default", layout=ELEMENTWISE)
def abs_(k: Any, x: Tensor) -> Tensor:
    return ops.abs(x)


@rule("aten.sign.default", "aten.sgn.default", layout=ELEMENTWISE)
def sign(k: Any, x: Tensor) -> Tensor:
    """NaN gives zero, as in torch. A complex number's sign is the number of size one in its direction."""
    if k.dtype(x) == "bool":
        return x
    if is_complex(x):
        size = ops.abs(x)
        return x / k.cast(ops.where(ops.equal(size, 0), ops.ones_like(size), size), k.out.dtype)
    return ops.subtract(k.cast(ops.greater(x, 0), k.dtype(x)), k.cast(ops.less(x, 0), k.dtype(x)))


# -------------------------------------------------------------------------------------------------------- selection
@rule("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar", layout=ELEMENTWISE)
def where(k: Any, condition: Tensor, x: Any, y: Any) -> Tensor:
    if k.out.dtype.startswith("complex"):
        x, y = (k.cast(v if is_tensor(v) else ops.convert_to_tensor(v), k.out.dtype) for v in (x, y))
        return by_parts(lambda a, b: ops.where(k.cast(condition, "bool"), a, b), x, y)
    x, y = (k.cast(v, k.out.dtype) if is_tensor(v) else number(v) for v in (x, y))
    if not is_tensor(x) and not is_tensor(y):  # two numbers: Keras would choose the dtype
        ones = k.cast(ops.ones_like(condition), k.out.dtype)
        x = (
            ops.multiply(ones, k.cast(ops.full_like(ones, x), k.out.dtype))
            if k.out.dtype != "bool"
            else k.cast(ops.full_like(condition, x), "bool")
        )
    return ops.where(k.cast(condition, "bool"), x, y)


@rule("aten.masked_fill.Scalar", "aten.masked_fill.Tensor", layout=ELEMENTWISE)
def masked_fill(k: Any, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    if is_complex(x):
        return where(k, mask, value, x)
    return ops.where(mask, k.cast(value, k.dtype(x)) if is_tensor(value) else _as(k, value, x), x)


def _as(k: Any, value: Any, x: Tensor) -> Any:
    """A fill value as the dtype's kind: torch casts 1.7 to 1 for an integer tensor."""
    return number(value) if is_float(k, x) else bool(value) if k.dtype(x) == "bool" else int(number(value))


@rule("aten.fill.Scalar", "aten.fill.Tensor", layout=ELEMENTWISE)
def fill(k: Any, x: Tensor, value: Any) -> Tensor:
    if is_tensor(value):
        return ops.where(k.cast(ops.ones_like(x), "bool"), k.cast(value, k.dtype(x)), x)
    return ops.full_like(x, _as(k, value, x))


@rule(*(f"aten.{n}.{o}" for n in ("clamp", "clip") for o in ("default", "Tensor")), layout=ELEMENTWISE, promote=True)
def clamp(k: Any, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """The gradient passes at the bounds; NaN passes."""
    if low is not None:
        x = ops.where(ops.less(x, number(low)), low, x)
    if high is not None:
        x = ops.where(ops.greater(x, number(high)), high, x)
    return x


@rule("aten.clamp_min.default", "aten.clamp_min.Tensor", layout=ELEMENTWISE, promote=True)
def clamp_min(k: Any, x: Tensor, low: Any) -> Tensor:
    return clamp(k, x, low)


@rule("aten.clamp_max.default", "aten.clamp_max.Tensor", layout=ELEMENTWISE, promote=True)
def clamp_max(k: Any, x: Tensor, high: Any) -> Tensor:
    return clamp(k, x, None, high)


def _extremum(k: Any, x: Tensor, y: Tensor, choose: Callable[..., Any]) -> Tensor:
    """Equal operands share the gradient."""
    if not is_float(k, x):
        return choose(ops.cast(x, "int32"), ops.cast(y, "int32")) if k.dtype(x) == "bool" else choose(x, y)
    middle = plus(ops.multiply(x, 0.5), ops.multiply(y, 0.5))
    return ops.where(ops.equal(x, y), middle, choose(x, y))


@rule("aten.maximum.default", "aten.max.other", layout=ELEMENTWISE, promote=True)
def maximum(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return _extremum(k, x, y, ops.maximum)


@rule("aten.minimum.default", "aten.min.other", layout=ELEMENTWISE, promote=True)
def minimum(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return _extremum(k, x, y, ops.minimum)


@rule("aten.fmax.default", layout=ELEMENTWISE, promote=True)
def fmax(k: Any, x: Tensor, y: Tensor) -> Tensor:
    """NaN loses; the first of equals takes the gradient."""
    return ops.where(ops.logical_or(ops.greater_equal(x, y), ops.isnan(y)), x, y)


@rule("aten.fmin.default", layout=ELEMENTWISE, promote=True)
def fmin(k: Any, x: Tensor, y: Tensor) -> Tensor:
    return ops.where(ops.logical_or(ops.less_equal(x, y), ops.isnan(y)), x, y)


@rule("aten.heaviside.default", layout=ELEMENTWISE, promote=True)
def heaviside(k: Any, x: Tensor, values: Tensor) -> Tensor:
    step = k.cast(ops.greater(x, 0), k.dtype(x))
    return ops.stop_gradient(ops.where(ops.equal(x, 0), values, step))


@rule("aten.copysign.Tensor", "aten.copysign.Scalar", layout=ELEMENTWISE, promote=True)
def copysign(k: Any, x: Tensor, y: Any) -> Tensor:
    y = y if is_tensor(y) else ops.full_like(x, y)
    return ops.where(ops.signbit(y), ops.negative(ops.abs(x)), ops.abs(x))


@rule("aten.signbit.default", layout=ELEMENTWISE)
def signbit(k: Any, x: Tensor) -> Tensor:
    return ops.signbit(x) if is_float(k, x) else ops.less(k.cast(x, "int32") if k.dtype(x) == "bool" else x, 0)


@rule("aten.nan_to_num.default", layout=ELEMENTWISE)
def nan_to_num(
    k: Any, x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    if not is_float(k, x):
        return x
    y = ops.where(ops.isnan(x), 0.0 if nan is None else nan, x)
    greatest = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}.get(
        k.dtype(x), 1.7976931348623157e308
    )
    y = ops.where(ops.equal(x, float("inf")), greatest if posinf is None else posinf, y)
    return ops.where(ops.equal(x, float("-inf")), -greatest if neginf is None else neginf, y)


# ------------------------------------------------------------------------------------------------------------- bits
def _bits(on_ints: Callable[..., Any], on_bools: Callable[..., Any]) -> Callable[..., Any]:
    def bitwise(k: Any, x: Any, y: Any) -> Tensor:
        dtype = k.dtype(x if is_tensor(x) else y)
        return (on_bools if dtype == "bool" else on_ints)(*alike(x, y))

    return bitwise


_AND, _OR, _XOR = (
    (ops.bitwise_and, ops.logical_and),
    (ops.bitwise_or, ops.logical_or),
    (ops.bitwise_xor, ops.logical_xor),
)
for _name, _pair in {"and": _AND, "or": _OR, "xor": _XOR}.items():
    _keys = [f"aten.bitwise_{_name}.{o}" for o in ("Tensor", "Scalar", "Scalar_Tensor")] + [
        f"aten.__{_name}__.{o}" for o in ("Tensor", "Scalar")
    ]
    rule(*_keys, layout=ELEMENTWISE, promote=True)(_bits(*_pair))


@rule("aten.bitwise_not.default", layout=ELEMENTWISE)
def bitwise_not(k: Any, x: Tensor) -> Tensor:
    return ops.logical_not(x) if k.dtype(x) == "bool" else ops.bitwise_not(x)


for _name, _shift in {"left": ops.left_shift, "right": ops.right_shift}.items():
    _keys = [f"aten.bitwise_{_name}_shift.{o}" for o in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")]
    _keys += [f"aten.__{_name[0]}shift__.{o}" for o in ("Tensor", "Scalar")]
    rule(*_keys, layout=ELEMENTWISE, promote=True)(lambda k, x, y, _f=_shift: _f(*alike(x, y)))
