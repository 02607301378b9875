"""Adapter for op-database runners: `convert(module, args, kwargs, exported)` -> forward, vjp, state.

Such a runner takes PyTorch's own op and module database, wraps each sample as a module, hands it to this function and
judges
outputs, gradients and buffers. Static shapes; the mode is the module's.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import torch
import torch.utils._pytree as pytree

from isomorph.convert.api import to_keras
from isomorph.convert.conversion import Conversion


class Adapter:
    """One converted module, called with numpy arrays in torch's order."""

    def __init__(self, converted: Conversion, training: bool) -> None:
        self.converted = converted
        self.training = training

    def _run(self, args: Any, kwargs: Any) -> tuple[list[tf.Tensor], list[Any]]:
        arrays = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, np.ndarray | np.generic)]
        xs = [tf.convert_to_tensor(p.to_keras(a)) for p, a in zip(self.converted.inputs, arrays, strict=True)]
        return xs, self._call(xs)

    def _call(self, xs: list[tf.Tensor]) -> list[Any]:
        result = self.converted.flatten_outputs(
            self.converted.model(xs if len(xs) > 1 else xs[0], training=self.training)
        )
        orders = [p.permutation for p in self.converted.outputs]
        return [y if p is None else tf.transpose(y, np.argsort(p)) for y, p in zip(result, orders, strict=True)]

    def forward(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The flat outputs in torch's order, constants in their places."""
        _, ys = self._run(args, kwargs)
        arrays = iter([np.asarray(y) for y in ys])
        constants = self.converted.output_constants
        total = len(ys) + len(constants)
        return [constants[i] if i in constants else next(arrays) for i in range(total)]

    def vjp(self, args: Any, kwargs: Any, cotangents: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Gradients of each tensor input (None where not floating) and of each parameter by torch's name."""
        arrays = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, np.ndarray | np.generic)]
        xs = [tf.convert_to_tensor(p.to_keras(a)) for p, a in zip(self.converted.inputs, arrays, strict=True)]
        entries = [e for e in self.converted.weights if e.kind == "parameter" and e.tied_to is None]
        with tf.GradientTape() as tape:
            wrt = [x for x in xs if x.dtype.is_floating or x.dtype.is_complex]
            for x in wrt:
                tape.watch(x)
            ys = self._call(xs)
            live = [i for i in range(len(cotangents)) if i not in self.converted.output_constants]
            pairs = [(y, cotangents[i]) for y, i in zip(ys, live, strict=True) if cotangents[i] is not None]
        found = tape.gradient(
            [y for y, _ in pairs],
            wrt + [e.variable.value for e in entries],
            output_gradients=[tf.convert_to_tensor(c) for _, c in pairs],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        grads = iter([tf.convert_to_tensor(f).numpy() for f in found])
        inputs = []
        for x, port in zip(xs, self.converted.inputs, strict=True):
            inputs.append(port.to_torch(next(grads)) if x.dtype.is_floating or x.dtype.is_complex else None)
        return inputs, {e.torch_name: e.to_torch(next(grads)) for e in entries}

    def state(self) -> dict[str, Any]:
        """Buffers by torch's name after the latest call."""
        return {e.torch_name: e.to_torch(e.variable.numpy()) for e in self.converted.weights if e.kind == "buffer"}


def convert(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], exported: Any = None) -> Adapter:
    """Convert one sample; errors pass through, the runner counts them."""
    training = module.training
    return Adapter(to_keras(module, args, kwargs, {}, mode="both" if training else "eval"), training)
