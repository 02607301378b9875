"""The layers that become one ONNX op each: batch normalisation, dropout and noise. norms.py has the normalisations
without running statistics, recurrent.py the recurrent layers.

A function here takes (layer, marks, *the call's arguments) and gives the layer's output, or None where this call is
none that ONNX has an op for. A layer counts as Keras' own where its `call` is the very function of Keras' class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from .markers import DOMAIN, Marks

__all__ = ["ELEMENTWISE", "marking"]

Mark = Callable[..., Any]
ELEMENTWISE = ("GaussianNoise", "GaussianDropout", "AlphaDropout")  # functions that hold in any order of the axes


def marking(layer: Any) -> Mark | None:
    """How the layer is marked; None for one that is traced as it computes."""
    from . import recurrent

    found: Mark | None = _table().get(getattr(type(layer), "call", None))
    return found or recurrent.marking(layer)


def _table() -> dict[Any, Mark]:
    from isomorph.convert import nn_layers

    from . import norms

    layers = keras.layers
    return {
        layers.LayerNormalization.call: norms.layer_normalization,
        layers.GroupNormalization.call: norms.group_normalization,
        layers.RMSNormalization.call: norms.rms_normalization,
        layers.BatchNormalization.call: batch_normalization,
        nn_layers.BatchNormalization.call: torch_batch_normalization,
        layers.Dropout.call: dropout,
        layers.SpatialDropout1D.call: spatial_dropout,
        layers.GaussianNoise.call: noise,
        layers.GaussianDropout.call: noise,
        layers.AlphaDropout.call: noise,
    }


# -------------------------------------------------------------------------------------------------------- normalisation
def batch_normalization(layer: Any, marks: Marks, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """Keras' own: the moving variance follows the population variance."""
    if training or mask is not None or layer.renorm or not isinstance(layer.axis, int):
        return None
    marks.keep(
        layer,
        momentum=float(layer.momentum),
        epsilon=float(layer.epsilon),
        variance="population",
        frozen=not layer.trainable,
    )
    dtype = keras.backend.result_type(inputs.dtype, "float32")
    return ops.cast(_normalised(layer, marks, ops.cast(inputs, dtype), dtype, layer.momentum), layer.compute_dtype)


def torch_batch_normalization(layer: Any, marks: Marks, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """isomorph's: the moving variance follows the unbiased one."""
    from isomorph.convert.nn_layers import InstanceNormalization, statistics_dtype

    if training or layer.statistics != "mode" or isinstance(layer, InstanceNormalization):
        return None
    marks.keep(
        layer,
        momentum=None if layer.cumulative else float(layer.momentum),
        epsilon=float(layer.epsilon),
        variance="unbiased",
        frozen=False,
    )
    dtype = statistics_dtype(keras.backend.standardize_dtype(inputs.dtype))
    return ops.cast(_normalised(layer, marks, ops.cast(inputs, dtype), dtype, layer.momentum), layer.compute_dtype)


def _normalised(layer: Any, marks: Marks, x: Any, dtype: str, momentum: float) -> Any:
    """ONNX has the channels on axis 1."""
    rank, axis = len(x.shape), layer.axis % len(x.shape)
    if axis == 0 or rank < 2:
        return None
    perm = channels_first(rank, axis)
    shape = layer.moving_mean.shape
    gamma = ops.ones(shape, dtype) if layer.gamma is None else ops.cast(layer.gamma, dtype)
    beta = ops.zeros(shape, dtype) if layer.beta is None else ops.cast(layer.beta, dtype)
    held = [gamma, beta, ops.cast(layer.moving_mean, dtype), ops.cast(layer.moving_variance, dtype)]
    moved = x if perm == list(range(rank)) else ops.transpose(x, perm)
    attributes = {"epsilon": float(layer.epsilon), "momentum": float(momentum), "training_mode": 0}
    (y,) = marks.mark("BatchNormalization", [moved, *held], [(moved.shape, dtype)], attributes)
    return y if moved is x else ops.transpose(y, sorted(range(rank), key=perm.__getitem__))


def channels_first(rank: int, axis: int) -> list[int]:
    """The transpose that takes `axis` to 1."""
    return [0, axis, *(i for i in range(1, rank) if i != axis)]


# ---------------------------------------------------------------------------------------------------- dropout and noise
def dropout(layer: Any, marks: Marks, inputs: Any, training: Any = None) -> Any:
    """ONNX's Dropout; with a noise shape, a function. Their other inputs are written by `finish`."""
    if training:
        return None
    if layer.noise_shape is not None:
        shape = [0 if d is None else int(d) for d in layer.noise_shape]  # 0: the input's own size
        marks.keep(layer, rate=float(layer.rate), noise_shape=shape)
        return _function(marks, "Dropout", inputs, {"rate": float(layer.rate), "noise_shape": shape, **_seed(layer)})
    return plain_dropout(layer, marks, inputs, float(layer.rate), layer.seed)


def plain_dropout(layer: Any, marks: Marks, inputs: Any, rate: float, seed: int | None = None) -> Any:
    marks.keep(layer, rate=rate)
    attributes = {"ratio": rate} if seed is None else {"ratio": rate, "seed": int(seed)}
    return marks.mark("Dropout", [inputs], [(inputs.shape, inputs.dtype)], attributes)[0]


def spatial_dropout(layer: Any, marks: Marks, inputs: Any, training: Any = None) -> Any:
    if training:
        return None
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    rank = len(inputs.shape)
    axes = list(range(2, rank)) if first else list(range(1, rank - 1))
    marks.keep(layer, rate=float(layer.rate))
    return shared_dropout(marks, inputs, float(layer.rate), axes, layer.seed)


def shared_dropout(marks: Marks, inputs: Any, rate: float, axes: list[int], seed: int | None) -> Any:
    """Dropout whose mask is the same along `axes`."""
    attributes = {"rate": rate, "axes": axes, **({} if seed is None else {"seed": int(seed)})}
    return _function(marks, "SpatialDropout", inputs, attributes)


def noise(layer: Any, marks: Marks, inputs: Any, training: Any = None) -> Any:
    if training:
        return None
    name = next(base.__name__ for base in type(layer).__mro__ if base.__name__ in ELEMENTWISE)
    amount = {"stddev": float(layer.stddev)} if name == "GaussianNoise" else {"rate": float(layer.rate)}
    shape = getattr(layer, "noise_shape", None)
    if shape is not None:
        if any(not (d is None or isinstance(d, int)) for d in shape):
            return None
        amount["noise_shape"] = [0 if d is None else int(d) for d in shape]  # type: ignore[assignment]
    marks.keep(layer, **amount)
    return _function(marks, name, inputs, {**amount, **_seed(layer)})


def _seed(layer: Any) -> dict[str, int]:
    return {} if layer.seed is None else {"seed": int(layer.seed)}


def _function(marks: Marks, name: str, inputs: Any, attributes: dict[str, Any]) -> Any:
    return marks.mark(name, [inputs], [(inputs.shape, inputs.dtype)], attributes, DOMAIN)[0]
