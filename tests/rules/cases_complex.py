"""Rows: complex arithmetic and Fourier transforms. Inputs and outputs are real, so that gradients can be compared."""

from __future__ import annotations

from typing import Any

import torch

from .cases_shape import free
from .harness import Case, rand
from .values import full, op

REAL, PAIRS = rand(2, 5, 4), rand(3, 4, 2)
MORE = rand(3, 4, 2, seed=1)


def parts(x: Any) -> Any:
    """What may be complex, as real numbers."""
    if isinstance(x, (list, tuple)):
        return [parts(y) for y in x]
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def row(key: str, *args: Any, pairs: int | None = None, wrt: int | None = None, tag: str = "", **options: Any) -> Case:
    """A call of the overload; the first `pairs` tensors (all of them by default) are read as (real, imaginary) pairs.
    `wrt`: how many of them torch can differentiate, where not all."""
    named = options.pop("named", {})
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    pairs = len(tensors) if pairs is None else pairs

    def function(*xs: torch.Tensor) -> Any:
        given = [x if wrt is None or i < wrt else x.detach() for i, x in enumerate(xs)]
        rest = iter(torch.view_as_complex(x) if i < pairs else x for i, x in enumerate(given))
        return parts(op(key)(*(next(rest) if isinstance(a, torch.Tensor) else a for a in args), **named))

    name = "complex_" + key.replace(".default", "").replace(".", "_") + (f"_{tag}" if tag else "")
    return Case(name, (full(key),), function, lambda: tensors, **options)


def mixed(name: str, keys: str, function: Any, *inputs: torch.Tensor, **options: Any) -> Case:
    """A row of a function of complex numbers."""
    return Case(
        f"complex_{name}",
        tuple(full(k if "." in k else f"{k}.default") for k in keys.split()),
        lambda *xs: parts(function(*(torch.view_as_complex(x) for x in xs))),
        lambda: list(inputs),
        **options,
    )


MAT = rand(2, 3, 3, 2), rand(2, 3, 3, 2, seed=1)

