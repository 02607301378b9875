"""Rules: solvers, factorisations and distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from ..builder import Dynamic, is_known
from .operands import plus
from .registry import rule
from .shape import filled, plain, sizes_of

DEGREE, SQUARINGS = 18, 16  # of matrix_exp: 1/19! is below float64's rounding; norms up to 2^16


def _info(k: Any, output: int = -1) -> Any:
    """The status torch returns beside a result: all fine (a failure raises, or gives NaN)."""
    return filled(k, sizes_of(k, k.node.outputs[output].type), 0, "int32")


def _transposed(x: Any) -> Any:
    return ops.swapaxes(x, -1, -2)


@rule("aten.linalg_inv.default", "aten.inverse.default")
def linalg_inv(k: Any, x: Any) -> Any:
    return ops.inv(x)


@rule("aten.linalg_inv_ex.default")
def linalg_inv_ex(k: Any, x: Any, check_errors: bool = False) -> Any:
    return ops.inv(x), _info(k)


@rule("aten.linalg_det.default", "aten.det.default")
def linalg_det(k: Any, x: Any) -> Any:
    return ops.det(x)


@rule("aten.linalg_slogdet.default", "aten.slogdet.default")
def linalg_slogdet(k: Any, x: Any) -> Any:
    if k.functional:
        raise Dynamic("Keras gives slogdet one output while it builds")
    return ops.slogdet(x)


@rule("aten.logdet.default")
def logdet(k: Any, x: Any) -> Any:
    sign, size = linalg_slogdet(k, x)
    return ops.where(sign < 0, float("nan"), size)


@rule("aten.linalg_cholesky.default")
def linalg_cholesky(k: Any, x: Any, upper: bool = False) -> Any:
    return _transposed(ops.cholesky(x)) if upper else ops.cholesky(x)


@rule("aten.cholesky.default")
def cholesky(k: Any, x: Any, upper: bool = False) -> Any:
    return linalg_cholesky(k, x, upper=upper)


@rule("aten.linalg_cholesky_ex.default")
def linalg_cholesky_ex(k: Any, x: Any, upper: bool = False, check_errors: bool = False) -> Any:
    return linalg_cholesky(k, x, upper=upper), _info(k)


def solved(k: Any, solve: Any, a: Any, b: Any, left: bool) -> Any:
    """X of A X = B, or of X A = B; a vector B is one column, and both broadcast."""
    vector = k.rank(b) == 1 or (k.rank(b) == k.rank(a) - 1 and k.type(b).shape == k.type(a).shape[:-1])
    b = ops.expand_dims(b, -1) if vector else b
    if not left:
        a, b = _transposed(a), _transposed(b)
    lead = [k.size(d) for d in k.out.shape[: k.out.rank - (1 if vector else 2)]]
    a = k.broadcast_to(a, [*lead, *k.shape(a)[-2:]])
    b = k.broadcast_to(b, [*lead, *k.shape(b)[-2:]])
    x = solve(a, b)
    x = x if left else _transposed(x)
    return ops.squeeze(x, -1) if vector else x


@rule("aten.linalg_solve.default")
def linalg_solve(k: Any, a: Any, b: Any, left: bool = True) -> Any:
    return solved(k, ops.solve, a, b, left)


@rule("aten.linalg_solve_ex.default")
def linalg_solve_ex(k: Any, a: Any, b: Any, left: bool = True, check_errors: bool = False) -> Any:
    return solved(k, ops.solve, a, b, left), _info(k)


@rule("aten.linalg_solve_triangular.default")
def linalg_solve_triangular(k: Any, a: Any, b: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    if unitriangular:
        (n,) = plain(k.shape(a)[-1])
        off = ops.triu(a, k=1) if upper else ops.tril(a, k=-1)
        a = plus(off, k.constant(np.eye(n), k.out.dtype))
    return solved(k, lambda p, q: ops.solve_triangular(p, q, lower=upper != left), a, b, left)


@rule("aten.cholesky_solve.default")
def cholesky_solve(k: Any, b: Any, factor: Any, upper: bool = False) -> Any:
    lower = _transposed(factor) if upper else factor
    lead = [k.size(d) for d in k.out.shape[:-2]]
    lower = k.broadcast_to(lower, [*lead, *k.shape(lower)[-2:]])
    half = ops.solve_triangular(lower, k.broadcast_to(b, [*lead, *k.shape(b)[-2:]]), lower=True)
    return ops.solve_triangular(_transposed(lower), half, lower=False)


@rule("aten.linalg_qr.default")
def linalg_qr(k: Any, x: Any, mode: str = "reduced") -> Any:
    """The signs are those of the diagonal that LAPACK's Householder vectors give; Eigen's are the same."""
    q, r = ops.qr(x, mode="complete" if mode == "complete" else "reduced")
    return (filled(k, sizes_of(k, k.node.outputs[0].type), 0.0, k.out.dtype), r) if mode == "r" else (q, r)


def hermitian(x: Any, UPLO: str) -> Any:
    """The symmetric matrix whose lower (or upper) triangle is that of `x`. Its gradient goes to both triangles evenly,
    as torch has it: TensorFlow's eigh sends all of it to the lower one."""
    lower = x if UPLO == "L" else _transposed(x)
    read = ops.stop_gradient(ops.subtract(ops.tril(lower), ops.negative(_transposed(ops.tril(lower, k=-1)))))
    both = ops.multiply(ops.subtract(x, ops.negative(_transposed(x))), 0.5)
    return plus(read, ops.subtract(both, ops.stop_gradient(both)))


