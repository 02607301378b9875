"""Rules: normalisation. float64 stays float64, half precision is computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from .. import nn_layers
from ..builder import Dynamic
from ..capture import CUMULATIVE
from ..ir import ByMode
from ..nn_layers import moments, scaled, statistics_dtype
from ..passes.absorb_batch_counters import ABSORBED, POPULATION
from .registry import MAPPED, SPATIAL, layer_form, rule


def wide(k: Any, *xs: Any) -> list[Any]:
    """The operands in the dtype that statistics are computed in."""
    dtype = statistics_dtype(k.dtype(xs[0]))
    return [None if x is None else k.cast(x, dtype) for x in xs]


# ------------------------------------------------------------------------------------------------------- batch norm
def over_batch(x: Any) -> tuple[Any, Any]:
    """Mean and biased variance of every channel of (N, *spatial, C)."""
    return moments(x, range(len(x.shape) - 1))


@rule("aten.batch_norm.default", layout=SPATIAL, modal=("training",))
def batch_norm(
    k: Any,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: Any,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Any:
    if isinstance(training, ByMode):
        raise Dynamic("the mode is only known at call time")
    x, weight, bias, mean, var = wide(k, x, weight, bias, running_mean, running_var)
    if training or mean is None:
        mean, var = over_batch(x)
    return scaled(x, mean, var, weight, bias, eps)


STATISTICS = {(True, True): "batch", (False, False): "moving", (True, False): "mode"}


def in_modes(flag: Any) -> tuple[bool, bool]:
    """The flag's value in train and in eval mode."""
    return (bool(flag.train), bool(flag.eval)) if isinstance(flag, ByMode) else (bool(flag), bool(flag))


