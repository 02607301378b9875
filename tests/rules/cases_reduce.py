"""Rows: sums, means, extrema, norms and cumulative ops."""

from __future__ import annotations

import math

import torch

from .harness import Case, rand
from .values import bools, call, each, grid, signed

R, X = rand(2, 3, 4), grid(2, 3, 4)
INT, B = signed(2, 3, 4), bools(2, 3, 4)
ZERO_ROW = torch.cat([torch.zeros(1, 4, dtype=torch.float64), grid(3, 4)])
NAN = torch.where(X == 0.5, math.nan, X)
NAN_ROW = torch.tensor(
    [[1.0, math.nan, 3.0, math.nan], [math.inf, 1.0, math.nan, 2.0], [-0.0, 0.0, -1.0, 0.0]]
).double()
SCALAR = torch.tensor(1.5, dtype=torch.float64)

SUMS = [
    *each("sum mean prod", X, dynamic=True),
    *each("sum.dim_IntList mean.dim", R, [1], dynamic=True),
    *each("sum.dim_IntList mean.dim", R, [-1, 0], True, tag="keep"),
    *each("sum.dim_IntList mean.dim", R, [], tag="all"),
    *each("sum.dim_IntList mean.dim", SCALAR, [0], tag="scalar"),
    *each("sum prod", INT, tag="int"),
    *each("sum", B, tag="bool"),
    *each("mean", INT, dtype=torch.float64, tag="int"),
    *each("sum.dim_IntList", INT.int(), [1], tag="int32"),
    *each("prod.dim_int", X, 1, dynamic=True),
    *each("prod.dim_int", ZERO_ROW, 1, True, tag="zeros"),
    *each("prod.dim_int", INT, 1, tag="int"),
    call("nansum.default", NAN),
    call("nansum.default", NAN, [1], True, tag="axis"),
    call("count_nonzero.default", X),
    call("count_nonzero.dim_IntList", X, [0, 2]),
    *each("any all", B),
    *each("any.dim all.dim", B, 1, dynamic=True),
    *each("any.dim all.dim", X, 1, True, tag="float"),
    *each("any.dims all.dims", B, [0, 2]),
    *each("any", B.to(torch.uint8), tag="uint8"),
    call("trace.default", rand(3, 5)),
    call("trace.default", signed(3, 3), tag="int"),
]

VARIANCE = [
    *[
        call(f"{n}.correction", R, [1], correction=c, tag=str(c))
        for n in ("var", "std", "var_mean", "std_mean")
        for c in (None, 0, 1, 2)
    ],
    *[
        call(f"{n}.correction", R, None, correction=1, keepdim=True, tag="all")
        for n in ("var", "std", "var_mean", "std_mean")
    ],
    *[call(f"{n}.default", R) for n in ("var", "std", "var_mean", "std_mean")],
    *[call(f"{n}.dim", R, [0, 2], False, True) for n in ("var", "std", "var_mean", "std_mean")],
    *[call(f"{n}.dim", R, [0], tag="free", dynamic=True) for n in ("var", "std")],
    *[call(f"{n}.dim", R, [1, 2], dynamic=True, tag="batch") for n in ("var", "std_mean")],
    call("std.dim", torch.ones(3, 4, dtype=torch.float64), [1], tag="constant"),
    call("var.dim", torch.ones(3, 1, dtype=torch.float64), [1], tag="single", grad=False),
]

EXTREMA = [
    *each("amax amin", X, [1], dynamic=True),
    *each("amax amin", X, [0, 2], True, tag="keep"),
    *each("amax amin", X, tag="all"),
    *each("max min", X),
    *each("max min", INT, tag="int"),
    *each("max min", B, tag="bool"),
    *each("max.dim min.dim", X, 1, dynamic=True),
    *each("max.dim min.dim", X, -1, True, tag="keep"),
    *each("max.dim min.dim", INT, 0, tag="int"),
    *each("max.dim min.dim", NAN_ROW, 1, tag="nan", grad=False),
    *each("max.dim min.dim", SCALAR, 0, tag="scalar"),
    *each("argmax argmin", X, dynamic=True),
    *each("argmax argmin", X, 1, tag="axis"),
    *each("argmax argmin", X, 2, True, tag="keep"),
    *each("argmax argmin", X, None, True, tag="all_keep"),
    *each("argmax argmin", NAN_ROW, 1, tag="nan"),
    *each("argmax argmin", INT, 1, tag="int"),
    call("aminmax.default", X),
    call("aminmax.default", X, dim=1, keepdim=True, tag="axis"),
    call("median.default", X),
    call("median.default", INT, tag="int"),
    call("median.dim", R, 1),
    call("median.dim", R, -1, True, tag="keep"),
    *[
        Case(
            f"{n}_channels_last",
            (f"aten.{n}.default",),
            lambda x, n=n: getattr(torch, n)(torch.nn.functional.avg_pool2d(x, 1)),
            lambda: [rand(2, 3, 4, 4)],
        )
        for n in ("argmax", "argmin")
    ],
]

NORMS = [
    call("logsumexp.default", R, [1], dynamic=True),
    call("logsumexp.default", R * 300, [0, 2], True, tag="keep"),
    call("logsumexp.default", torch.where(B, -math.inf, R), [2], tag="inf"),
    *[
        call("linalg_vector_norm.default", ZERO_ROW, p, [1], tag=f"p{p}")
        for p in (2, 1, 0, 3, 0.5, math.inf, -math.inf, -2)
    ],
    call("linalg_vector_norm.default", R, tag="all"),
    call("linalg_vector_norm.default", R, 2, [1, 2], True, tag="keep", dynamic=True),
    call("norm.Scalar", X, 2),
    call("norm.ScalarOpt_dim", ZERO_ROW, 2, [1]),
    call("norm.ScalarOpt_dim", ZERO_ROW, None, [1], True, tag="none"),
    call("norm.ScalarOpt_dtype", R, 2, dtype=torch.float64),
    call("norm.ScalarOpt_dim_dtype", R, 3, [1], False, dtype=torch.float64),
    *[call("dist.default", rand(3, 4), rand(4, seed=1), p, tag=f"p{p}") for p in (2, 1, 3)],
]

CUMULATIVE = [
    call("cumsum.default", R, 1, dynamic=True),
    call("cumsum.default", INT, -1, tag="int"),
    call("cumsum.default", B, 0, tag="bool"),
    call("cumprod.default", X, 1, dynamic=True),
    call("cumprod.default", rand(7, 5), 0, tag="odd"),
    call("cumprod.default", rand(5, 3), 0, dynamic=True, tag="free"),
    call("cumprod.default", ZERO_ROW, 0, tag="zeros"),
    call("cumprod.default", INT, 1, tag="int"),
    *each("cummax cummin", X, 1),
    *each("cummax cummin", grid(6, 5), 0, dynamic=True, tag="free"),
    *each("cummax cummin", INT, -1, tag="int"),
    *each("cummax cummin", NAN_ROW, 1, tag="nan", grad=False),
    call("logcumsumexp.default", R, 1),
    call("logcumsumexp.default", rand(5, 3), 0, dynamic=True, tag="free"),
    *each("cumsum cumprod logcumsumexp cummax", SCALAR, 0, tag="scalar"),
]

CASES: list[Case] = [*SUMS, *VARIANCE, *EXTREMA, *NORMS, *CUMULATIVE]
