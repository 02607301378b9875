"""Choices by a mask: tf2onnx multiplies by it, which makes NaN of infinities, in gradients too."""

from __future__ import annotations

from .handlers.call import Call, Value, handler

__all__ = ["band", "select"]

TRILU = ("float32", "float64", "int64", "bool")  # what ONNX Runtime's kernel takes
WHERE = ("float16", "float32", "float64", "bfloat16", "int32", "int64", "uint8", "bool", "object")


@handler("Select", "SelectV2")
def select(call: Call, condition: Value, yes: Value, no: Value) -> Value:
    """Select's condition of rank 1 chooses whole rows."""
    if call.node.type == "Select" and condition.rank == 1 and yes.rank > 1:
        condition = condition.reshape(-1, *[1] * (yes.rank - 1))
    dtype = yes.dtype
    if str(dtype) not in WHERE:
        yes, no = yes.cast("int64"), no.cast("int64")
    return condition.where(yes, no).cast(dtype)


@handler("MatrixBandPart")
def band(call: Call, x: Value, lower: Value, upper: Value) -> Value:
    """What lies at most `lower` below and `upper` above the diagonal; -1 is all."""
    if lower.array is None or upper.array is None:
        raise ValueError("the width of the band is not known while converting")
    dtype = x.dtype
    y = x if str(dtype) in TRILU else x.cast("float32" if dtype.kind == "f" else "int64")
    if upper.array >= 0:
        y = call.op("Trilu", y, call.const(int(upper.array), "int64"), upper=0)
    if lower.array >= 0:
        y = call.op("Trilu", y, call.const(-int(lower.array), "int64"), upper=1)
    return y.cast(dtype)
