"""Rows: arithmetic, casts, selection, bits."""

from __future__ import annotations

import torch

from .harness import Case, rand
from .values import bools, call, each, grid, op, signed, specials, undifferentiated

X, Y = grid(3, 4), grid(3, 4, seed=1)
R, S = rand(3, 4), rand(3, 4, seed=1)
ROW, COLUMN = rand(4, seed=2), rand(3, 1, seed=3)
NONZERO = torch.where(Y == 0, torch.tensor(0.5, dtype=torch.float64), Y)
INT, J = signed(3, 4), signed(3, 4, seed=1)
POSITIVE = J.abs() + 1
B, C = bools(3, 4), bools(3, 4, seed=1)
SCALAR = torch.tensor(2.5, dtype=torch.float64)

SAME = [
    *each("clone contiguous alias alias_copy positive resolve_conj resolve_neg", X),
    call("to.dtype", X, torch.float32, grad=False),
    call("to.dtype", grid(3, 4) * 1.3, torch.int64, tag="truncates", grad=False),
    call("to.dtype", INT, torch.bool, tag="bool"),
    call("to.dtype", B, torch.float64, tag="from_bool"),
    call("to.device", X, "cpu", torch.float64),
    call("to.other", INT, X),
    call("to.dtype_layout", X, dtype=torch.float64),
    call("_to_copy.default", X, dtype=torch.float32, grad=False),
    call("type_as.default", INT, X),
    call("lift_fresh_copy.default", X),
    Case("detach", ("aten.detach.default",), lambda x: x * x.detach(), lambda: [R]),
    Case("detach_copy", ("aten.detach_copy.default",), lambda x: x * torch.detach_copy(x.detach()), lambda: [R]),
]

ARITHMETIC = [
    *each("add.Tensor sub.Tensor subtract.Tensor rsub.Tensor", R, S, alpha=2, tag="alpha"),
    *each(
        "add.Tensor sub.Tensor mul.Tensor multiply.Tensor div.Tensor divide.Tensor true_divide.Tensor",
        R,
        S,
        dynamic=True,
    ),
    *each("add.Tensor sub.Tensor mul.Tensor div.Tensor", R, ROW, tag="row"),
    *each("add.Tensor mul.Tensor", R, COLUMN, tag="column"),
    *each("add.Tensor mul.Tensor", ROW, R, tag="row_first"),
    *each("add.Tensor mul.Tensor", R, SCALAR, tag="scalar_tensor"),
    *each("add.Tensor sub.Tensor mul.Tensor div.Tensor", R, 0.1, tag="number"),
    *each("add.Scalar sub.Scalar subtract.Scalar mul.Scalar multiply.Scalar rsub.Scalar", R, 0.3),
    *each("div.Scalar divide.Scalar true_divide.Scalar", R, 0.3),
    *each("add.Tensor mul.Tensor sub.Tensor", INT, J, tag="int"),
    *each("add.Tensor mul.Tensor", INT, R, tag="mixed"),
    *each("add.Tensor mul.Tensor", B, C, tag="bool"),
    *each("div.Tensor", INT, POSITIVE, tag="int"),
    *each("add.Scalar mul.Scalar", INT, 2.5, tag="int_float"),
    call("add.Tensor", rand(2, 5, 3, 3), rand(3, 1), tag="not_a_bias"),
    call("add.Tensor", rand(2, 4, 1), rand(4), tag="not_a_bias_of_axis_1"),
    call("add.Tensor", rand(3, 4), rand(1, 1, 4), tag="higher_rank_second"),
    call("add.Tensor", rand(1, 0, 3), rand(1, 0, 3), tag="empty"),
    *[
        call(f"{n}.Tensor_mode", X * 1.5, NONZERO, rounding_mode=m, tag=str(m))
        for n in ("div", "divide")
        for m in (None, "floor", "trunc")
    ],
    *[
        call(f"{n}.Scalar_mode", X * 1.5, -0.5, rounding_mode=m, tag=str(m))
        for n in ("div", "divide")
        for m in (None, "floor", "trunc")
    ],
    *[
        call("div.Tensor_mode", INT, POSITIVE * torch.sign(Y + 0.1).long(), rounding_mode=m, tag=f"int_{m}")
        for m in ("floor", "trunc")
    ],
    call(
        "div.Tensor_mode",
        torch.tensor([1.0, 0.3, -1.0, 7.0]).double(),
        torch.tensor([0.1, 0.1, 0.1, 0.0]).double(),
        rounding_mode="floor",
        tag="inexact",
    ),
    undifferentiated("floor_divide.default", X, NONZERO),
    call("floor_divide.default", INT, POSITIVE, tag="int"),
    undifferentiated("floor_divide.Scalar", X, 0.3),
    *each("remainder.Tensor fmod.Tensor", R, S),
    *each("remainder.Tensor fmod.Tensor", X, NONZERO, tag="grid"),
    *each("remainder.Tensor fmod.Tensor", INT, POSITIVE, tag="int"),
    *each("remainder.Scalar fmod.Scalar", R, -0.7),
    undifferentiated("remainder.Scalar_Tensor", 2.0, NONZERO),
    call("addcmul.default", R, S, ROW, value=0.5),
    call("addcdiv.default", R, S, NONZERO, value=0.5),
    call("lerp.Scalar", R, S, 0.3),
    call("lerp.Tensor", R, S, rand(3, 4, seed=5)),
    *each("neg negative abs absolute sign", X),
    Case("sgn", ("aten.sgn.default",), lambda x: torch.sgn(x) + x, lambda: [X]),
    *each("neg abs sign", INT, tag="int"),
    *each("sign abs neg", specials(), tag="specials", grad=False),
    call("sign.default", B, tag="bool"),
]

