"""Normalisation by statistics of the input itself."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from ..operands import constant_of, dtype_of, leaf, rank_of, shape_of
from ..registry import rule

__all__ = ["last_dims"]


def last_dims(x: Any, axis: int, *weights: Any) -> list[int] | None:
    """The dims of `x` from `axis` on, if they are known numbers and all weights have exactly these (None: has them)."""
    shape = shape_of(x)
    if shape is None:
        return None
    dims = shape[axis % len(shape) :]
    if not all(isinstance(d, int) for d in dims) or any(w is not None and shape_of(w) != dims for w in weights):
        return None
    return list(dims)  # type: ignore[arg-type]


def stage_one(x: torch.Tensor, stash_type: int) -> torch.Tensor:
    """The input in the precision of a normalisation's first stage: stash_type or its own, whichever is wider."""
    wanted = {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}[stash_type]
    return x.to(torch.promote_types(x.dtype, wanted))


# ------------------------------------------------------------------------------------------------- over the last axes
@rule("LayerNormalization", since=17)
def layer_normalization(
    x: Any, scale: Any, b: Any = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, site: Any = None
) -> Any:
    if site is not None and any(site.outputs[1:]):
        parts = layer_norm_with_statistics(x, scale, b, axis, epsilon, stash_type)
        return parts[0], parts[1], parts[2]
    dims = last_dims(x, axis, scale, b)
    if dims is None or stash_type != 1:
        return layer_norm_with_statistics(x, scale, b, axis, epsilon, stash_type)[0]
    return F.layer_norm(x, dims, scale, b, epsilon)  # its sums, too, are in float32 for narrower types


@leaf
def layer_norm_with_statistics(
    x: torch.Tensor, scale: torch.Tensor, b: torch.Tensor | None, axis: int, epsilon: float, stash_type: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, mean, 1 / standard deviation), the last two in the precision of the first stage."""
    axes = tuple(range(axis % x.dim(), x.dim()))
    wide = stage_one(x, stash_type)
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    y = (centred * inverse).to(x.dtype) * scale
    return (y if b is None else y + b), mean, inverse


@rule("RMSNormalization", since=23)
def rms_normalization(x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    return rms_norm(x, scale, axis, epsilon, stash_type)


@leaf
def rms_norm(x: torch.Tensor, scale: torch.Tensor, axis: int, epsilon: float, stash_type: int) -> torch.Tensor:
    """x over its root mean square along the last axes, times scale, in the type of scale."""
    wide = stage_one(x, stash_type)
    mean = wide.square().mean(tuple(range(axis % x.dim(), x.dim())), keepdim=True)
    return (wide * torch.rsqrt(mean + epsilon)).to(scale.dtype) * scale


# ------------------------------------------------------------------------------------------- over groups of channels
@rule("GroupNormalization", since=18)
def group_normalization_of_groups(x: Any, scale: Any, b: Any, *, num_groups: int, epsilon: float = 1e-5) -> Any:
    """Scale and bias have an element for each group."""
    each = x.size(1) // num_groups
    scale, b = scale.repeat_interleave(each), b.repeat_interleave(each)
    return F.group_norm(x, num_groups, scale, b, epsilon)


@rule("GroupNormalization", since=21)
def group_normalization(
    x: Any, scale: Any, b: Any, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Any:
    stage_one(torch.zeros(()), stash_type)  # F.group_norm sums narrower types in float32; others are refused
    return F.group_norm(x, num_groups, scale, b, epsilon)


@rule("InstanceNormalization")
def instance_normalization(
    x: Any, scale: Any, b: Any, *, consumed_inputs: tuple[int, ...] | None = None, epsilon: float = 1e-5
) -> Any:
    return torch.instance_norm(x, scale, b, None, None, True, 0.0, epsilon, False)


@rule("MeanVarianceNormalization", since=9)
def mean_variance_normalization(x: Any, *, axes: tuple[int, ...] = (0, 2, 3)) -> Any:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@rule("LpNormalization")
def lp_normalization(x: Any, *, axis: int = -1, p: int = 2) -> Any:
    """Zeros stay zeros, and have a derivative."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@rule("LRN")
