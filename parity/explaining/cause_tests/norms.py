"""Normalisation: epsilon, its place, which statistics, biased or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from isomorph.parity.explaining.cause_tests.base import Again, alternative

EPSILONS = (1e-3, 1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-4, 1e-2, 1e-10)
BATCH = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
INSTANCE = ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
FUNCTIONS = {"layer_norm": 4, "group_norm": 4, "batch_norm": 7, "instance_norm": 7, "rms_norm": 3, "normalize": 3}


@alternative(*BATCH, *INSTANCE, "LayerNorm", "GroupNorm", "RMSNorm")
def module_epsilon(again: Again) -> Iterator[tuple[str, Any]]:
    honest = again.module.eps
    if honest is None:
        honest = torch.finfo(again.x.dtype).eps
    found = again.solve(lambda eps: again.having(eps=eps), EPSILONS, honest)
    if found is not None:
        yield f"epsilon is {found[0]:.4g}, not {honest:.4g}", found[1]


@alternative(*FUNCTIONS)
def function_epsilon(again: Again) -> Iterator[tuple[str, Any]]:
    name = again.live.function.__name__
    default = 1e-12 if name == "normalize" else 1e-5
    place = FUNCTIONS[name]
    honest = again.argument("eps", place, default) or torch.finfo(again.x.dtype).eps
    found = again.solve(lambda eps: again.given("eps", place, eps), EPSILONS, honest)
    if found is not None:
        yield f"epsilon is {found[0]:.4g}, not {honest:.4g}", found[1]


@alternative(*BATCH)
def batch_norm(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    axes = [a for a in range(x.ndim) if a != 1]
    batch = x.mean(axes), x.var(axes, unbiased=False)
    running = module.running_mean, module.running_var
    for text, (mean, variance) in (("batch", batch), ("running", running)):
        if mean is not None and (text == "batch") != module.training:
            yield f"normalised with {text} statistics", _normalised(again, mean, variance, "inside")
    mean, variance = batch if module.training or running[0] is None else running
    yield from _places(again, mean, variance)
    if module.training:
        yield "normalised with the unbiased variance", _normalised(again, mean, x.var(axes, unbiased=True), "inside")
    if running[1] is not None:
        yield (
            "normalised with the standard deviation where the variance is meant",
            _normalised(again, mean, variance.sqrt(), "inside"),
        )
    yield from _affine(again, mean, variance)


def _affine(again: Again, mean: Any, variance: Any) -> Iterator[tuple[str, Any]]:
    module = again.module
    if module.weight is not None:
        plain = _normalised(again, mean, variance, "inside", affine=False)
        shape = (1, -1, *[1] * (again.x.ndim - 2))
        yield "the scale (weight) is not applied", plain + module.bias.view(shape)
        yield "the shift (bias) is not applied", plain * module.weight.view(shape)
        yield "weight and bias are not applied", plain
        yield "weight and bias are exchanged", plain * module.bias.view(shape) + module.weight.view(shape)


def _places(again: Again, mean: Any, variance: Any) -> Iterator[tuple[str, Any]]:
    yield "epsilon is added outside the root", _normalised(again, mean, variance, "outside")
    yield "epsilon is missing", _normalised(again, mean, variance, "none")
    yield "the variance is bounded below by epsilon, not increased by it", _normalised(again, mean, variance, "max")


def _normalised(again: Again, mean: Any, variance: Any, place: str, affine: bool = True) -> Any:
    module, x = again.module, again.x
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, variance = mean.detach().view(shape), variance.detach().view(shape)
    y = (x - mean) / _root(variance, module.eps, place)
    if affine and module.weight is not None:
        y = y * module.weight.detach().view(shape) + module.bias.detach().view(shape)
    return y


def _root(variance: Any, eps: float, place: str) -> Any:
    if place == "outside":
        return variance.sqrt() + eps
    if place == "max":
        return variance.clamp_min(eps).sqrt()
    return (variance + (eps if place == "inside" else 0.0)).sqrt()


@alternative("LayerNorm", "RMSNorm")
def layer_norm(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    axes = list(range(-len(module.normalized_shape), 0))
    centred = type(module).__name__ == "LayerNorm"
    mean = x.mean(axes, keepdim=True)
    weight = 1.0 if module.weight is None else module.weight.detach()
    bias = getattr(module, "bias", None)
    shift = 0.0 if bias is None else bias.detach()
    eps = module.eps if module.eps is not None else torch.finfo(x.dtype).eps

    def made(variance: Any, place: str, minus: Any, w: Any = weight, b: Any = shift) -> Any:
        return (x - minus) / _root(variance, eps, place) * w + b

    about_mean, about_zero = x.var(axes, unbiased=False, keepdim=True), (x * x).mean(axes, keepdim=True)
    honest, minus = (about_mean, mean) if centred else (about_zero, 0.0)
    yield "epsilon is added outside the root", made(honest, "outside", minus)
    yield "epsilon is missing", made(honest, "none", minus)
    yield "the unbiased variance", made(x.var(axes, unbiased=True, keepdim=True), "inside", minus)
    yield "the mean is not subtracted", made(about_zero, "inside", 0.0)
    yield "the mean is subtracted", made(about_mean, "inside", mean)
    yield "the scale (weight) is not applied", made(honest, "inside", minus, w=1.0)
    yield "the scale is 1 + weight", made(honest, "inside", minus, w=1.0 + weight)
    yield "the shift (bias) is not applied", made(honest, "inside", minus, b=0.0)
    for axis in range(1, x.ndim - len(axes)):
        variance = x.var([axis], unbiased=False, keepdim=True)
        yield f"normalised over axis {axis}", made(variance, "inside", x.mean([axis], keepdim=True))


@alternative("GroupNorm")
def group_norm(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    channels = x.shape[1]
    for groups in range(1, channels + 1):
        if channels % groups == 0 and groups != module.num_groups:
            yield f"{groups} groups, not {module.num_groups}", again.having(num_groups=groups)
    shape = (1, -1, *[1] * (x.ndim - 2))
    order = torch.arange(channels).view(module.num_groups, -1).t().reshape(-1)
    mixed = torch.nn.functional.group_norm(x[:, order], module.num_groups, None, None, module.eps)
    back = torch.empty_like(mixed)
    back[:, order] = mixed
    if module.weight is not None:
        back = back * module.weight.detach().view(shape) + module.bias.detach().view(shape)
    yield "channels are grouped with a stride, not in a row", back


@alternative("normalize")
def normalise_function(again: Again) -> Iterator[tuple[str, Any]]:
    x = again.x
    p, dim, eps = again.argument("p", 1, 2.0), again.argument("dim", 2, 1), again.argument("eps", 3, 1e-12)
    norm = x.norm(p, dim, keepdim=True)
    yield "epsilon is added to the norm, not a bound below", x / (norm + eps)
    yield "epsilon is added inside the root", x / ((x * x).sum(dim, keepdim=True) + eps).sqrt()
    yield from _other_axes(again, x.ndim, dim)
    for other in (1.0, 2.0, float("inf")):
        if other != p:
            yield f"the {other:g} norm, not the {p:g} norm", again.given("p", 1, other)


def _other_axes(again: Again, rank: int, dim: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(dim, int):
        for axis in range(rank):
            if axis != dim % rank:
                yield f"along axis {axis}, not {dim % rank}", again.given("dim", 2, axis)
