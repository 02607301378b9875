"""Ops of Keras that its TensorFlow backend spells out, or that ONNX would forget: while traced they are one op each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from .markers import DOMAIN, Marks

__all__ = ["plain_ops"]


@contextlib.contextmanager
def plain_ops(marks: Marks) -> Iterator[None]:
    """While open: `take` by indices that may be negative is a Gather, a matrix product with a 2-d kernel a MatMul of
    any rank, and `stop_gradient` a function of our domain."""
    from keras.src.backend.tensorflow import core
    from keras.src.backend.tensorflow import numpy as backend

    before = {name: getattr(backend, name) for name in ("take", "matmul")}
    stop = core.stop_gradient
    backend.take, backend.matmul = _take(before["take"], marks), _matmul(before["matmul"])
    core.stop_gradient = _stop_gradient(stop, marks)
    try:
        yield
    finally:
        core.stop_gradient = stop
        for name, own in before.items():
            setattr(backend, name, own)


def _stop_gradient(own: Callable[..., Any], marks: Marks) -> Callable[..., Any]:
    """ONNX has no such op: it would be gone from the file, and the gradients of the torch module other ones."""

    def stop_gradient(x: Any) -> Any:
        if not _floating(x):
            return own(x)
        x = tf.convert_to_tensor(x)
        if x.shape.rank is None or tf.get_static_value(x) is not None or not tf.is_symbolic_tensor(x):
            return own(x)
        return marks.mark("StopGradient", [x], [(x.shape, x.dtype)], {}, DOMAIN)[0]

    return stop_gradient


def _take(own: Callable[..., Any], marks: Marks) -> Callable[..., Any]:
    """TensorFlow's gather takes no negative indices, so Keras moves them; ONNX's takes them."""

    def take(x: Any, indices: Any, axis: int | None = None) -> Any:
        if not _floating(x) or axis is None or not tf.is_symbolic_tensor(indices) or not _dense(indices):
            return own(x, indices, axis)
        x = tf.convert_to_tensor(x)
        if tf.get_static_value(indices) is not None or x.shape.rank is None or indices.shape.rank is None:
            return own(x, indices, axis)
        if keras.backend.standardize_dtype(indices.dtype) not in ("int32", "int64"):
            indices = tf.cast(indices, "int32")
        axis %= x.shape.rank
        shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
        return marks.mark("Gather", [x, indices], [(shape, x.dtype)], {"axis": axis})[0]

    return take


def _matmul(own: Callable[..., Any]) -> Callable[..., Any]:
    """Keras flattens the batch around a 2-d product."""

    def matmul(x1: Any, x2: Any) -> Any:
        if not (_floating(x1) and _floating(x2)):
            return own(x1, x2)
        x1, x2 = tf.convert_to_tensor(x1), tf.convert_to_tensor(x2)
        if x1.shape.rank is None or x1.shape.rank < 3 or x2.shape.rank != 2:
            return own(x1, x2)
        dtype = keras.backend.result_type(x1.dtype, x2.dtype)
        return tf.linalg.matmul(tf.cast(x1, dtype), tf.cast(x2, dtype))

    return matmul


def _dense(x: Any) -> bool:
    return not isinstance(x, tf.SparseTensor | tf.RaggedTensor)


def _floating(x: Any) -> bool:
    return hasattr(x, "dtype") and _dense(x) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
