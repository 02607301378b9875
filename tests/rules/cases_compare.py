"""Rows: comparisons, logic, tests for NaN and infinity."""

from __future__ import annotations

from .harness import Case
from .values import bools, call, each, grid, signed, specials

X, Y, ROW = grid(3, 4), grid(3, 4, seed=1), grid(4, seed=2)
INT, J = signed(3, 4, high=3), signed(3, 4, seed=1, high=3)
B, C = bools(3, 4), bools(3, 4, seed=1)
NAMES = ("eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal")

CASES: list[Case] = [
    *[call(f"{n}.Tensor", X, Y, dynamic=True) for n in NAMES],
    *[call(f"{n}.Scalar", X, 0.5) for n in NAMES],
    *[call(f"{n}.Tensor", INT, X, tag="mixed") for n in NAMES[:6]],
    *[call(f"{n}.Scalar", INT, 0.5, tag="int_float") for n in NAMES[:6]],
    *[call(f"{n}.Scalar", INT, 1, tag="int") for n in NAMES[:6]],
    *[call(f"{n}.Tensor", B, C, tag="bool") for n in NAMES[:6]],
    *[call(f"{n}.Tensor", specials(), specials().flip(0), tag="specials") for n in NAMES[:6]],
    *[call(f"{n}.Tensor", X, ROW, tag="row") for n in ("eq", "lt")],
    *[
        call(f"logical_{n}.default", *p, tag=t)
        for n in ("and", "or", "xor")
        for t, p in (("bool", (B, C)), ("float", (X, INT)))
    ],
    call("logical_not.default", B, tag="bool"),
    call("logical_not.default", X, tag="float"),
    *each("isnan isinf isposinf isneginf isfinite", specials()),
    *each("isnan isinf isposinf isneginf isfinite", INT, tag="int"),
    call("isclose.default", X, Y, 0.3, 0.2),
    call("isclose.default", specials(), specials().flip(0), tag="specials"),
    call("isclose.default", specials(), specials(), 1e-5, 1e-8, True, tag="equal_nan"),
    call("isclose.default", INT, J, 0.3, 0.0, tag="int"),
]
