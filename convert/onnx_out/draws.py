"""Random numbers in the graph: ONNX's own random ops in the place of TensorFlow's stateless ones.

ONNX has no seed that a tensor could set: the distribution stays, the numbers differ from Keras', and the variable that
holds Keras' seed is in the file, unread.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from .handlers.call import Call, Value, handler

__all__ = ["DRAWS", "categorical", "uniform", "uniform_integers"]

DRAWS = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


@handler("StatelessRandomUniformV2", "StatelessRandomNormalV2")
def uniform(call: Call, shape: Value, key: Value, counter: Value, algorithm: Value) -> Value:
    """In [0, 1), or of mean 0 and deviation 1."""
    kind = "RandomUniformLike" if "Uniform" in call.node.type else "RandomNormalLike"
    return _drawn(call, kind, shape).cast(call.output_dtype())


@handler("StatelessRandomUniformIntV2")
def uniform_integers(
    call: Call, shape: Value, key: Value, counter: Value, algorithm: Value, low: Value, high: Value
) -> Value:
    """In [low, high); up to 2**24 different ones."""
    drawn = _drawn(call, "RandomUniformLike", shape) * (high - low).cast("float32")
    dtype = call.output_dtype()
    return call.op("Min", call.op("Floor", drawn).cast(dtype) + low, high - call.const(1, dtype))


@handler("StatelessMultinomial")
def categorical(call: Call, logits: Value, count: Value, seed: Value) -> Value:
    """Indices drawn by unnormalised log-probabilities (batch, classes)."""
    if count.array is None:
        raise ValueError("how many to draw is not known while converting")
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype("int32"))
    return call.op("Multinomial", logits, sample_size=int(count.array), dtype=dtype).cast(call.output_dtype())


def _drawn(call: Call, kind: str, shape: Value) -> Value:
    """float32 of this shape."""
    zero = helper.make_tensor("value", 1, [1], [0.0])
    blank = call.op("ConstantOfShape", Value(call, shape.cast("int64").name), value=zero)
    return call.op(kind, Value(call, blank.name), dtype=1)
