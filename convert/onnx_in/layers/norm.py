"""BatchNormalization, LayerNormalization, GroupNormalization, InstanceNormalization and RMSNormalization: torch's
layers of those names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from .. import torch_layers
from ..written import shortest
from . import layer
from .match import Call, Match

UNBIASED = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d, 5: torch.nn.BatchNorm3d}
POPULATION = {
    2: torch_layers.BatchNorm1d,
    3: torch_layers.BatchNorm1d,
    4: torch_layers.BatchNorm2d,
    5: torch_layers.BatchNorm3d,
}
INSTANCE = {3: torch.nn.InstanceNorm1d, 4: torch.nn.InstanceNorm2d, 5: torch.nn.InstanceNorm3d}
State = tuple[dict[str, Any], dict[str, Any]]  # held by initializers, and constant


@layer("BatchNormalization")
def batch_norm(m: Match) -> Call | None:
    """The inference form, which in train mode does what the layer it came from does."""
    shape, mean, variance = m.shape(0), m.weight(3), m.weight(4)
    trains = m.attribute("training_mode", 0) or any(m.is_used(i) for i in range(1, 5))
    old = m.attribute("spatial", 1) != 1 or m.attribute("is_test", 1) != 1
    if shape is None or len(shape) not in UNBIASED or trains or old or mean is None or variance is None:
        return None
    affine = _affine(m, mean.shape)
    if affine is None or len(mean.shape) != 1:
        return None
    weights, fixed = affine
    stated = m.number("momentum")
    options: dict[str, Any] = {
        "num_features": mean.shape[0],
        "eps": _epsilon(m),
        "momentum": shortest(1 - shortest(m.attribute("momentum", 0.9) if stated is None else stated)),
        "affine": bool(weights or fixed),
    }
    kind: Callable[..., Any] = (
        UNBIASED[len(shape)] if m.layer_data.get("variance") == "unbiased" else POPULATION[len(shape)]
    )
    if "momentum" in m.layer_data and stated is None:
        options["momentum"] = None  # the mean of all batches
    if m.layer_data.get("frozen") or (m.origin.source and not m.layer_data):  # not marked: it does not follow the mode
        kind = torch_layers.FrozenBatchNorm
    return _norm(m, kind, options, (weights | {"running_mean": mean, "running_var": variance}, fixed))


@layer("LayerNormalization")
def layer_norm(m: Match) -> Call | None:
    """Over as many last axes as the scale has."""
    if m.is_used(1) or m.is_used(2) or not _computed_as_torch(m):
        return None
    return _over_last(m, torch.nn.LayerNorm, 1e-5, with_bias=True)


@layer("RMSNormalization")
def rms_norm(m: Match) -> Call | None:
    """Likewise."""
    return _over_last(m, torch.nn.RMSNorm, 1e-5, with_bias=False) if _computed_as_torch(m) else None


@layer("GroupNormalization")
def group_norm(m: Match) -> Call | None:
    """Scale and shift of each channel (before version 21 they are of each group)."""
    over = _scale_shape(m)
    state = None if m.version < 21 else _affine(m, over)
    if over is None or state is None or len(over) != 1 or not _computed_as_torch(m):
        return None
    options = {"num_groups": m.attribute("num_groups"), "num_channels": over[0], "eps": _epsilon(m)}
    return _norm(m, torch.nn.GroupNorm, options | {"affine": _has_any(state)}, state)


@layer("InstanceNormalization")
def instance_norm(m: Match) -> Call | None:
    over, shape = _scale_shape(m), m.shape(0)
    state = _affine(m, over)
    if over is None or state is None or shape is None or len(shape) not in INSTANCE or len(over) != 1:
        return None
    options = {"num_features": over[0], "eps": _epsilon(m), "affine": _has_any(state)}
    return _norm(m, INSTANCE[len(shape)], options, state)


def _over_last(m: Match, kind: Callable[..., Any], epsilon: float, with_bias: bool) -> Call | None:
    over, shape = _scale_shape(m), m.shape(0)
    if over is None or shape is None:
        return None
    axis = m.attribute("axis", -1)
    if (axis - len(shape) if axis >= 0 else axis) != -len(over) or shape[axis:] != over:
        return None
    options: dict[str, Any] = {"normalized_shape": over, "eps": _epsilon(m, epsilon)}
    has_bias = m.has(2)
    state = _affine(m, over, has_bias)
    if state is None:
        return None
    if with_bias and not has_bias and _has_any(state):
        options["bias"] = False
    return _norm(m, kind, options | {"elementwise_affine": _has_any(state)}, state)


def _norm(m: Match, kind: Callable[..., Any], options: dict[str, Any], state: State) -> Call:
    inputs, outputs = [m.node.inputs[0]], [m.node.outputs[0]]
    return Call("norm", kind, options, state[0], inputs, outputs, [m.node], state[1])


def _epsilon(m: Match, default: float = 1e-5) -> float:
    stated = m.number("epsilon")
    return shortest(m.attribute("epsilon", default)) if stated is None else stated


def _scale_shape(m: Match) -> tuple[int, ...] | None:
    found = m.weight(1)
    if found is not None:
        return found.shape
    constant = m.constant(1)
    return None if constant is None else constant.shape


def _computed_as_torch(m: Match) -> bool:
    """Whether the op computes in the dtype that torch would: float64 in itself, all others in float32."""
    value = m.input(0)
    return m.attribute("stash_type", 1) == 1 or (value is not None and value.dtype == ir.DataType.DOUBLE)


def _has_any(state: State) -> bool:
    return bool(state[0] or state[1])


def _affine(m: Match, shape: tuple[int, ...] | None, has_bias: bool = True) -> State | None:
    """Scale and shift; both without anything where they do nothing."""
    weights, fixed = {}, {}
    for name, i in (("weight", 1), ("bias", 2))[: 2 if has_bias else 1]:
        held, constant = m.weight(i), m.constant(i)
        if held is not None and held.shape == shape:
            weights[name] = held
        elif constant is not None and constant.shape == shape:
            fixed[name] = constant
        else:
            return None
    if not weights and np.all(fixed["weight"] == 1) and np.all(fixed.get("bias", 0) == 0):
        fixed = {}
    return weights, fixed
