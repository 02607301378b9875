"""Rules: loss functions, for modules that return their loss. `reduction` is 0 none, 1 mean, 2 sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from .operands import is_float, plus
from .registry import ELEMENTWISE, rule

Tensor = Any


def reduced(loss: Tensor, reduction: int) -> Tensor:
    """The loss as its reduction says."""
    return loss if reduction == 0 else ops.mean(loss) if reduction == 1 else ops.sum(loss)


# -------------------------------------------------------------------------------------------------------- elementwise
def _pointwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """A rule for (x, target, reduction, parameter)."""

    def lower(k: Any, x: Tensor, target: Tensor, reduction: int = 1, parameter: float = 1.0) -> Tensor:
        return reduced(function(x, target, parameter), reduction)

    return lower


def _smooth(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Quadratic below beta, linear above; beta = 0 is the absolute difference."""
    size = ops.abs(ops.subtract(x, y))
    if beta == 0:
        return size
    return ops.where(ops.less(size, beta), ops.multiply(ops.square(size), 0.5 / beta), ops.subtract(size, 0.5 * beta))


def _huber(x: Tensor, y: Tensor, delta: float) -> Tensor:
    size = ops.abs(ops.subtract(x, y))
    return ops.where(
        ops.less_equal(size, delta),
        ops.multiply(ops.square(size), 0.5),
        ops.multiply(ops.subtract(size, 0.5 * delta), delta),
    )


_POINTWISE: dict[str, Callable[..., Any]] = {
    "mse_loss": lambda x, y, _: ops.square(ops.subtract(x, y)),
    "l1_loss": lambda x, y, _: ops.abs(ops.subtract(x, y)),
    "smooth_l1_loss": _smooth,
    "huber_loss": _huber,
    "soft_margin_loss": lambda x, y, _: ops.log1p(ops.exp(ops.negative(ops.multiply(x, y)))),
}
for _name, _function in _POINTWISE.items():
    rule(f"aten.{_name}.default", layout=ELEMENTWISE, promote=True)(_pointwise(_function))


@rule("aten.kl_div.default", layout=ELEMENTWISE, promote=True)
def kl_div(k: Any, x: Tensor, target: Tensor, reduction: int = 1, log_target: bool = False) -> Tensor:
    """target * (log target - x); zero where the target is zero."""
    if log_target:
        return reduced(ops.multiply(ops.exp(target), ops.subtract(target, x)), reduction)
    none = ops.less_equal(target, 0)
    entropy = ops.multiply(target, ops.log(ops.where(none, ops.ones_like(target), target)))
    entropy = ops.where(ops.less(target, 0), math.nan, entropy)
    return reduced(ops.subtract(entropy, ops.multiply(target, x)), reduction)


@rule("aten.binary_cross_entropy.default", layout=ELEMENTWISE)
def binary_cross_entropy(k: Any, x: Tensor, target: Tensor, weight: Any = None, reduction: int = 1) -> Tensor:
    """The logs are cut off at -100; torch's gradient is (x - target) / max(x (1 - x), 1e-12), whatever the cut, and it
    holds that bound in float32 for every dtype."""
    spread = ops.multiply(ops.subtract(1.0, x), x)
    slope = ops.stop_gradient(ops.divide(ops.subtract(x, target), ops.maximum(spread, 9.999999960041972e-13)))
    log_x, log_rest = ops.maximum(ops.log(x), -100.0), ops.maximum(ops.log1p(ops.negative(x)), -100.0)
    log_x, log_rest = ops.stop_gradient(log_x), ops.stop_gradient(log_rest)
    loss = ops.subtract(ops.multiply(ops.subtract(target, 1.0), log_rest), ops.multiply(target, log_x))
    loss = plus(loss, ops.multiply(slope, ops.subtract(x, ops.stop_gradient(x))))
    return reduced(loss if weight is None else ops.multiply(loss, weight), reduction)


