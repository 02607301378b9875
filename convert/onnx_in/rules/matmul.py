"""Products of matrices."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import dtype_of
from ..registry import rule
from .dtypes import in_integers, modular

_matmul = modular(torch.matmul)


@rule("MatMul")
def matmul(a: Any, b: Any) -> Any:
    return _matmul(a, b)


@rule("Gemm", since=7)
def gemm(
    a: Any, b: Any, c: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Any:
    """alpha * A B + beta * C, C broadcast. Of integers: products with alpha and beta are cut to integers."""
    result = _matmul(a.t() if transA else a, b.t() if transB else b)
    result = _scaled(result, alpha, dtype_of(a))
    if c is None or beta == 0:
        return result
    return modular(torch.add)(result, _scaled(c, beta, dtype_of(a)))


def _scaled(x: Any, factor: float, dtype: torch.dtype | None) -> Any:
    if factor == 1:
        return x
    return (x.to(torch.float64) * factor).to(dtype) if dtype is not None and not dtype.is_floating_point else x * factor


@rule("Gemm")
def gemm_1(
    a: Any,
    b: Any,
    c: Any,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,
    transB: int = 0,
) -> Any:
    return gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@rule("Einsum", since=12)
def einsum(*xs: Any, equation: str) -> Any:
    dtype = dtype_of(xs[0])
    equation = equation.replace(" ", "")
    if in_integers(xs[0]) and dtype is not None and dtype.itemsize < 8:
        return torch.einsum(equation, *(x.to(torch.int64) for x in xs)).to(dtype)
    return modular(lambda *operands: torch.einsum(equation, *operands))(*xs)
