"""The vector-Jacobian product of Keras code on each of Keras' backends, and nothing about models.

`call` maps tensors to a flat list of output tensors, reading Keras variables; `pull` gives each output its cotangent
tensor or None. Variables that the call assigns hold their new values afterwards, on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from isomorph.convert.errors import UnsupportedError

__all__ = ["BACKENDS", "Pulled", "is_float", "pull_back"]

Call = Callable[[list[Any]], list[Any]]
Pull = Callable[[list[Any]], list[Any | None]]


@dataclass(frozen=True)
class Pulled:
    """Flat outputs; the gradient of each input tensor and of each variable, None where nothing depends on it or it has
    none."""

    outputs: list[Any]
    inputs: list[Any | None]
    variables: list[Any | None]


def is_float(dtype: str) -> bool:
    """Whether a dtype's name is that of a real floating one."""
    return dtype.startswith(("float", "bfloat"))


def pull_back(
    call: Call, tensors: Sequence[Any], variables: Sequence[Any], state: Sequence[Any], pull: Pull | None
) -> Pulled:
    """One forward, and one backward unless `pull` is None.

    tensors: of the backend. variables: the Keras variables to differentiate by. state: those that the call may assign.
    UnsupportedError: Keras runs on a backend without gradients.
    """
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise UnsupportedError(f"no runner for Keras' {backend} backend; known: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[backend](call, list(tensors), list(variables), list(state), pull)


def _floating(tensors: Sequence[Any]) -> list[int]:
    return [index for index, t in enumerate(tensors) if is_float(keras.backend.standardize_dtype(t.dtype))]


def _spread(gradients: Sequence[Any], places: Sequence[int], count: int) -> list[Any | None]:
    found = dict(zip(places, gradients, strict=True))
    return [found.get(index) for index in range(count)]


def _tensorflow(call: Call, tensors: list[Any], variables: list[Any], state: list[Any], pull: Pull | None) -> Pulled:
    import tensorflow as tf

    if pull is None:
        return Pulled(call(tensors), [None] * len(tensors), [None] * len(variables))
    floating = _floating(tensors)
    sources = [*(tensors[index] for index in floating), *(variable.value for variable in variables)]
    with tf.GradientTape() as tape:
        for index in floating:
            tape.watch(tensors[index])
        outputs = call(tensors)
    pairs = [(y, c) for y, c in zip(outputs, pull(outputs), strict=True) if c is not None]
    gradients: list[Any] = [None] * len(sources)
    if pairs and sources:
        gradients = tape.gradient([y for y, _ in pairs], sources, output_gradients=[c for _, c in pairs])
    gradients = [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    count = len(floating)
    return Pulled(outputs, _spread(gradients[:count], floating, len(tensors)), gradients[count:])


def _jax(call: Call, tensors: list[Any], variables: list[Any], state: list[Any], pull: Pull | None) -> Pulled:
    import jax

    floating = _floating(tensors)

    def run(values: list[Any], sources: list[Any]) -> tuple[list[Any], list[Any]]:
        arguments = list(tensors)
        for index, source in zip(floating, sources, strict=True):
            arguments[index] = source
        # inside the scope an assignment is recorded, so that nothing of the trace gets out
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))) as scope:
            outputs = call(arguments)
        after = [scope.get_current_value(variable) for variable in state]
        return outputs, [v.value if new is None else new for v, new in zip(state, after, strict=True)]

    values, sources = [variable.value for variable in variables], [tensors[index] for index in floating]
    if pull is None:
        outputs, after = run(values, sources)
        gradients, by_source = [None] * len(variables), [None] * len(floating)
    else:
        outputs, pulled, after = jax.vjp(run, values, sources, has_aux=True)
        cotangents = [_cotangent_jax(y, c) for y, c in zip(outputs, pull(outputs), strict=True)]
        gradients, by_source = pulled(cotangents)
    for variable, value in zip(state, after, strict=True):
        variable.assign(value)
    return Pulled(outputs, _spread(by_source, floating, len(tensors)), list(gradients))


def _cotangent_jax(output: Any, given: Any | None) -> Any:
    import jax

    if given is not None:
        return given
    if is_float(str(output.dtype)):
        return np.zeros(output.shape, output.dtype)
    return np.zeros(output.shape, jax.dtypes.float0)


def _torch(call: Call, tensors: list[Any], variables: list[Any], state: list[Any], pull: Pull | None) -> Pulled:
    import torch

    if pull is None:
        with torch.no_grad():
            return Pulled(call(tensors), [None] * len(tensors), [None] * len(variables))
    floating = _floating(tensors)
    arguments = list(tensors)
    for index in floating:
        arguments[index] = tensors[index].detach().clone().requires_grad_()
    leaves = [variable.value for variable in variables]
    frozen = [leaf for leaf in leaves if not leaf.requires_grad]
    try:
        for leaf in frozen:
            leaf.requires_grad_()
        outputs = call(arguments)
        sources = [*(arguments[index] for index in floating), *leaves]
        pairs = [
            (y, c) for y, c in zip(outputs, pull(outputs), strict=True) if c is not None and y.requires_grad
        ]  # fmt: skip
        gradients: Sequence[Any] = [None] * len(sources)
        if pairs and sources:
            gradients = torch.autograd.grad([y for y, _ in pairs], sources, [c for _, c in pairs], allow_unused=True)
    finally:
        for leaf in frozen:
            leaf.requires_grad_(False)
    count = len(floating)
    detached = [output.detach() for output in outputs]
    return Pulled(detached, _spread(gradients[:count], floating, len(tensors)), list(gradients[count:]))


BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
