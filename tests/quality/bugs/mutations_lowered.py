"""Wrong lowerings of single ops: what they compute is right almost everywhere, or right in other numbers."""

from __future__ import annotations

from typing import Any

from keras import ops

from tests.quality.bugs.mutations import Mutation
from tests.quality.bugs.mutations_rules import Lower, lowered


def relu(right: Lower, k: Any, x: Any) -> Any:
    """The gradient at zero is one."""
    return ops.where(x >= 0, x, ops.zeros_like(x))


def clamp(right: Lower, k: Any, x: Any, low: float, high: float) -> Any:
    """No gradient at the bounds."""
    return ops.where(x <= low, low, ops.where(x >= high, high, x))


def absolute(right: Lower, k: Any, x: Any) -> Any:
    """The gradient at zero is one."""
    return ops.where(x >= 0, x, -x)


def maximum(right: Lower, k: Any, x: Any, y: Any) -> Any:
    """The first of equals takes the whole gradient."""
    return ops.where(x >= y, x, y)


def amax(right: Lower, k: Any, x: Any, dim: Any, keepdim: bool) -> Any:
    """The first of equals takes the whole gradient."""
    y = right(k, x, dim, keepdim)  # tells the builder which axes are left
    axis = k.axis(dim[0])
    first = ops.one_hot(ops.argmax(x, axis=axis), x.shape[axis], axis=axis, dtype=x.dtype)
    return ops.sum(x * first, axis=axis, keepdims=True) if keepdim else y


def max_dim(right: Lower, k: Any, x: Any, dim: int, keepdim: bool) -> Any:
    """Equals share the gradient."""
    _, indices = right(k, x, dim, keepdim)
    return ops.max(x, axis=k.axis(dim), keepdims=keepdim), indices


def last_of_ties(right: Lower, k: Any, x: Any, dim: int, keepdim: bool) -> Any:
    """The last of equals is the greatest."""
    axis = k.axis(dim)
    return ops.subtract(x.shape[axis] - 1, right(k, ops.flip(x, axis), dim, keepdim))


def floor_division(right: Lower, k: Any, x: Any, y: Any) -> Any:
    """A true division of integers, rounded."""
    return ops.floor(right(k, x, y))


def naive_logsumexp(right: Lower, k: Any, x: Any, dim: Any, keepdim: bool) -> Any:
    """Exponentials as large as they come."""
    return ops.log(ops.sum(ops.exp(x), axis=k.axis(dim[0]), keepdims=keepdim))


TIES: dict[str, Mutation] = {
    "relu": lowered("aten.relu.default", relu),
    "clamp": lowered("aten.clamp.default", clamp),
    "amax": lowered("aten.amax.default", amax),
    "max": lowered("aten.max.dim", max_dim),
    "abs": lowered("aten.abs.default", absolute),
    "larger": lowered("aten.maximum.default", maximum),
}
LAST_OF_TIES = lowered("aten.argmax.default", last_of_ties)
FLOOR_DIVISION = lowered("aten.div.Tensor", floor_division, "halved")
NAIVE_LOGSUMEXP = lowered("aten.logsumexp.default", naive_logsumexp)
