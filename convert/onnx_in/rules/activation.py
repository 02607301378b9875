"""Activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..operands import dtype_of, leaf, rank_of, shape_of
from ..registry import rule
from .dtypes import align, in_integers, unsigned

__all__ = ["swish"]

SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and gamma as torch.selu has them
SOFTPLUS_LINEAR = 40.0  # log(1 + exp(x)) is x from there on, in float64 too


def near(a: float, b: float) -> bool:
    """Whether a is b as an attribute can hold it: rounded to float32."""
    return abs(a - b) <= 1e-7 * abs(b)


@rule("Relu")
def relu(x: Any, *, consumed_inputs: Any = None) -> Any:
    return torch.relu(x)


@rule("LeakyRelu")
def leaky_relu(x: Any, *, alpha: float = 0.01, consumed_inputs: Any = None) -> Any:
    return F.leaky_relu(x, alpha)


@rule("PRelu", since=7)
def prelu(x: Any, slope: Any) -> Any:
    """The slope is broadcast to x."""
    return torch.where(x > 0, x, slope * x) if unsigned(x) is None else x


@rule("PRelu")
def prelu_1(x: Any, slope: Any, *, consumed_inputs: Any = None) -> Any:
    """One slope, or one for each channel: dim 1."""
    shape, rank = shape_of(slope), rank_of(x)
    if shape is None or rank is None:
        return prelu(x, by_channel(slope, x))
    return prelu(x, slope if shape in ((), (1,)) or rank < 3 else slope.reshape(-1, *[1] * (rank - 2)))


@leaf
def by_channel(slope: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A value for each channel (or one for all) in the shape that broadcasts to x."""
    return slope if slope.numel() == 1 else align(slope, x, 1)


@rule("Elu")
def elu(x: Any, *, alpha: float = 1.0, consumed_inputs: Any = None) -> Any:
    return F.elu(x, alpha)


@rule("Selu", since=6)
def selu(x: Any, *, alpha: float = SELU[0], gamma: float = SELU[1]) -> Any:
    if near(alpha, SELU[0]) and near(gamma, SELU[1]):
        return F.selu(x)
    return gamma * F.elu(x, alpha)


@rule("Selu")
def selu_1(x: Any, *, alpha: float = 1.6732, gamma: float = 1.0507, consumed_inputs: Any = None) -> Any:
    return selu(x, alpha=alpha, gamma=gamma)


@rule("Celu", since=12)
def celu(x: Any, *, alpha: float = 1.0) -> Any:
    return F.celu(x, alpha)


@rule("Gelu", since=20)
def gelu(x: Any, *, approximate: str = "none") -> Any:
    return F.gelu(x, approximate=approximate)


@rule("HardSigmoid")
def hard_sigmoid(x: Any, *, alpha: float = 0.2, beta: float = 0.5, consumed_inputs: Any = None) -> Any:
    if near(alpha, 1 / 6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


@rule("HardSwish", since=14)
def hard_swish(x: Any) -> Any:
    return F.hardswish(x)


@rule("Mish", since=18)
def mish(x: Any) -> Any:
    return F.mish(x)


@rule("Softplus")
def softplus(x: Any) -> Any:
    return F.softplus(x, threshold=SOFTPLUS_LINEAR)


@rule("Softsign")
def softsign(x: Any) -> Any:
    return F.softsign(x)


@rule("ThresholdedRelu", since=10)
def thresholded_relu(x: Any, *, alpha: float = 1.0) -> Any:
    return F.threshold(x, alpha, 0.0)


@rule("Shrink", since=9)
def shrink(x: Any, *, lambd: float = 0.5, bias: float = 0.0) -> Any:
    """Of integers too: the result is cut to an integer."""
    dtype = unsigned(x) or (dtype_of(x) if in_integers(x) else None)
    if dtype is not None:
        return shrink(x.to(torch.float64), lambd=lambd, bias=bias).to(dtype)
    if bias == lambd >= 0:
        return F.softshrink(x, lambd)
    return torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, 0.0))


@rule("Swish", since=24)
def swish(x: Any, *, alpha: float = 1.0) -> Any:
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@rule("SwiGLU", since=28)
def swiglu(gate: Any, value: Any, *, alpha: float = 1.0) -> Any:
    return swish(gate, alpha=alpha) * value


# ----------------------------------------------------------------------------------------------------- along one axis
Along = Callable[[Any, int], Any]


@rule("Softmax", since=13)
def softmax(x: Any, *, axis: int = -1) -> Any:
    return torch.softmax(x, axis)


@rule("LogSoftmax", since=13)
def log_softmax(x: Any, *, axis: int = -1) -> Any:
    return torch.log_softmax(x, axis)


@rule("Hardmax", since=13)
def hardmax(x: Any, *, axis: int = -1) -> Any:
    """One at the first of the largest elements."""
    return torch.zeros_like(x).scatter(axis, torch.argmax(x, axis, keepdim=True), 1.0)


def _before_13(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of the versions that take all dims from `axis` on as one."""

    def apply(x: Any, *, axis: int = 1) -> Any:
        rank = rank_of(x)
        if rank is not None and axis % max(rank, 1) == rank - 1:
            return function(x, axis=axis)
        return function(x.flatten(axis), axis=-1).reshape(x.shape)

    return apply


for _op, _function in (("Softmax", softmax), ("LogSoftmax", log_softmax), ("Hardmax", hardmax)):
    rule(_op)(_before_13(_function))