@rule("aten.linalg_eigvalsh.default")
def linalg_eigvalsh(k: Any, x: Any, UPLO: str = "L") -> Any:
    return ops.eigh(hermitian(x, UPLO))[0]


@rule("aten.linalg_svdvals.default")
def linalg_svdvals(k: Any, x: Any, driver: Any = None) -> Any:
    return ops.svd(x, full_matrices=False)[1]


# ------------------------------------------------------------------------------------------------------------ distances
def distance(k: Any, gap: Any, p: float) -> Any:
    """The p-norm over the last axis; the gradient is 0 at distance 0, and for p = inf goes to every largest element."""
    size = ops.abs(gap)
    if p == 0:
        return ops.sum(ops.cast(ops.not_equal(gap, 0), k.out.dtype), axis=-1)
    if p == 1:
        return ops.sum(size, axis=-1)
    if p == float("inf"):
        largest = ops.stop_gradient(ops.max(size, axis=-1, keepdims=True))
        nothing = ops.where(ops.equal(size, largest), size - ops.stop_gradient(size), ops.zeros_like(size))
        return plus(ops.squeeze(largest, -1), ops.sum(nothing, axis=-1))
    apart = ops.not_equal(gap, 0)
    power = ops.where(
        apart,
        ops.square(gap) if p == 2 else ops.power(ops.where(apart, size, ops.ones_like(size)), p),
        ops.zeros_like(size),
    )
    total = ops.sum(power, axis=-1)
    far = total > 0
    safe = ops.where(far, total, ops.ones_like(total))
    return ops.where(far, ops.sqrt(safe) if p == 2 else ops.power(safe, 1.0 / p), ops.zeros_like(total))