SELECTION = [
    call("where.self", B, R, S, dynamic=True),
    call("where.self", B, R, INT, tag="mixed"),
    call("where.self", bools(3, 1), ROW, SCALAR, tag="broadcast"),
    call("where.ScalarOther", B, R, 0.3),
    call("where.ScalarSelf", B, 0.3, R),
    call("where.Scalar", B, 0.5, 2.0, grad=False),
    call("where.Scalar", B, 1, 2, tag="int"),
    call("where.Scalar", B, True, False, tag="bool"),
    call("masked_fill.Scalar", R, B, float("-inf"), dynamic=True),
    call("masked_fill.Scalar", INT, B, 3, tag="int"),
    call("masked_fill.Scalar", C, B, True, tag="bool"),
    call("masked_fill.Scalar", ROW, B, 0.3, tag="broadcast"),
    call("masked_fill.Tensor", R, B, SCALAR),
    *[
        Case(
            f"fill_{o}",
            (f"aten.fill.{o}",),
            lambda x, o=o: op(f"fill.{o}")(x, torch.tensor(0.3) if o == "Tensor" else 0.3) * x,
            lambda: [R],
        )
        for o in ("Scalar", "Tensor")
    ],
    *each("clamp clip", X, -0.5, 1.0, dynamic=True),
    *each("clamp clip", X, -0.5, tag="min_only"),
    *each("clamp", X, None, 0.5, tag="max_only"),
    *each("clamp", specials(), -1.0, 1.0, tag="specials", grad=False),
    *each("clamp", INT, -2, 3, tag="int"),
    *each("clamp", INT, -1.5, 3, tag="int_float"),
    *each("clamp.Tensor clip.Tensor", X, Y - 0.5, Y + 0.5),
    *each("clamp.Tensor", X, Y, ROW, tag="crossed"),
    *each("clamp.Tensor", X, None, Y, tag="max"),
    *each("clamp_min clamp_max", X, 0.5),
    *each("clamp_min.Tensor clamp_max.Tensor", X, Y),
    *each("maximum minimum max.other min.other fmax fmin", X, Y),
    *each("maximum minimum fmax fmin", specials(), specials().flip(0), tag="specials", grad=False),
    *each("maximum minimum max.other min.other", INT, J, tag="int"),
    *each("maximum", B, C, tag="bool"),
    *each("maximum minimum", R, ROW, tag="row"),
    *each("maximum minimum fmax", rand(3, 1), rand(1, 3), tag="column_row"),
    undifferentiated("heaviside.default", X, Y),
    *each("copysign.Tensor", X, torch.where(Y == 0, -0.0, Y)),
    call("copysign.Scalar", X, -1.0),
    *each("signbit", specials()),
    *each("signbit", INT, tag="int"),
    call("nan_to_num.default", specials()),
    call("nan_to_num.default", specials(), 1.0, 2.0, 3.0, tag="values"),
    call("nan_to_num.default", INT, tag="int"),
]

BITS = [
    *[
        call(f"bitwise_{n}.Tensor", *p, tag=t)
        for n in ("and", "or", "xor")
        for t, p in (("int", (INT, J)), ("bool", (B, C)))
    ],
    *[call(f"__{n}__.Tensor", B, C) for n in ("and", "or", "xor")],
    *[
        call(f"{n}.Scalar", INT, 5)
        for n in ("bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__")
    ],
    *[call(f"bitwise_{n}.Scalar_Tensor", 5, INT) for n in ("and", "or", "xor")],
    call("bitwise_not.default", INT, tag="int"),
    call("bitwise_not.default", B, tag="bool"),
    *[call(f"bitwise_{n}_shift.Tensor", INT, POSITIVE % 5) for n in ("left", "right")],
    *[call(f"bitwise_{n}_shift.Tensor_Scalar", INT, 2) for n in ("left", "right")],
    *[call(f"bitwise_{n}_shift.Scalar_Tensor", 64, POSITIVE % 5) for n in ("left", "right")],
    *[call(f"__{n}shift__.Tensor", INT, POSITIVE % 5) for n in ("l", "r")],
    *[call(f"__{n}shift__.Scalar", INT, 2) for n in ("l", "r")],
]

CASES = [*SAME, *ARITHMETIC, *SELECTION, *BITS]
