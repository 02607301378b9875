"""Rules: activation functions. Subgradients at kinks are torch's, and constants stay exact in float64."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from ..builder import Dynamic
from ..ir import ByMode
from .operands import plus, rule_order, torch_sizes
from .registry import ELEMENTWISE, MAPPED, rule

Tensor = Any


@rule("aten.relu.default", layout=ELEMENTWISE)
def relu(k: Any, x: Tensor) -> Tensor:
    return ops.relu(x)


@rule("aten.relu6.default", layout=ELEMENTWISE)
def relu6(k: Any, x: Tensor) -> Tensor:
    return ops.relu6(x)


@rule("aten.hardtanh.default", layout=ELEMENTWISE)
def hardtanh(k: Any, x: Tensor, min_val: float = -1, max_val: float = 1) -> Tensor:
    """No gradient at the bounds."""
    if (min_val, max_val) == (0, 6):
        return ops.relu6(x)
    return ops.where(ops.less_equal(x, min_val), min_val, ops.where(ops.greater_equal(x, max_val), max_val, x))


@rule("aten.leaky_relu.default", layout=ELEMENTWISE)
def leaky_relu(k: Any, x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`ops.leaky_relu` is several times faster, but TensorFlow holds its slope in float32: not for float64."""
    if k.dtype(x) != "float64":
        return ops.leaky_relu(x, negative_slope)
    return ops.where(ops.greater(x, 0), x, ops.multiply(x, negative_slope))


@rule("aten.prelu.default", layout=MAPPED)
def prelu(k: Any, x: Tensor, weight: Tensor) -> Tensor:
    """`weight` holds one slope, or one for each entry of torch axis 1. Keras' PReLU has no gradient at zero."""
    if k.rank(x) > 1:
        shape = [1] * k.rank(x)
        shape[k.axis(1)] = -1
        weight = ops.reshape(weight, shape)
    elif k.rank(x) == 0:
        weight = ops.reshape(weight, ())
    return ops.where(ops.greater(x, 0), x, ops.multiply(x, weight))


@rule("aten.rrelu.default", layout=ELEMENTWISE, modal=("training",), random=True)
def rrelu(k: Any, x: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: Any = False) -> Tensor:
    if isinstance(training, ByMode):
        raise Dynamic("the mode")
    slope: Any = (lower + upper) / 2
    if training:
        slope = k.draw(
            lambda seed: keras.random.uniform(tuple(torch_sizes(k, x)), lower, upper, dtype=k.dtype(x), seed=seed)
        )
        slope = rule_order(k, k.cast(slope, k.dtype(x)))
    return ops.where(ops.greater(x, 0), x, ops.multiply(x, slope))