@layer_form("aten.batch_norm.default", params=("weight", "bias", "running_mean", "running_var"))
def batch_norm_layer(
    k: Any,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: Any,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Any:
    mode = STATISTICS.get(in_modes(training))
    if mode is None or (running_mean is None) != (running_var is None):
        return None
    config: dict[str, Any] = {"axis": -1, "epsilon": eps, "scale": weight is not None, "center": bias is not None}
    config["momentum"] = None if momentum == CUMULATIVE else 1.0 - momentum
    weights = {"gamma": weight, "beta": bias, "moving_mean": running_mean, "moving_variance": running_var}
    population = POPULATION in k.node.origin.passes
    affine = [w for w in (weight, bias) if w is not None]
    if running_mean is not None and config["momentum"] is not None and mode != "batch":
        follows = mode == "mode" and (k.batchnorm == "keras" or (population and (not affine or k.trains(*affine))))
        frozen = mode == "moving" and population and not k.trains(*affine)
        if follows or frozen:  # Keras' own, frozen, keeps to its statistics in train mode
            config |= {"trainable": False} if frozen else {}
            return k.layer(keras.layers.BatchNormalization, x, weights=weights, **config)
    if ABSORBED in k.node.origin.passes or mode == "moving" or config["momentum"] is None:
        weights["num_batches_tracked"] = k.sibling(running_mean, "num_batches_tracked")
    config |= {"tracked": running_mean is not None, "statistics": mode, "unbiased": not population}
    return k.layer(nn_layers.BatchNormalization, x, weights=weights, **config)


def with_statistics(
    k: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: Any, eps: float
) -> tuple[Any, Any, Any]:
    """(normalised, saved mean, saved 1/sqrt(var + eps)); in eval mode nothing is saved."""
    if isinstance(training, ByMode):
        raise Dynamic("the mode is only known at call time")
    x, weight, bias, mean, var = wide(k, x, weight, bias, mean, var)
    if training or mean is None:
        mean, var = over_batch(x)
        return scaled(x, mean, var, weight, bias, eps), mean, ops.rsqrt(var + eps)
    return scaled(x, mean, var, weight, bias, eps), mean[:0], var[:0]


@rule("aten.native_batch_norm.default", layout=SPATIAL, modal=("training",))
def native_batch_norm(
    k: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: Any, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    return with_statistics(k, x, weight, bias, mean, var, training, eps)


@rule("aten._native_batch_norm_legit.no_stats", layout=SPATIAL, modal=("training",))
def native_batch_norm_no_stats(
    k: Any, x: Any, weight: Any, bias: Any, training: Any, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    return with_statistics(k, x, weight, bias, None, None, True, eps)


@rule("aten._native_batch_norm_legit_no_training.default", layout=SPATIAL)
def native_batch_norm_no_training(
    k: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> tuple[Any, Any, Any]:
    return with_statistics(k, x, weight, bias, mean, var, False, eps)


# ------------------------------------------------------------------------------------------------------- layer norm
def trailing(k: Any, x: Any, count: int) -> tuple[list[int], tuple[int, ...]]:
    """The positions of torch's last `count` axes, sorted, and the order that takes a torch array over them there."""
    rank = k.rank(x)
    positions = [k.axis(d, rank) for d in range(rank - count, rank)]
    return sorted(positions), tuple(sorted(range(count), key=positions.__getitem__))


def spread(k: Any, w: Any, x: Any, positions: Sequence[int], order: Sequence[int]) -> Any:
    """A parameter over the normalised axes, made to broadcast with `x`."""
    if (
        w is None
        or k.rank(w) == k.rank(x)
        or (positions == list(range(k.rank(x) - len(positions), k.rank(x))) and list(order) == sorted(order))
    ):
        return w
    sizes = [w.shape[a] for a in order]
    shape = [sizes[positions.index(p)] if p in positions else 1 for p in range(k.rank(x))]
    return ops.reshape(ops.transpose(w, order), shape)


def normalise(k: Any, x: Any, shape: Sequence[Any], weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """(normalised, mean, 1/sqrt(var + eps)) over torch's last axes, axes kept."""
    positions, order = trailing(k, x, len(shape))
    weight, bias = (spread(k, w, x, positions, order) for w in (weight, bias))
    mean, var = moments(x, positions, keepdims=True)
    return scaled(x, mean, var, weight, bias, eps), mean, ops.rsqrt(var + eps)


@rule("aten.layer_norm.default", layout=MAPPED)
def layer_norm(k: Any, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float, cudnn_enable: bool) -> Any:
    x, weight, bias = wide(k, x, weight, bias)
    return normalise(k, x, normalized_shape, weight, bias, eps)[0]


@rule("aten.native_layer_norm.default", layout=MAPPED)
def native_layer_norm(
    k: Any, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float
) -> tuple[Any, Any, Any]:
    x, weight, bias = wide(k, x, weight, bias)
    return normalise(k, x, normalized_shape, weight, bias, eps)


@layer_form("aten.layer_norm.default", params=("weight", "bias"))
def layer_norm_layer(
    k: Any, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float, cudnn_enable: bool
) -> Any:
    positions, order = trailing(k, x, len(normalized_shape))
    if any(not isinstance(s, int) for s in normalized_shape):
        return None
    weights = {name: None if w is None else w.transposed(*order) for name, w in (("gamma", weight), ("beta", bias))}
    axis = -1 if positions == [k.rank(x) - 1] else positions
    config = {"axis": axis, "epsilon": eps, "scale": weight is not None, "center": bias is not None}
    return k.layer(keras.layers.LayerNormalization, x, weights=weights, **config)


def root_mean_square(k: Any, x: Any, shape: Sequence[Any], weight: Any, eps: float | None) -> tuple[Any, Any]:
    """(x / rms * weight, 1 / rms): torch takes the eps of the dtype it computes in where none is given."""
    dtype = k.dtype(x)
    positions, order = trailing(k, x, len(shape))
    x, weight = wide(k, x, weight)
    weight = spread(k, weight, x, positions, order)
    eps = float(np.finfo(statistics_dtype(dtype)).eps) if eps is None else eps
    inverse = ops.rsqrt(ops.mean(ops.square(x), axis=tuple(positions), keepdims=True) + eps)
    y = x * inverse
    return y if weight is None else y * weight, inverse


@rule("aten.rms_norm.default", layout=MAPPED)
def rms_norm(k: Any, x: Any, normalized_shape: Any, weight: Any, eps: float | None) -> Any:
    return root_mean_square(k, x, normalized_shape, weight, eps)[0]


@rule("aten._fused_rms_norm.default", layout=MAPPED)
def fused_rms_norm(k: Any, x: Any, normalized_shape: Any, weight: Any, eps: float | None) -> tuple[Any, Any]:
    return root_mean_square(k, x, normalized_shape, weight, eps)


# ------------------------------------------------------------------------------------------- group and instance norm
def per_group(x: Any, groups: int) -> tuple[Any, Any]:
    """Mean and biased variance of each group of channels of each sample, spread over (N, 1.., C)."""
    channels, spatial = x.shape[-1], tuple(range(1, len(x.shape) - 1))

    def spread_mean(y: Any) -> Any:
        each = ops.mean(y, axis=spatial) if spatial else y
        if groups == channels:
            mean = each
        else:
            mean = ops.mean(ops.reshape(each, (-1, groups, channels // groups)), axis=-1)
            mean = ops.repeat(mean, channels // groups, axis=-1)
        return ops.expand_dims(mean, spatial) if spatial else mean

    mean = spread_mean(x)
    return mean, spread_mean(ops.square(x - mean))


@rule("aten.group_norm.default", layout=SPATIAL)
def group_norm(k: Any, x: Any, groups: int, weight: Any, bias: Any, eps: float, cudnn_enabled: bool) -> Any:
    x, weight, bias = wide(k, x, weight, bias)
    return scaled(x, *per_group(x, groups), weight, bias, eps)


@rule("aten.native_group_norm.default", layout=SPATIAL)
def native_group_norm(
    k: Any, x: Any, weight: Any, bias: Any, n: Any, c: Any, hxw: Any, groups: int, eps: float
) -> tuple[Any, Any, Any]:
    x, weight, bias = wide(k, x, weight, bias)
    mean, var = per_group(x, groups)
    step = x.shape[-1] // groups
    spatial = tuple(range(1, len(x.shape) - 1))
    small_mean, small_var = (ops.squeeze(v, spatial)[:, ::step] if spatial else v[:, ::step] for v in (mean, var))
    return scaled(x, mean, var, weight, bias, eps), small_mean, ops.rsqrt(small_var + eps)


@layer_form("aten.group_norm.default", params=("weight", "bias"))
def group_norm_layer(k: Any, x: Any, groups: int, weight: Any, bias: Any, eps: float, cudnn_enabled: bool) -> Any:
    if len(x.shape) < 3:
        return None
    config = {"groups": groups, "axis": -1, "epsilon": eps, "scale": weight is not None, "center": bias is not None}
    return k.layer(keras.layers.GroupNormalization, x, weights={"gamma": weight, "beta": bias}, **config)


@rule("aten.instance_norm.default", layout=SPATIAL, modal=("use_input_stats",))
def instance_norm(
    k: Any,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: Any,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Any:
    if isinstance(use_input_stats, ByMode):
        raise Dynamic("the mode is only known at call time")
    x, weight, bias, mean, var = wide(k, x, weight, bias, running_mean, running_var)
    if use_input_stats or mean is None:
        mean, var = per_group(x, x.shape[-1])
    return scaled(x, mean, var, weight, bias, eps)


@layer_form("aten.instance_norm.default", params=("weight", "bias", "running_mean", "running_var"))
def instance_norm_layer(
    k: Any,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: Any,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Any:
    if len(x.shape) < 3 or (running_mean is None) != (running_var is None):
        return None
    if running_mean is not None:
        mode = STATISTICS.get(in_modes(use_input_stats))
        weights = {"gamma": weight, "beta": bias, "moving_mean": running_mean, "moving_variance": running_var}
        weights["num_batches_tracked"] = k.sibling(running_mean, "num_batches_tracked")
        config = {"epsilon": eps, "scale": weight is not None, "center": bias is not None, "momentum": 1.0 - momentum}
        return mode and k.layer(nn_layers.InstanceNormalization, x, weights=weights, statistics=mode, **config)
    config = {"groups": -1, "axis": -1, "epsilon": eps, "scale": weight is not None, "center": bias is not None}
    return k.layer(keras.layers.GroupNormalization, x, weights={"gamma": weight, "beta": bias}, **config)
