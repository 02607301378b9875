"""Factorisations of small matrices (..., n, n), written out row by row: ONNX has no op for them."""

from __future__ import annotations

import numpy as np

from .call import Call, Value, handler

LARGEST = 64  # n; each row takes some ten nodes


@handler("Cholesky")
def cholesky(call: Call, a: Value) -> Value:
    """The lower factor, from the lower triangle; NaN where the matrix is not positive definite."""
    n, columns = _order(call, a), []
    order = [*range(a.rank - 2), a.rank - 1, a.rank - 2]
    for j in range(n):
        column = a.slice(j, j + 1, -1)
        column = (_rows(call, n) >= j).where(column / call.op("Sqrt", column.slice(j, j + 1, -2)), 0.0)
        columns.append(column)
        a = a - call.op("MatMul", column, call.op("Transpose", column, perm=order))
    return call.op("Concat", *columns, axis=-1)


@handler("MatrixSolve")
def solve(call: Call, a: Value, b: Value) -> Value:
    return _eliminated(call, _transposed(a) if call.attr("adjoint", False) else a, b)


@handler("MatrixTriangularSolve")
def triangular_solve(call: Call, a: Value, b: Value) -> Value:
    a = call.op("Trilu", a, upper=int(not call.attr("lower", True)))
    return _eliminated(call, _transposed(a) if call.attr("adjoint", False) else a, b)


@handler("MatrixInverse")
def inverse(call: Call, a: Value) -> Value:
    one = call.const(np.eye(_order(call, a)), a.dtype)
    return _eliminated(call, _transposed(a) if call.attr("adjoint", False) else a, one)


def _eliminated(call: Call, a: Value, b: Value) -> Value:
    """a^-1 b by Gauss and Jordan, the largest value of a column taken for its pivot; infinite where a is singular."""
    n = _order(call, a)
    row = _rows(call, n)
    for j in range(n):
        here, column = row.equal(j), a.slice(j, j + 1, -1)
        size = (row >= j).where(call.op("Abs", column), -1.0)
        chosen = row.equal(call.op("ArgMax", size, axis=-2, keepdims=1))
        pivot = _picked(chosen, a).slice(j, j + 1, -1)
        factor = (~here).where(chosen.where(_picked(here, column), column), 0.0)
        a, b = (_step(here, chosen, pivot, factor, m) for m in (a, b))
    return b


def _step(here: Value, chosen: Value, pivot: Value, factor: Value, m: Value) -> Value:
    """Rows swapped, the pivot's scaled, and taken off the others."""
    first = _picked(chosen, m) / pivot
    swapped = chosen.where(_picked(here, m), m)
    return here.where(first, swapped - factor * first)


def _picked(row: Value, m: Value) -> Value:
    return row.where(m, 0.0).reduce("Sum", -2, keepdims=True)


def _rows(call: Call, n: int) -> Value:
    """The number of each row, (n, 1)."""
    return call.const(np.arange(n)[:, None], "int64")


def _transposed(m: Value) -> Value:
    rank = m.rank
    return m.transpose(*range(rank - 2), rank - 1, rank - 2)


def _order(call: Call, a: Value) -> int:
    n = a.dims[-1]
    if n is None or n > LARGEST:
        raise ValueError(f"{call.node.type} of matrices of {n or 'unknown'} rows: more than {LARGEST}")
    return n
