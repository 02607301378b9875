"""What of Keras cannot be traced with unknown sizes, or comes out wrong, replaced while a model is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["traceable"]


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """While open: images resize to sizes that are tensors (UpSampling2D of None dims), TimeDistributed runs over an
    unknown number of steps (Keras' own graph mixes them up with the batch), look-up tables of integers become
    constants, grouped and channels-first convolutions are plain ops, not compiled with XLA, and a scan is a loop over
    tensors."""
    import keras.src.backend.tensorflow.core as core
    import keras.src.backend.tensorflow.nn as nn
    import keras.src.ops.image as image
    import tensorflow as tf
    from keras import layers

    changes: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (image, "resize", _resize),
        (layers.TimeDistributed, "call", _time_distributed),
        (tf.lookup.StaticHashTable, "lookup", _lookup),
        (nn, "conv", _conv),
        (core, "scan", _scan),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, change in changes:
            setattr(owner, name, change(getattr(owner, name)))
        yield
    finally:
        for owner, name, own in before:
            setattr(owner, name, own)


def _resize(own: Any) -> Any:
    """keras.ops.image.resize asks whether the new sizes are positive, which a tensor cannot say while tracing."""
    import tensorflow as tf
    from keras.src import backend

    def resize(images: Any, size: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(size, list | tuple) and any(tf.is_symbolic_tensor(s) for s in size):
            return backend.image.resize(images, size, *args, **kwargs)
        return own(images, size, *args, **kwargs)

    return resize


def _time_distributed(own: Any) -> Any:
    """In inference a layer treats each example alone: the steps join the batch."""
    from keras import ops

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if inputs.shape[1] is not None or training or (mask is not None and self.layer._call_has_mask_arg):
            return own(self, inputs, training=training, mask=mask)
        batch, steps = ops.shape(inputs)[:2]
        kwargs = {"training": training} if self.layer._call_has_training_arg else {}
        y = self.layer.call(ops.reshape(inputs, (-1, *ops.shape(inputs)[2:])), **kwargs)
        return ops.reshape(y, (batch, steps, *ops.shape(y)[1:]))

    return call


def _scan(own: Any) -> Any:
    """Keras has the carry in an array of tensors, and counts down where it goes backwards: no Loop of ONNX does."""
    import tensorflow as tf
    from keras import tree

    def scan(f: Any, init: Any, xs: Any = None, length: Any = None, reverse: bool = False, unroll: Any = 1) -> Any:
        if not tree.flatten(xs) or xs is None:
            return own(f, init, xs, length, reverse, unroll)

        def turned(values: Any) -> list[Any]:
            return [tf.reverse(x, [0]) if reverse else x for x in map(tf.convert_to_tensor, values)]

        flat, first = turned(tree.flatten(xs)), [tf.convert_to_tensor(c) for c in tree.flatten(init)]
        n = tf.shape(flat[0])[0] if length is None else int(length)
        arrays = [tf.TensorArray(c.dtype, n, element_shape=c.shape) for c in first]

        def step(i: Any, carry: Any, arrays: Any) -> Any:
            now = tree.pack_sequence_as(xs, [tf.gather(x, i) for x in flat])
            carry, made = f(tree.pack_sequence_as(init, carry), now)
            if made is not None:
                arrays = [a.write(i, y) for a, y in zip(arrays, tree.flatten(made), strict=True)]
            return i + 1, tree.flatten(carry), arrays

        _, last, arrays = tf.while_loop(lambda i, *_: i < n, step, (0, first, arrays))
        made = turned(a.stack() for a in arrays)
        return tree.pack_sequence_as(init, last), tree.pack_sequence_as(init, made)

    return scan


def _lookup(own: Any) -> Any:
    """An integer equal to the i-th key is the i-th value."""
    import tensorflow as tf

    def lookup(self: Any, keys: Any, name: Any = None) -> Any:
        if not isinstance(keys, tf.Tensor) or not keys.dtype.is_integer or not self.value_dtype.is_integer:
            return own(self, keys, name)
        with tf.init_scope():
            known, values = (v.numpy() for v in self.export())
            default = self.default_value.numpy()
        found = tf.equal(tf.expand_dims(keys, -1), tf.constant(known, keys.dtype))
        value = tf.gather(tf.constant(values, self.value_dtype), tf.argmax(tf.cast(found, tf.int32), axis=-1))
        return tf.where(tf.reduce_any(found, axis=-1), value, tf.constant(default, self.value_dtype))

    return lookup


def _conv(own: Any) -> Any:
    """Keras compiles what TensorFlow's CPU kernels lack, which hides the op in a function."""
    import tensorflow as tf
    from keras.src import backend
    from keras.src.backend.tensorflow.nn import _convert_data_format

    def conv(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: Any = None,
        dilation_rate: Any = 1,
    ) -> Any:
        order = _convert_data_format(backend.standardize_data_format(data_format), len(inputs.shape))
        return tf.nn.convolution(inputs, kernel, strides, padding.upper(), data_format=order, dilations=dilation_rate)

    return conv
