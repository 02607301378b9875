"""Rules: matrix products."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ..promote import category
from .operands import is_complex, joined, plus, times
from .registry import layer_form, rule
from .shape import sizes_of


def exact(k: Any, product: Any, *xs: Any) -> Any:
    """`product` of the operands; integers go through float64, since Keras multiplies integer matrices in float32, and
    complex numbers by their parts, since it multiplies those of float64 in complex64."""
    if category(k.out.dtype) < 2:
        return ops.cast(product(*(ops.cast(x, "float64") for x in xs)), k.out.dtype)
    if is_complex(*xs):
        (a, b), (c, d) = ((ops.real(x), ops.imag(x)) for x in xs)
        return joined(
            ops.subtract(product(a, c), product(b, d)), ops.subtract(product(a, d), ops.negative(product(b, c)))
        )
    return product(*xs)


# --------------------------------------------------------------------------------------------------------------- linear
@rule("aten.linear.default")
def linear(k: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    y = exact(k, lambda a, b: ops.matmul(a, ops.transpose(b)), x, weight)
    return y if bias is None else plus(y, bias)


@layer_form("aten.linear.default", params=("weight", "bias"))
def dense(k: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    if k.rank(x) < 2 or len(weight.type.shape) != 2:
        return None
    return k.layer(
        keras.layers.Dense,
        x,
        weights={"kernel": weight.transposed(1, 0), "bias": bias},
        units=weight.type.shape[0],
        use_bias=bias is not None,
    )


@layer_form("aten.addmm.default", params=("bias", "weight"))
def dense_addmm(k: Any, bias: Any, x: Any, weight: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    """bias + x @ weight: a Dense whose kernel already lies as Keras wants it (GPT-2's Conv1D)."""
    if not beta == alpha == 1 or bias.type.shape != weight.type.shape[1:]:
        return None
    return k.layer(
        keras.layers.Dense, x, weights={"kernel": weight, "bias": bias}, units=weight.type.shape[1], use_bias=True
    )


# ------------------------------------------------------------------------------------------------------------- products
@rule(
    "aten.matmul.default",
    "aten.mm.default",
    "aten.bmm.default",
    "aten.mv.default",
    "aten.dot.default",
)
def matmul(k: Any, x: Any, y: Any) -> Any:
    return exact(k, ops.matmul, x, y)


@rule("aten.vdot.default")
def vdot(k: Any, x: Any, y: Any) -> Any:
    """The first vector is conjugated."""
    return exact(k, ops.matmul, joined(ops.real(x), ops.negative(ops.imag(x))) if is_complex(x) else x, y)


@rule("aten.inner.default")
def inner(k: Any, x: Any, y: Any) -> Any:
    if not k.rank(x) or not k.rank(y):
        return ops.multiply(x, y)
    return exact(k, lambda a, b: ops.tensordot(a, b, axes=[[-1], [-1]]), x, y)


@rule("aten.outer.default", "aten.ger.default")
def outer(k: Any, x: Any, y: Any) -> Any:
    return times(ops.expand_dims(x, 1), ops.expand_dims(y, 0))


def blend(k: Any, x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """beta * x + alpha * product; beta = 0 leaves x out, NaN and all."""
    product = times(product, alpha)
    return product if beta == 0 else plus(product, times(x, beta))


@rule("aten.addmm.default", "aten.addmv.default", "aten.baddbmm.default")
def addmm(k: Any, x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return blend(k, x, exact(k, ops.matmul, a, b), beta, alpha)


@rule("aten.addbmm.default")
def addbmm(k: Any, x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return blend(k, x, ops.sum(exact(k, ops.matmul, a, b), axis=0), beta, alpha)


@rule("aten.addr.default")
def addr(k: Any, x: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return blend(k, x, outer(k, a, b), beta, alpha)


@rule("aten.tensordot.default")
def tensordot(k: Any, x: Any, y: Any, dims_self: Sequence[int], dims_other: Sequence[int]) -> Any:
    return exact(k, lambda a, b: ops.tensordot(a, b, axes=[list(dims_self), list(dims_other)]), x, y)


@rule("aten.bilinear.default")
def bilinear(k: Any, x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    """(..., i), (..., j), weight (o, i, j) -> (..., o)."""
    half = ops.tensordot(x, weight, axes=[[-1], [1]])
    out = ops.sum(ops.multiply(half, ops.expand_dims(y, -2)), axis=-1)
    return out if bias is None else plus(out, bias)


@rule("aten.kron.default")
def kron(k: Any, x: Any, y: Any) -> Any:
    rank = max(k.rank(x), k.rank(y))
    a, b = ((1,) * (rank - k.rank(t)) + tuple(k.shape(t)) for t in (x, y))
    left = k.reshape(x, [n for size in a for n in (size, 1)])
    right = k.reshape(y, [n for size in b for n in (1, size)])
    return k.reshape(ops.multiply(left, right), sizes_of(k, k.out))


# --------------------------------------------------------------------------------------------------------------- einsum
def explicit(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """torch's equation as terms of single letters: ellipses spelled out, the result made explicit (the letters that
    occur once, capitals first)."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    width = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    spare = [c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation][:width]
    out = []
    for term, rank in zip(terms, ranks, strict=True):
        dots = rank - len(term.replace("...", ""))
        out.append(term.replace("...", "".join(spare[len(spare) - dots :]) if dots else ""))
    if not arrow:
        once = sorted(c for c in set(re.sub(r"[^A-Za-z]", "", left)) if left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    return out, right.replace("...", "".join(spare))


@rule("aten.einsum.default")
def einsum(k: Any, equation: str, tensors: Sequence[Any], path: Any = None) -> Any:
    terms, result = explicit(equation, [k.rank(x) for x in tensors])
    arrays, letters = [], []
    single = [
        {c for c, n in zip(t, k.type(x).shape, strict=True) if n == 1} for x, t in zip(tensors, terms, strict=True)
    ]
    for i, (x, term) in enumerate(zip(tensors, terms, strict=True)):
        x, term = _once(k, x, term)
        wide = {c for j, t in enumerate(terms) for c in t if j != i and c not in single[j]}
        stretched = [a for a, c in enumerate(term) if c in single[i] and c in wide]  # torch broadcasts sizes of one
        if stretched:
            x, term = ops.squeeze(x, stretched), "".join(c for a, c in enumerate(term) if a not in stretched)
        others = {c for j, t in enumerate(terms) for c in t if j != i}
        alone = [a for a, c in enumerate(term) if c not in result and c not in others]
        x = ops.sum(x, axis=alone) if alone else x
        arrays.append(x)
        letters.append("".join(c for a, c in enumerate(term) if a not in alone))
    if len(arrays) == 1:
        return ops.transpose(arrays[0], [letters[0].index(c) for c in result]) if letters[0] != result else arrays[0]
    names = list(dict.fromkeys("".join(letters)))  # Keras knows lower case alone
    lower = {ord(c): chr(ord("a") + i) for i, c in enumerate(names)}
    subscripts = f"{','.join(letters)}->{result}".translate(lower)
    return exact(k, lambda *xs: ops.einsum(subscripts, *xs), *arrays)


def _once(k: Any, x: Any, term: str) -> tuple[Any, str]:
    """A letter that occurs twice in one term stands for a diagonal."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            a, b = term.index(c), term.rindex(c)
            x = ops.diagonal(x, axis1=a, axis2=b)
            term = "".join(t for i, t in enumerate(term) if i not in (a, b)) + c
    return x, term


@rule("aten._grouped_mm.default")
def _grouped_mm(k: Any, x: Any, w: Any, ends: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """One matrix product for each group. A matrix among the operands is cut into groups at `ends` (exclusive, rising):
    rows of x against a stack w, columns of w against a stack x, or, where both are matrices, the axis that is summed.

    Every group is computed on everything and the rest set to zero: no size depends on the data.
    """
    if ends is None or k.rank(x) == k.rank(w) == 3:
        return ops.matmul(x, w)
    axis = -2 if k.rank(x) == 2 and k.rank(w) == 3 else -1
    at = k.arange(0, k.shape(x if k.rank(x) == 2 else w)[axis], 1, "int32")
    ends = ops.expand_dims(ops.cast(ends, "int32"), -1)
    starts = ops.pad(ends[:-1], ((1, 0), (0, 0)))
    inside = ops.logical_and(at >= starts, at < ends)  # (groups, size of the cut axis)
    if k.rank(x) == k.rank(w) == 2:
        return ops.matmul(ops.where(ops.expand_dims(inside, 1), x, 0), w)
    inside = ops.expand_dims(inside, -1 if axis == -2 else 1)
    return ops.sum(ops.where(inside, ops.matmul(x, w), 0), axis=0)
