"""Mutations of the converter itself: a rule or a helper is another one while the model is emitted and judged."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras import ops

from isomorph.convert import nn_layers, recurrence
from isomorph.convert.rules import resize
from isomorph.convert.rules.registry import LAYER_FORMS, RULES
from tests.quality.bugs.mutations import Mutation

Lower = Callable[..., Any]


def lowered(op: str, function: Lower, module: str | None = None) -> Mutation:
    """An op is lowered by `function(right, k, *args)`, where `right` is the true rule; no real layer stands for it."""

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        rule, form = RULES[op], LAYER_FORMS.pop(op, None)

        def lower(k: Any, *args: Any, **kwargs: Any) -> Any:
            if module not in (None, k.node.origin.module_path):
                return rule.lower(k, *args, **kwargs)
            return function(rule.lower, k, *args, **kwargs)

        RULES[op] = dataclasses.replace(rule, lower=lower)
        try:
            yield
        finally:
            RULES[op] = rule
            if form is not None:
                LAYER_FORMS[op] = form

    return Mutation(patch=patch)


def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Mutation:
    """An attribute of a module or class is what `make` makes of it."""

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        right = getattr(owner, name)
        setattr(owner, name, make(right))
        try:
            yield
        finally:
            setattr(owner, name, right)

    return Mutation(patch=patch)


# ------------------------------------------------------------------------------------------------------------ precision
def tf32(x: Any) -> Any:
    """A float32 tensor rounded to the eleven digits of TensorFloat-32; others as they are."""
    if str(x.dtype) != "float32":
        return x
    far = x * 8193.0
    return far - (far - x)


def tf32_linear(right: Lower, k: Any, x: Any, weight: Any, bias: Any) -> Any:
    """A linear layer on tensor cores."""
    y = ops.matmul(tf32(x), ops.transpose(tf32(weight)))
    return y if bias is None else y + bias


def bfloat16_linear(right: Lower, k: Any, x: Any, weight: Any, bias: Any) -> Any:
    """A linear layer that accumulates in bfloat16, where the model is float32."""
    if k.dtype(x) != "float32":
        return right(k, x, weight, bias)
    total: Any = ops.cast(ops.matmul(x[..., :1], ops.transpose(weight[:, :1])), "bfloat16")
    for i in range(1, weight.shape[1]):
        total = total + ops.cast(ops.matmul(x[..., i : i + 1], ops.transpose(weight[:, i : i + 1])), "bfloat16")
    return ops.cast(total, "float32") + bias


# -------------------------------------------------------------------------------------------------------------- helpers
def biased_variance() -> Mutation:
    """The running variance moves towards the biased variance of the batch."""

    def make(right: Lower) -> Lower:
        def by_batch(self: Any, x: Any, gamma: Any, beta: Any) -> Any:
            y, mean, unbiased = right(self, x, gamma, beta)
            count = 1
            for axis in self._reduction_axes:
                count = count * ops.shape(x)[axis]
            n = ops.cast(count, unbiased.dtype)
            return y, mean, unbiased * (n - 1.0) / n

        return by_batch

    return replaced(nn_layers.BatchNormalization, "_by_batch", make)


def detached_moments() -> Mutation:
    """The statistics of a normalisation are constants to its gradient."""

    def make(right: Lower) -> Lower:
        return lambda *args, **kwargs: tuple(ops.stop_gradient(m) for m in right(*args, **kwargs))

    return replaced(nn_layers, "moments", make)


def corner_pixels(module: str) -> Mutation:
    """Pixels are points at their corners: the source position is the target's times the step."""

    def make(right: Lower) -> Lower:
        def positions(k: Any, size: Any, out: Any, align: bool, scale: Any) -> Any:
            at = right(k, size, out, align, scale)
            if k.node.origin.module_path != module or align:
                return at
            return at + 0.5 - 0.5 * size / out

        return positions

    return replaced(resize, "positions", make)


def cubic_constant(a: float) -> Mutation:
    """Bicubic interpolation with another constant."""
    return replaced(resize, "cubic", lambda right: lambda f, t, _: right(f, t, a))


def gate_order() -> Mutation:
    """The cell's gate and the forget gate of an LSTM exchanged."""

    def make(right: Lower) -> Lower:
        def step(gates: Any, c: Any) -> Any:
            i, f, g, o = ops.split(gates, 4, axis=-1)
            return right(ops.concatenate([i, g, f, o], axis=-1), c)

        return step

    return replaced(recurrence, "lstm_step", make)


def forward_only() -> Mutation:
    """The reverse direction of a recurrent layer runs forwards."""
    return replaced(recurrence, "direction", lambda right: lambda *args: right(*args[:-1], False))


def reset_before() -> Mutation:
    """A GRU whose reset gate acts before the recurrent product, as in Keras' reset_after=False."""

    def make(right: Lower) -> Lower:
        def direction(
            mode: str, x: Any, h: Any, c: Any, weights: Sequence[Any], biases: bool, reverse: bool
        ) -> tuple[Any, Any, Any]:
            w_ih, w_hh, b_ih, b_hh = weights
            xs = ops.matmul(x, ops.transpose(w_ih)) + b_ih
            w_r, w_z, w_n = ops.split(ops.transpose(w_hh), 3, axis=-1)
            b_r, b_z, b_n = ops.split(b_hh, 3)

            def step(carry: Any, now: Any) -> Any:
                (before,) = carry
                xr, xz, xn = ops.split(now, 3, axis=-1)
                reset = ops.sigmoid(xr + ops.matmul(before, w_r) + b_r)
                update = ops.sigmoid(xz + ops.matmul(before, w_z) + b_z)
                new = ops.tanh(xn + ops.matmul(reset * before, w_n) + b_n)
                new = new + update * (before - new)
                return [new], [new]

            carry, outputs = ops.scan(step, [h], xs, reverse=reverse)
            return outputs[0], carry[0], None

        return direction

    return replaced(recurrence, "direction", make)