@rule("aten.cdist.default", "aten._cdist_forward.default")
def cdist(k: Any, x: Any, y: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    return distance(k, ops.subtract(ops.expand_dims(x, -2), ops.expand_dims(y, -3)), p)


@rule("aten.pdist.default", "aten._pdist_forward.default")
def pdist(k: Any, x: Any, p: float = 2.0) -> Any:
    (n,) = plain(k.shape(x)[0])
    i, j = np.triu_indices(n, 1)
    return distance(k, ops.take(x, k.constant(i, "int64"), axis=0) - ops.take(x, k.constant(j, "int64"), axis=0), p)


# --------------------------------------------------------------------------------------------------------- eigenvectors
@rule("aten.linalg_svd.default", "aten._linalg_svd.default")
def linalg_svd(k: Any, x: Any, full_matrices: bool = True, compute_uv: bool = True, driver: Any = None) -> Any:
    """The signs of singular vectors are the library's own choice, in torch as here."""
    if compute_uv:
        return ops.svd(x, full_matrices=full_matrices)
    empty = [filled(k, sizes_of(k, k.node.outputs[i].type), 0.0, k.out.dtype) for i in (0, 2)]
    return empty[0], ops.svd(x, full_matrices=False)[1], empty[1]


@rule("aten.linalg_eigh.default", "aten._linalg_eigh.default")
def linalg_eigh(k: Any, x: Any, UPLO: str = "L", compute_v: bool = True) -> Any:
    """The signs of eigenvectors are the library's own choice, in torch as here."""
    values, vectors = ops.eigh(hermitian(x, UPLO))
    return values, vectors if compute_v else filled(k, sizes_of(k, k.node.outputs[1].type), 0.0, k.out.dtype)


@rule("aten.cholesky_inverse.default")
def cholesky_inverse(k: Any, factor: Any, upper: bool = False) -> Any:
    (n,) = plain(k.shape(factor)[-1])
    lower = _transposed(factor) if upper else factor
    half = ops.solve_triangular(lower, k.broadcast_to(k.constant(np.eye(n), k.out.dtype), k.shape(lower)), lower=True)
    return ops.matmul(_transposed(half), half)


@rule("aten.linalg_matrix_exp.default")
def linalg_matrix_exp(k: Any, x: Any) -> Any:
    """Scaling and squaring (Moler and Van Loan 2003): Taylor's series to degree 18 of x / 2^s with norm at most 1,
    squared s times."""
    (n,) = plain(k.shape(x)[-1])
    eye = k.constant(np.eye(n), k.out.dtype)
    norm = ops.stop_gradient(ops.max(ops.sum(ops.abs(x), axis=-2, keepdims=True), axis=-1, keepdims=True))
    halvings = ops.clip(ops.ceil(ops.log2(norm)), 0, SQUARINGS)
    x = x / 2**halvings
    y = x / DEGREE + eye
    for degree in range(DEGREE - 1, 0, -1):
        y = ops.matmul(x / degree, y) + eye
    for i in range(SQUARINGS):
        y = ops.where(halvings > i, ops.matmul(y, y), y)
    return y


@rule("aten.linalg_pinv.atol_rtol_tensor")
def linalg_pinv(k: Any, x: Any, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    """By singular values above max(atol, rtol * greatest). The gradient is that of a matrix of constant rank (Golub and
    Pereyra 1973), so it needs no gradient of the singular vectors."""
    fixed = ops.stop_gradient(x)
    step = ops.subtract(x, fixed)  # zero, with the gradient
    m, n = plain(*k.shape(x)[-2:])
    if is_known(m) and is_known(n) and 0 in (m, n):
        return _transposed(x)
    read = ops.subtract(ops.tril(fixed), ops.negative(_transposed(ops.tril(fixed, k=-1)))) if hermitian else fixed
    u, size, v = ops.svd(read, full_matrices=False)
    if rtol is None:
        rtol = float(np.finfo(k.dtype(x)).eps) * max(m, n)
        rtol = rtol if atol is None else ops.where(atol > 0, ops.zeros_like(atol), rtol)
    least = ops.max(size, axis=-1, keepdims=True) * _column(k, rtol)
    least = least if atol is None else ops.maximum(least, _column(k, atol))
    kept = size > least
    inverse = ops.where(kept, 1.0 / ops.where(kept, size, ops.ones_like(size)), ops.zeros_like(size))
    p = ops.matmul(_transposed(v) * ops.expand_dims(inverse, -2), _transposed(u))
    outside, inside = (
        k.constant(np.eye(d), k.out.dtype) - ops.matmul(a, b) for d, a, b in ((m, fixed, p), (n, p, fixed))
    )
    change = ops.matmul(ops.matmul(p, _transposed(p)), ops.matmul(_transposed(step), outside))
    change = ops.subtract(change, ops.matmul(p, ops.matmul(step, p)))
    other = ops.matmul(ops.matmul(inside, _transposed(step)), ops.matmul(_transposed(p), p))
    return plus(p, plus(change, other))


def _column(k: Any, tolerance: Any) -> Any:
    return ops.expand_dims(k.cast(tolerance, k.out.dtype), -1) if hasattr(tolerance, "shape") else tolerance


@rule("aten.linalg_householder_product.default")
def linalg_householder_product(k: Any, x: Any, tau: Any) -> Any:
    """The first columns of the product of the reflections I - tau v v^T; v is zero above its place and one there."""
    m, n = plain(*k.shape(x)[-2:])
    (count,) = plain(k.shape(tau)[-1])
    v = plus(ops.tril(x, k=-1), k.constant(np.eye(m, n), k.out.dtype))
    q = ops.subtract(ops.zeros_like(x), k.constant(-np.eye(m, n), k.out.dtype))
    for i in reversed(range(count)):
        column = v[..., :, i : i + 1]
        q = ops.subtract(q, column * ops.matmul(_transposed(column), q) * ops.expand_dims(tau[..., i : i + 1], -1))
    return q


@rule("aten.triangular_solve.default")
def triangular_solve(
    k: Any, b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    return linalg_solve_triangular(
        k, _transposed(a) if transpose else a, b, upper != transpose, True, unitriangular
    ), k.broadcast_to(a, sizes_of(k, k.node.outputs[1].type))
