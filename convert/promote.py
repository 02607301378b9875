"""torch's type promotion on dtype names, as `torch.result_type` defines it. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable

from .ir import TensorType

_CATEGORY = {"bool": 0, "uint8": 1, "int8": 1, "int16": 1, "int32": 1, "int64": 1}
_INTS = ["int8", "int16", "int32", "int64"]
_FLOATS = ["float16", "bfloat16", "float32", "float64"]
_COMPLEX = ["complex64", "complex128"]


def category(dtype: str) -> int:
    """0 bool, 1 integer, 2 floating, 3 complex."""
    return _CATEGORY.get(dtype, 3 if dtype.startswith("complex") else 2)


def promote(a: str, b: str) -> str:
    """The dtype two tensors of equal standing meet in."""
    if a == b:
        return a
    if category(a) != category(b):
        high, low = (a, b) if category(a) > category(b) else (b, a)
        if category(high) == 3 and low == "float64":
            return "complex128"
        return high
    if "uint8" in (a, b):
        other = b if a == "uint8" else a
        return "int16" if other == "int8" else other
    for order in (_INTS, _COMPLEX):
        if a in order and b in order:
            return max(a, b, key=order.index)
    if {a, b} == {"float16", "bfloat16"}:
        return "float32"
    return max(a, b, key=_FLOATS.index)


def common_dtype(types: Iterable[TensorType], numbers: Iterable[object] = (), default: str = "float32") -> str:
    """`torch.result_type`: tensors with axes rule, then 0-d tensors, then Python numbers; a lower class only lifts the
    category."""
    tiers: list[str | None] = [None, None, None]

    def join(tier: int, dtype: str) -> None:
        old = tiers[tier]
        tiers[tier] = dtype if old is None else promote(old, dtype)

    for t in types:
        join(0 if t.rank else 1, t.dtype)
    for n in numbers:
        join(
            2,
            "bool"
            if isinstance(n, bool)
            else "int64"
            if isinstance(n, int)
            else "complex64"
            if isinstance(n, complex)
            else default,
        )
    result: str | None = None
    for tier in tiers:
        if tier is not None and (result is None or category(tier) > category(result)):
            result = tier if result is None or category(tier) != 3 or result != "float64" else "complex128"
    return result or default
