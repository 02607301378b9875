"""Rows: functions of one or two real variables."""

from __future__ import annotations

import torch

from .harness import Case, rand
from .values import call, each, grid, signed, specials

R = rand(3, 4)
UNIT = torch.tanh(rand(3, 4))
POSITIVE = rand(3, 4).abs() + 0.1
X, Y = grid(3, 4, seed=2), grid(3, 4, seed=3)
INT = signed(3, 4)
HALVES = grid(4, 5, scale=4)

CASES: list[Case] = [
    *each("exp expm1 sin cos tan sinh cosh tanh asinh atan erf erfc sigmoid exp2 square", R),
    *each("deg2rad rad2deg special_ndtr sinc", R),
    *each("log log1p log2 log10 sqrt rsqrt reciprocal", POSITIVE),
    *each("asin acos atanh erfinv", UNIT),
    *each("acosh", POSITIVE + 1),
    *each("exp tanh sigmoid sqrt erf sinc", INT.abs(), tag="int", rtol=1e-6),
    *each("sqrt reciprocal", POSITIVE * 0, tag="zero"),
    *each("exp log tanh sigmoid reciprocal erf erfc", specials(), tag="specials", grad=False),
    *each("sinc", X, tag="grid"),
    *each("floor ceil round trunc fix frac", HALVES),
    *each("floor ceil round trunc fix", INT, tag="int"),
    call("round.decimals", R, decimals=2),
    call("round.decimals", R * 1000, decimals=-2, tag="negative"),
    *[call("pow.Tensor_Scalar", X, p, tag=str(p)) for p in (0, 1, 2, 3, 4, 2.0, 5.0)],
    *[call("pow.Tensor_Scalar", POSITIVE, p, tag=f"p{p}") for p in (0.5, -0.5, -1, -2, 1.7, -3)],
    *[call("pow.Tensor_Scalar", INT, p, tag=f"int{p}") for p in (0, 1, 2, 3, 4)],
    call("pow.Scalar", 2.5, R),
    call("pow.Tensor_Tensor", POSITIVE, R),
    call("pow.Tensor_Tensor", X.abs(), X.abs().flip(0), tag="grid"),
    call("pow.Tensor_Tensor", INT, INT.abs(), tag="int"),
    call("float_power.Tensor_Scalar", POSITIVE, 1.5),
    call("float_power.Scalar", 1.5, R),
    call("float_power.Tensor_Tensor", POSITIVE, R),
    call("ldexp.Tensor", R, X),
    *each("atan2 arctan2", R, X),
    call("atan2.default", X, Y, tag="grid"),
    call("hypot.default", R, X),
    *each("hypot logaddexp", rand(3, 1), rand(1, 3), tag="column_row"),
    *each("logaddexp logaddexp2", X, Y),
    *each("logaddexp logaddexp2", R * 300, X, tag="large"),
    *each("logaddexp", specials(), specials().flip(0), tag="specials", grad=False),
    call("xlogy.Tensor", X, POSITIVE),
    call("xlogy.Tensor", X, torch.where(X == 0, Y.abs() + 0.5, Y), tag="grid"),
    call("xlogy.Tensor", X * 0, -Y.abs(), tag="edge", grad=False),
    call("xlogy.Scalar_Self", 2.0, POSITIVE),
    call("xlogy.Scalar_Self", 0.0, Y, tag="zero", grad=False),
    call("xlogy.Scalar_Other", X, 2.0),
    call("special_xlog1py.default", X, POSITIVE),
    call("special_xlog1py.self_scalar", 2.0, POSITIVE),
    call("special_xlog1py.other_scalar", X, 2.0),
    call("logit.default", torch.sigmoid(R)),
    call("logit.default", torch.sigmoid(R), 0.3, tag="eps"),
]
