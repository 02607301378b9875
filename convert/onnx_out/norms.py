"""LayerNormalization, GroupNormalization and RMSNormalization of Keras as one ONNX op each, where the opset has it.

They compute as Keras does, in float32 at least: `stash_type` says so. What a layer leaves out is a constant in ONNX.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .markers import Marks

__all__ = ["group_normalization", "layer_normalization", "rms_normalization"]

SINCE = {"LayerNormalization": 17, "GroupNormalization": 21, "RMSNormalization": 23, "InstanceNormalization": 15}
STASH = {"float32": 1, "float64": 11}  # onnx.TensorProto's numbers


def layer_normalization(layer: Any, marks: Marks, inputs: Any) -> Any:
    """Over the last axes."""
    if layer.rms_scaling:
        return None
    y = _over_last(layer, marks, "LayerNormalization", inputs, layer.gamma, layer.beta)
    return None if y is None else ops.cast(y, layer.compute_dtype)


def rms_normalization(layer: Any, marks: Marks, x: Any) -> Any:
    """Over the last axes."""
    y = _over_last(layer, marks, "RMSNormalization", x, layer.scale, None)
    return None if y is None else ops.cast(y, x.dtype)


def _over_last(layer: Any, marks: Marks, op: str, x: Any, gamma: Any, beta: Any) -> Any:
    rank, dtype = len(x.shape), keras.backend.result_type(x.dtype, "float32")
    axes = sorted(a % rank for a in layer.axis) if rank else []
    if axes != list(range(rank - len(axes), rank)) or not axes or not _is_written(marks, op, dtype):
        return None
    marks.keep(layer, epsilon=float(layer.epsilon))
    scale = ops.ones([x.shape[a] for a in axes], dtype) if gamma is None else ops.cast(gamma, dtype)
    held = [scale] if beta is None else [scale, ops.cast(beta, dtype)]
    attributes = {"axis": -len(axes), "epsilon": float(layer.epsilon), "stash_type": STASH[dtype]}
    return marks.mark(op, [ops.cast(x, dtype), *held], [(x.shape, dtype)], attributes)[0]


def group_normalization(layer: Any, marks: Marks, inputs: Any) -> Any:
    """ONNX has the channels on axis 1; with one channel a group it is InstanceNormalization."""
    from .marked_layers import channels_first

    rank, dtype = len(inputs.shape), keras.backend.result_type(inputs.dtype, "float32")
    axis, channels = layer.axis % rank, inputs.shape[layer.axis]
    op = "InstanceNormalization" if layer.groups == channels else "GroupNormalization"
    if rank < (2 if op == "GroupNormalization" else 3) or axis == 0 or not _is_written(marks, op, dtype):
        return None
    marks.keep(layer, epsilon=float(layer.epsilon))
    gamma = ops.ones([channels], dtype) if layer.gamma is None else ops.cast(layer.gamma, dtype)
    beta = ops.zeros([channels], dtype) if layer.beta is None else ops.cast(layer.beta, dtype)
    perm = channels_first(rank, axis)
    x = ops.cast(inputs, dtype)
    moved = x if axis == 1 else ops.transpose(x, perm)
    attributes: dict[str, Any] = {"epsilon": float(layer.epsilon)}
    if op == "GroupNormalization":
        attributes |= {"num_groups": int(layer.groups), "stash_type": STASH[dtype]}
    (y,) = marks.mark(op, [moved, gamma, beta], [(moved.shape, dtype)], attributes)
    y = y if moved is x else ops.transpose(y, sorted(range(rank), key=perm.__getitem__))
    return ops.cast(y, layer.compute_dtype)


def _is_written(marks: Marks, op: str, dtype: str) -> bool:
    """Whether the opset has the op, in this dtype of computation."""
    return marks.opset >= SINCE[op] and dtype in STASH