def lrn(x: Any, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Any:
    rank = rank_of(x)
    if size % 2 and rank is not None and rank > 2 and dtype_of(x) in (torch.float32, torch.float64):
        return F.local_response_norm(x, size, alpha, beta, bias)
    return response_norm(x, size, alpha, beta, bias)


@leaf
def response_norm(x: torch.Tensor, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """LRN of any type and size: of an even size ONNX has the greater half after the channel, torch before it."""
    before = (size - 1) // 2
    squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [before, size - 1 - before])
    return x / (bias + alpha / size * squares.unfold(1, size, 1).sum(-1)) ** beta


# ------------------------------------------------------------------------------------------------- over the batch
@rule("BatchNormalization")
def batch_normalization_1(
    x: Any,
    scale: Any,
    b: Any,
    mean: Any,
    var: Any,
    *,
    consumed_inputs: tuple[int, ...] | None = None,
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: int = 1,
    site: Any = None,
) -> Any:
    """Without is_test a node trains, if it says so by naming more outputs than one."""
    if not is_test and _declares_more(site):
        return _train(x, scale, b, mean, var, momentum, epsilon, spatial)
    return _infer(x, scale, b, mean, var, epsilon, spatial)


@rule("BatchNormalization", since=7)
def batch_normalization_7(
    x: Any,
    scale: Any,
    b: Any,
    mean: Any,
    var: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    site: Any = None,
) -> Any:
    """A node trains if it names more outputs than one."""
    if _declares_more(site):
        return _train(x, scale, b, mean, var, momentum, epsilon, spatial)
    return _infer(x, scale, b, mean, var, epsilon, spatial)


@rule("BatchNormalization", since=14)
def batch_normalization(
    x: Any,
    scale: Any,
    b: Any,
    mean: Any,
    var: Any,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    if training_mode:
        return _train(x, scale, b, mean, var, momentum, epsilon, 1)[:3]
    return _infer(x, scale, b, mean, var, epsilon, 1)


def _declares_more(site: Any) -> bool:
    return site is not None and sum(bool(v.name) for v in site.node.outputs) > 1


def _infer(x: Any, scale: Any, b: Any, mean: Any, var: Any, epsilon: float, spatial: int) -> Any:
    rank = rank_of(x)
    fixed = constant_of(mean) is not None and constant_of(var) is not None
    fixed = fixed and len({dtype_of(t) for t in (scale, b, mean, var)}) == 1
    if rank is None or rank < 2 or not spatial or not fixed:
        return batch_norm_inference(x, scale, b, mean, var, epsilon, spatial)
    return F.batch_norm(x, mean, var, scale, b, False, 0.0, epsilon)


def _train(
    x: Any, scale: Any, b: Any, mean: Any, var: Any, momentum: float, epsilon: float, spatial: int
) -> tuple[Any, ...]:
    found = batch_norm_training(x, scale, b, mean, var, momentum, epsilon, spatial)
    return tuple(found[i] for i in range(5))


def _channels_second(x: torch.Tensor, spatial: int) -> torch.Tensor:
    """The input with the axis that has the statistics second; a vector is a batch of one channel."""
    return x.reshape(x.shape[0], -1) if x.dim() < 2 or not spatial else x


@leaf
def batch_norm_inference(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    epsilon: float,
    spatial: int,
) -> torch.Tensor:
    """BatchNormalization with given statistics, of any rank; per element, not per channel, if not `spatial`. torch's
    own has no derivative for the statistics."""
    flat = _channels_second(x, spatial)
    common = reduce(torch.promote_types, (t.dtype for t in (scale, b, mean, var)))
    scale, b, mean, var = (t.reshape(-1).to(common) for t in (scale, b, mean, var))
    if not mean.requires_grad and not var.requires_grad:
        return F.batch_norm(flat, mean, var, scale, b, False, 0.0, epsilon).reshape(x.shape)
    factor = scale * torch.rsqrt(var + epsilon)
    shape = (1, -1, *[1] * (flat.dim() - 2))
    return (flat * factor.reshape(shape) + (b - mean * factor).reshape(shape)).to(x.dtype).reshape(x.shape)


@leaf
def batch_norm_training(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    momentum: float,
    epsilon: float,
    spatial: int,
) -> tuple[torch.Tensor, ...]:
    """(y, running mean, running variance, mean, variance). ONNX's momentum weighs what was; its variance is that of the
    population."""
    flat = _channels_second(x, spatial)
    axes = tuple(a for a in range(flat.dim()) if a != 1)
    wide = stage_one(flat, 1)
    found_var, found_mean = torch.var_mean(wide, axes, correction=0)
    running = [
        (old.to(new.dtype) * momentum + new.reshape(old.shape) * (1 - momentum)).to(old.dtype)
        for old, new in ((mean, found_mean), (var, found_var))
    ]
    y = torch.batch_norm(flat, scale.reshape(-1), b.reshape(-1), None, None, True, 0.0, epsilon, False)
    return (
        y.reshape(x.shape),
        *running,
        found_mean.reshape(mean.shape).to(mean.dtype),
        found_var.reshape(var.shape).to(var.dtype),
    )