@rule("aten.binary_cross_entropy_with_logits.default", layout=ELEMENTWISE)
def binary_cross_entropy_with_logits(
    k: Any, x: Tensor, target: Tensor, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Tensor:
    slope: Any = ops.softplus(ops.negative(x))
    if pos_weight is not None:
        slope = ops.multiply(slope, plus(ops.multiply(ops.subtract(pos_weight, 1.0), target), 1.0))
    loss = plus(ops.multiply(ops.subtract(1.0, target), x), slope)
    return reduced(loss if weight is None else ops.multiply(loss, weight), reduction)


@rule("aten.poisson_nll_loss.default", layout=ELEMENTWISE, promote=True)
def poisson_nll_loss(
    k: Any, x: Tensor, target: Tensor, log_input: bool, full: bool, eps: float, reduction: int
) -> Tensor:
    if log_input:
        loss = ops.subtract(ops.exp(x), ops.multiply(target, x))
    else:
        loss = ops.subtract(x, ops.multiply(target, ops.log(plus(x, eps))))
    if full:
        above = ops.greater(target, 1)
        safe = ops.where(above, target, ops.ones_like(target))
        stirling = plus(
            ops.subtract(ops.multiply(safe, ops.log(safe)), safe),
            ops.multiply(ops.log(ops.multiply(safe, 2 * math.pi)), 0.5),
        )
        loss = plus(loss, ops.where(above, stirling, ops.zeros_like(stirling)))
    return reduced(loss, reduction)


@rule("aten.margin_ranking_loss.default", layout=ELEMENTWISE, promote=True)
def margin_ranking_loss(
    k: Any, x: Tensor, y: Tensor, target: Tensor, margin: float = 0.0, reduction: int = 1
) -> Tensor:
    loss = ops.subtract(margin, ops.multiply(target, ops.subtract(x, y)))
    return reduced(_positive(loss), reduction)


@rule("aten.hinge_embedding_loss.default", layout=ELEMENTWISE, promote=True)
def hinge_embedding_loss(k: Any, x: Tensor, target: Tensor, margin: float = 1.0, reduction: int = 1) -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1, their sum where it is neither."""
    apart = ops.where(ops.equal(target, 1), ops.zeros_like(x), _positive(ops.subtract(margin, x)))
    return reduced(plus(apart, ops.where(ops.equal(target, -1), ops.zeros_like(x), x)), reduction)


def _positive(x: Tensor) -> Tensor:
    """clamp_min(x, 0): unlike relu, the gradient passes at zero."""
    return ops.where(ops.less(x, 0), 0.0, x)


# ------------------------------------------------------------------------------------------------------------ classes
def _picked(k: Any, log_p: Tensor, target: Tensor, weight: Any, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(-log_p[target] * w, w) for each target, zeros where it is ignored. Classes stand on axis 1 (0 of a vector)."""
    axis = 1 if len(log_p.shape) > 1 else 0
    count = k.shape(log_p)[axis]
    valid = ops.not_equal(target, ignore_index)
    chosen = ops.one_hot(ops.where(valid, target, ops.zeros_like(target)), count, axis=axis, dtype="bool")
    value = ops.sum(ops.where(chosen, log_p, ops.zeros_like(log_p)), axis=axis)
    scale = ops.cast(valid, log_p.dtype)
    if weight is not None:
        shaped = ops.reshape(weight, [-1 if i == axis else 1 for i in range(len(log_p.shape))])
        scale = ops.multiply(scale, ops.sum(ops.where(chosen, shaped, ops.zeros_like(log_p)), axis=axis))
    return ops.multiply(ops.where(valid, ops.negative(value), ops.zeros_like(value)), scale), scale


def _nll(
    k: Any, log_p: Tensor, target: Tensor, weight: Any, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The loss and the total weight (zero without reduction, as torch has it)."""
    loss, scale = _picked(k, log_p, target, weight, ignore_index)
    total = ops.sum(scale)
    if reduction == 0:
        return loss, ops.multiply(ops.stop_gradient(total), 0.0)
    loss = ops.sum(loss)
    return (ops.divide(loss, total) if reduction == 1 else loss), ops.stop_gradient(total)


@rule("aten.nll_loss_forward.default", "aten.nll_loss2d_forward.default")
def nll_loss_forward(
    k: Any, x: Tensor, target: Tensor, weight: Any, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    return _nll(k, x, target, weight, reduction, ignore_index)


@rule("aten.nll_loss_nd.default", "aten.nll_loss.default", "aten.nll_loss2d.default")
def nll_loss(
    k: Any, x: Tensor, target: Tensor, weight: Any = None, reduction: int = 1, ignore_index: int = -100
) -> Tensor:
    return _nll(k, x, target, weight, reduction, ignore_index)[0]


@rule("aten.cross_entropy_loss.default")
def cross_entropy_loss(
    k: Any,
    x: Tensor,
    target: Tensor,
    weight: Any = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`target` holds class indices, or a probability for each class where it is floating."""
    axis = 1 if len(x.shape) > 1 else 0
    log_p = ops.log_softmax(x, axis=axis)
    count = k.shape(x)[axis]
    shaped = None if weight is None else ops.reshape(weight, [-1 if i == axis else 1 for i in range(len(x.shape))])
    weighted = log_p if shaped is None else ops.multiply(log_p, shaped)
    if is_float(k, target):
        p = plus(ops.multiply(target, 1 - label_smoothing), label_smoothing / count) if label_smoothing else target
        loss = ops.negative(ops.sum(ops.multiply(weighted, p), axis=axis))
        return reduced(loss, reduction)
    loss, _ = _nll(k, log_p, target, weight, reduction, ignore_index)
    if label_smoothing == 0:
        return loss
    valid = ops.not_equal(target, ignore_index)
    smooth = ops.negative(ops.sum(weighted, axis=axis))
    smooth = ops.where(valid, smooth, ops.zeros_like(smooth))
    if reduction:
        smooth = ops.sum(smooth)
    if reduction == 1:
        _, scale = _picked(k, log_p, target, weight, ignore_index)
        smooth = ops.divide(smooth, ops.sum(scale))
    return plus(ops.multiply(loss, 1 - label_smoothing), ops.multiply(smooth, label_smoothing / count))