NUMBERS = [
    row("complex.default", REAL, rand(5, 4, seed=1), pairs=0),
    row("imag.default", PAIRS),
    row("conj.default", PAIRS),
    row("_conj.default", PAIRS),
    row("_conj_copy.default", PAIRS, wrt=0),
    row("conj_physical.default", PAIRS),
    row("_conj_physical.default", PAIRS),
    Case(
        "complex_view_as_real_copy",
        ("aten.view_as_real_copy.default",),
        lambda x: torch.ops.aten.view_as_real_copy(torch.view_as_complex(x) * 2),
        lambda: [PAIRS],
    ),
    Case(
        "complex_view_as_complex_copy",
        ("aten.view_as_complex_copy.default",),
        lambda x: torch.ops.aten.view_as_complex_copy(x.detach()).abs(),
        lambda: [PAIRS],
    ),
    *[row(f"{n}.Tensor", PAIRS, MORE) for n in ("add", "sub", "rsub", "mul", "div")],
    *[row(f"{n}.Tensor", PAIRS, rand(4), pairs=1, tag="real") for n in ("add", "sub", "rsub", "mul", "div")],
    *[row(f"{n}.Tensor", PAIRS, 0.3 - 2.0j, tag="number") for n in ("add", "mul", "div")],
    *[row(f"{n}.Tensor", REAL, 0.3 - 2.0j, pairs=0, tag="number_real") for n in ("add", "mul", "div")],
    row("addcmul.default", PAIRS, MORE, rand(4, 2, seed=2), named={"value": 0.5}),
    *[row(f"{n}.default", PAIRS) for n in ("neg", "abs", "angle", "sgn", "square", "reciprocal")],
    *[
        row(f"{n}.default", PAIRS)
        for n in (
            "exp",
            "log",
            "log10",
            "sqrt",
            "rsqrt",
            "sin",
            "cos",
            "tan",
            "sinh",
            "cosh",
            "tanh",
            "sigmoid",
            "log1p",
            "expm1",
        )
    ],
    *[row("pow.Tensor_Scalar", PAIRS, p, tag=str(p)) for p in (0, 1, 2, 3, -1, 0.5, 1 - 0.5j)],
    row("pow.Tensor_Tensor", PAIRS, MORE),
    row("pow.Scalar", 2.0, PAIRS),
    row("sum.dim_IntList", PAIRS, [1]),
    row("mean.dim", PAIRS, [0], True),
    row("mean.default", PAIRS),
    row("cumsum.default", PAIRS, 1),
    mixed("where", "where.self", lambda x, y: torch.where(x.real > 0, x, y), PAIRS, MORE),
    mixed("masked_fill", "masked_fill.Scalar", lambda x: x.masked_fill(x.real > 0, 0.5), PAIRS),
    mixed("eq", "eq.Tensor", lambda x, y: x == torch.where(x.imag > 0, x, y), PAIRS, MORE),
    mixed(
        "moved",
        "cat flip roll transpose.int slice.Tensor",
        lambda x, y: torch.cat([x.flip(0), y.roll(1, 1)]).transpose(0, 1)[1:],
        PAIRS,
        MORE,
    ),
    mixed("matmul", "matmul", torch.matmul, *MAT),
    mixed("bmm", "bmm", torch.bmm, *MAT),
    mixed("einsum", "einsum", lambda x, y: torch.einsum("bij,bkj->bik", x, y.conj()), *MAT),
    mixed("outer", "outer", lambda x, y: torch.outer(x[0], y[1]), PAIRS, MORE),
    mixed("linear", "linear", lambda x, y: torch.nn.functional.linear(x, y[0]), *MAT),
    mixed("vdot", "vdot", lambda x, y: torch.vdot(x[0], y[1]), PAIRS, MORE),
    mixed("free", "mul.Tensor", lambda x, y: (x * y + x.conj()).sum(1), PAIRS, MORE, dynamic=free((0, 1), (0, 1))),
]

FOURIER = [
    *[
        row(f"fft_{n}.default", REAL, None, [0, 2], norm, pairs=0, tag=str(norm))
        for n in ("fft2", "fftn", "rfftn")
        for norm in (None, "ortho", "forward")
    ],
    *[
        row(f"fft_{n}.default", PAIRS, None, [0, 1], norm, tag=str(norm))
        for n in ("ifft2", "ifftn", "irfftn")
        for norm in (None, "ortho", "forward")
    ],
    row("fft_fftn.default", REAL, [3, 6], pairs=0, tag="sizes"),
    row("fft_irfftn.default", PAIRS, [4, 5], tag="sizes"),
    *[row("_fft_c2c.default", PAIRS, [0, 1], n, f, tag=f"{n}_{f}") for n in (0, 1, 2) for f in (True, False)],
    *[row("_fft_r2c.default", REAL, [0, 2], 1, o, pairs=0, tag=str(o)) for o in (True, False)],
    *[row("_fft_c2r.default", PAIRS, [0, 1], 2, n, tag=str(n)) for n in (6, 7)],
    *[row("prims.fft_c2c.default", PAIRS, wrt=0, named={"dim": [1], "forward": f}, tag=str(f)) for f in (True, False)],
    *[
        row("prims.fft_r2c.default", REAL, pairs=0, wrt=0, named={"dim": [2], "onesided": o}, tag=str(o))
        for o in (True, False)
    ],
    row("prims.conj_physical.default", PAIRS, wrt=0),
    mixed("hfft2", "prims.conj_physical.default", torch.fft.hfft2, PAIRS),
    mixed("ihfftn", "prims.conj_physical.default", lambda x: torch.fft.ihfftn(x.abs()), PAIRS),
    row("prims.fft_c2r.default", PAIRS, wrt=0, named={"dim": [1], "last_dim_size": 6}),
]

CASES = [*NUMBERS, *FOURIER]
