"""Rules: comparisons, logic, and tests for NaN and infinity. Results are bool and carry no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from .operands import is_float, number, plus
from .registry import ELEMENTWISE, rule

Tensor = Any

_COMPARE: dict[str, tuple[str, Callable[..., Any]]] = {
    "eq": ("", ops.equal),
    "ne": ("not_equal", ops.not_equal),
    "lt": ("less", ops.less),
    "le": ("less_equal", ops.less_equal),
    "gt": ("greater", ops.greater),
    "ge": ("greater_equal", ops.greater_equal),
}


def _comparison(compare: Callable[..., Any], ordered: bool) -> Callable[..., Any]:
    def lower(k: Any, x: Tensor, y: Any) -> Tensor:
        if ordered and k.dtype(x) == "bool":  # no backend orders booleans
            x, y = ops.cast(x, "int32"), y if isinstance(y, (int, float)) else ops.cast(y, "int32")
        return compare(x, number(y))

    return lower


for _name, (_long, _compare) in _COMPARE.items():
    _keys = [f"aten.{n}.{o}" for n in (_name, _long) if n for o in ("Tensor", "Scalar")]
    rule(*_keys, layout=ELEMENTWISE, promote=True)(_comparison(_compare, _name not in ("eq", "ne")))


def _truth(k: Any, x: Tensor) -> Tensor:
    return x if k.dtype(x) == "bool" else ops.not_equal(x, 0)


for _name, _logic in {"and": ops.logical_and, "or": ops.logical_or, "xor": ops.logical_xor}.items():
    rule(f"aten.logical_{_name}.default", layout=ELEMENTWISE)(lambda k, x, y, _f=_logic: _f(_truth(k, x), _truth(k, y)))


@rule("aten.logical_not.default", layout=ELEMENTWISE)
def logical_not(k: Any, x: Tensor) -> Tensor:
    return ops.logical_not(_truth(k, x))


# An integer is never NaN or infinite.
_FLOAT_TESTS: dict[str, Callable[..., Any]] = {
    "isnan": ops.isnan,
    "isinf": lambda x: ops.equal(ops.abs(x), float("inf")),
    "isposinf": lambda x: ops.equal(x, float("inf")),
    "isneginf": lambda x: ops.equal(x, float("-inf")),
    "isfinite": ops.isfinite,
}
for _name, _test in _FLOAT_TESTS.items():
    rule(f"aten.{_name}.default", layout=ELEMENTWISE)(
        lambda k, x, _f=_test, _n=_name: _f(x) if is_float(k, x) else ops.full_like(x, _n == "isfinite", dtype="bool")
    )


@rule("aten.isclose.default", layout=ELEMENTWISE, promote=True)
def isclose(k: Any, x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """|x - y| <= atol + rtol |y|; equal infinities are close."""
    if not is_float(k, x):
        x, y = ops.cast(x, "float64"), ops.cast(y, "float64")
    near = ops.less_equal(ops.abs(ops.subtract(x, y)), plus(ops.multiply(ops.abs(y), rtol), atol))
    close = ops.logical_or(ops.equal(x, y), ops.logical_and(near, ops.isfinite(y)))
    return ops.logical_or(close, ops.logical_and(ops.isnan(x), ops.isnan(y))) if equal_nan else close
