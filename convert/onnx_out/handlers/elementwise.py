"""Functions of single elements that tf2onnx has no translation for, or one that loses digits."""

from __future__ import annotations

import math

import numpy as np

from .call import Call, Value, handler


@handler("Erfc")
def erfc(call: Call, x: Value) -> Value:
    """Right to an absolute ulp of 1; far out on the right, where it is below that, it is 0."""
    return 1 - call.op("Erf", x)


@handler("Expm1")
def expm1(call: Call, x: Value) -> Value:
    """exp(x) - 1 = tanh(x / 2) (exp(x) + 1), which cancels nothing near 0."""
    return call.op("Tanh", x * 0.5) * (call.op("Exp", x) + 1)


@handler("Log1p")
def log1p(call: Call, x: Value) -> Value:
    """Near 0 log(1 + x) = 2 atanh(x / (2 + x)). Neither branch is given what makes its derivative infinite or NaN."""
    near = call.op("Abs", x) < 0.5
    inside = near.where(x, 0.0)
    return near.where(2 * call.op("Atanh", inside / (inside + 2)), call.op("Log", 1 + x))


@handler("Log")
def log(call: Call, x: Value) -> Value:
    """tf2onnx computes it in float32 where x is float64."""
    return call.op("Log", x)


@handler("Xlogy", "Xlog1py", "Xdivy")
def product_or_zero(call: Call, x: Value, y: Value) -> Value:
    """0 where x is 0, whatever y is."""
    none = x.equal(0.0)
    kind = call.node.type
    if kind == "Xdivy":
        return none.where(x, x / none.where(y.same(1.0), y))
    inside = none.where(y.same(0.5), y)
    return none.where(x, x * (call.op("Log", inside) if kind == "Xlogy" else log1p(call, inside)))


@handler("Erfinv")
def erfinv(call: Call, x: Value) -> Value:
    """Winitzki's approximation (relative error 2e-3), then Newton's steps with the curvature taken in (Halley)."""
    inside = call.op("Abs", x) < 1
    p = inside.where(x, 0.5)
    a = 0.147
    tail = call.op("Log", (1 - p) * (1 + p))
    b = tail * 0.5 + 2 / (math.pi * a)
    square = call.op("Sqrt", b * b - tail / a) - b
    # at 0 the root has no derivative, and needs none: the steps take their own from p
    y = call.op("Sign", p) * call.op("Sqrt", call.op("Max", square, p.same(1e-30)))
    for _ in range(3):
        step = (call.op("Erf", y) - p) * (math.sqrt(math.pi) / 2) * call.op("Exp", y * y)
        y = y - step / (1 + y * step)
    infinite = (x > 0.0).where(p.same(np.inf), p.same(-np.inf))
    return inside.where(y, call.op("Abs", x).equal(1.0).where(infinite, np.nan))


@handler("FloorDiv")
def floor_div(call: Call, x: Value, y: Value) -> Value | None:
    if x.dtype.kind not in "iu":
        return call.op("Floor", x / y)
    wide = _wide(x, y)
    return ((wide[0] - wide[0] % wide[1]) / wide[1]).cast(x.dtype)


@handler("FloorMod")
def floor_mod(call: Call, x: Value, y: Value) -> Value:
    """The remainder with the sign of the divisor."""
    if x.dtype.kind in "iu":
        wide = _wide(x, y)
        return (wide[0] % wide[1]).cast(x.dtype)
    rest = call.op("Mod", x, y, fmod=1)
    other = (rest * y < 0.0) | ((rest < 0.0) & (y > 0.0)) | ((rest > 0.0) & (y < 0.0))  # the product may underflow
    return other.where(rest + y, rest)


def _wide(*values: Value) -> list[Value]:
    """ONNX Runtime has Div and Mod of narrow integers for few types."""
    return [v.cast("int32") if v.dtype.itemsize < 4 else v for v in values]


@handler("Bitcast")
def bitcast(call: Call, x: Value) -> Value:
    """Of a float as an integer, where all that is read of it is the sign: and-ed with the sign bit."""
    target = call.output_dtype()
    sign = np.array(np.iinfo(target).min, target) if target.kind == "i" else None
    readers = call.ctx.find_output_consumers(call.node.output[0])
    masks = [
        other.get_tensor_value() for r in readers for other in r.inputs if r.type == "BitwiseAnd" and other.is_const()
    ]
    if sign is None or x.dtype.itemsize != target.itemsize or not readers or masks != [int(sign)] * len(readers):
        raise ValueError(f"Bitcast of {x.dtype} to {target}: ONNX has no op for it below opset 26")
    negative = (x < 0.0) | (x.equal(0.0) & (1 / x < 0.0))
    return negative.where(call.const(sign, target), call.const(0, target))


@handler("Any", "All")
def any_all(call: Call, x: Value, axes: Value) -> Value:
    number = x.cast("int32")
    if axes.array is None:
        raise ValueError(f"{call.node.type} over axes that are not known while converting")
    over = [int(a) for a in axes.array.reshape(-1)]
    if not over:
        return x
    return number.reduce("Max" if call.node.type == "Any" else "Min", *over, keepdims=call.attr("keep_dims")).cast(
        "bool"
    )


@handler("Cross")
def cross(call: Call, a: Value, b: Value) -> Value:
    first, second = call.const([1, 2, 0], "int64"), call.const([2, 0, 1], "int64")

    def turned(v: Value, order: Value) -> Value:
        return call.op("Gather", v, order, axis=-1)

    return turned(a, first) * turned(b, second) - turned(a, second) * turned(b, first)