# ------------------------------------------------------------------------------------------------- exponential kinds
@rule("aten.elu.default", layout=ELEMENTWISE)
def elu(k: Any, x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    """scale * (x if x > 0 else alpha * expm1(x * input_scale)); at zero the slope is the left one."""
    low = ops.elu(x if input_scale == 1 else ops.multiply(x, input_scale))
    if alpha * scale != 1:
        low = ops.multiply(low, alpha * scale)
    elif scale == input_scale == 1:
        return low
    return ops.where(ops.greater(x, 0), x if scale == 1 else ops.multiply(x, scale), low)


@rule("aten.celu.default", layout=ELEMENTWISE)
def celu(k: Any, x: Tensor, alpha: float = 1.0) -> Tensor:
    return elu(k, x, alpha, 1, 1 / alpha)


@rule("aten.selu.default", layout=ELEMENTWISE)
def selu(k: Any, x: Tensor) -> Tensor:
    return elu(k, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@rule("aten.gelu.default", layout=ELEMENTWISE)
def gelu(k: Any, x: Tensor, approximate: str = "none") -> Tensor:
    """Not `ops.gelu`: TensorFlow rounds its constants to float32."""
    if approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        inner = ops.multiply(x, plus(ops.multiply(ops.square(x), c * 0.044715), c))
        return ops.multiply(ops.multiply(x, 0.5), plus(ops.tanh(inner), 1.0))
    return ops.multiply(ops.multiply(x, 0.5), plus(ops.erf(ops.multiply(x, math.sqrt(0.5))), 1.0))


@rule("aten.silu.default", layout=ELEMENTWISE)
def silu(k: Any, x: Tensor) -> Tensor:
    return ops.silu(x)


@rule("aten.softplus.default", layout=ELEMENTWISE)
def softplus(k: Any, x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold.

    From 17 on the two are the same number in float32 and below.
    """
    z = x if beta == 1 else ops.multiply(x, beta)
    soft = ops.softplus(z) if beta == 1 else ops.divide(ops.softplus(z), beta)
    if k.dtype(x) != "float64" and threshold >= 17:
        return soft
    return ops.where(ops.greater(z, threshold), x, soft)


@rule("aten.mish.default", layout=ELEMENTWISE)
def mish(k: Any, x: Tensor) -> Tensor:
    return ops.multiply(x, ops.tanh(ops.softplus(x)))


@rule("aten.log_sigmoid.default", layout=ELEMENTWISE)
def log_sigmoid(k: Any, x: Tensor) -> Tensor:
    return ops.negative(ops.softplus(ops.negative(x)))


@rule("aten.log_sigmoid_forward.default", layout=ELEMENTWISE)
def log_sigmoid_forward(k: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The second result is the kernel's own scratch buffer: nothing but torch's backward reads it."""
    buffer = ops.exp(ops.negative(ops.abs(x)))
    return log_sigmoid(k, x), buffer if len(k.node.outputs[1].type.shape) == k.rank(x) else ops.reshape(buffer, (-1,))[
        :0
    ]


# ---------------------------------------------------------------------------------------------------- piecewise kinds
@rule("aten.hardswish.default", layout=ELEMENTWISE)
def hardswish(k: Any, x: Tensor) -> Tensor:
    return ops.multiply(x, ops.divide(ops.relu6(plus(x, 3.0)), 6.0))


@rule("aten.hardsigmoid.default", layout=ELEMENTWISE)
def hardsigmoid(k: Any, x: Tensor) -> Tensor:
    """torch divides by six on the way forth, and on the way back multiplies by 1.0f / 6.0f, in float64 too."""
    bounded = ops.relu6(plus(x, 3.0))
    if k.dtype(x) != "float64":
        return ops.divide(bounded, 6.0)
    slope = ops.multiply(bounded, 0.16666667163372040)
    return plus(ops.stop_gradient(ops.subtract(ops.divide(bounded, 6.0), slope)), slope)


@rule("aten.hardshrink.default", layout=ELEMENTWISE)
def hardshrink(k: Any, x: Tensor, lambd: float = 0.5) -> Tensor:
    inside = ops.logical_and(ops.greater_equal(x, -lambd), ops.less_equal(x, lambd))
    return ops.where(inside, ops.zeros_like(x), x)


@rule("aten.softshrink.default", layout=ELEMENTWISE)
def softshrink(k: Any, x: Tensor, lambd: float = 0.5) -> Tensor:
    low = ops.where(ops.less(x, -lambd), plus(x, lambd), ops.multiply(ops.stop_gradient(x), 0.0))
    return ops.where(ops.greater(x, lambd), ops.subtract(x, lambd), low)


@rule("aten.threshold.default", layout=ELEMENTWISE)
def threshold(k: Any, x: Tensor, threshold: float, value: float) -> Tensor:
    return ops.where(ops.less_equal(x, threshold), value, x)


# ------------------------------------------------------------------------------------------------------ along an axis
@rule("aten.glu.default", layout=MAPPED)
def glu(k: Any, x: Tensor, dim: int = -1) -> Tensor:
    a, b = ops.split(x, 2, axis=k.axis(dim))
    return ops.multiply(a, ops.sigmoid(b))


def _cast_in(k: Any, x: Tensor) -> Tensor:
    """Softmax computes in the dtype of its result."""
    return k.cast(x, k.out.dtype)


@rule("aten.softmax.int", "aten._softmax.default", layout=MAPPED)
def softmax(k: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = _cast_in(k, x)
    return ops.softmax(x, axis=k.axis(dim)) if k.rank(x) else ops.ones_like(x)


@rule("aten.log_softmax.int", "aten._log_softmax.default", layout=MAPPED)
def log_softmax(k: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = _cast_in(k, x)
    return ops.log_softmax(x, axis=k.axis(dim)) if k.rank(x) else ops.zeros_like(x)


@rule("aten._safe_softmax.default", layout=MAPPED)
def safe_softmax(k: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """A row of -inf alone gives zeros instead of NaN."""
    x = _cast_in(k, x)
    axis = k.axis(dim)
    dead = ops.all(ops.equal(x, float("-inf")), axis=axis, keepdims=True)
    y = ops.softmax(ops.where(dead, ops.zeros_like(x), x), axis=axis)
    return ops.where(dead, ops.zeros_like(y), y)
