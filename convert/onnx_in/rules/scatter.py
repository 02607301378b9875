"""Ops that write elements at positions: a copy of x with updates."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import leaf
from ..registry import rule
from .dtypes import modular, ordered
from .moves import by_bits, from_start

_REDUCE = {"mul": "prod", "max": "amax", "min": "amin"}


@rule("Scatter", since=9)
def scatter(x: Any, index: Any, updates: Any, *, axis: int = 0) -> Any:
    return scatter_elements(x, index, updates, axis=axis)


@rule("ScatterElements", since=11)
def scatter_elements(x: Any, index: Any, updates: Any, *, axis: int = 0, reduction: str = "none") -> Any:
    """x with x[index[i, j], j] = updates[i, j] for axis 0, or joined with it by the reduction."""
    where = from_start(index, x.size(axis))
    if reduction == "none":
        return by_bits(lambda t, u: t.scatter(axis, where, u), x, updates)
    return _kernels(reduction)(lambda t, u: _reduced(t, axis, where, u, reduction))(x, updates)


@rule("ScatterND", since=11)
def scatter_nd(x: Any, index: Any, updates: Any, *, reduction: str = "none") -> Any:
    """The last dim of the index is a position in x."""
    if reduction == "none":
        return by_bits(lambda t, u: put(t, index, u), x, updates)
    return _kernels(reduction)(lambda t, u: put(t, index, u, reduction))(x, updates)


@leaf
def put(x: torch.Tensor, index: torch.Tensor, updates: torch.Tensor, reduction: str = "none") -> torch.Tensor:
    """x with the updates at the positions that the last dim of `index` holds, or joined with them."""
    places = index.unbind(-1)
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    depth = len(places)
    flat = torch.zeros_like(places[0])
    for d, place in enumerate(places):
        flat = flat * x.size(d) + from_start(place, x.size(d))
    rows = x.unsqueeze(-1).flatten(0, depth - 1).flatten(1)  # (position, element of the slice there)
    given = updates.unsqueeze(-1).flatten(0, index.dim() - 2).flatten(1) if index.dim() > 1 else updates.reshape(1, -1)
    found: torch.Tensor = _reduced(rows, 0, flat.reshape(-1, 1).expand_as(given), given, reduction)
    return found.reshape(x.shape)


def _reduced(x: Any, axis: int, where: Any, updates: Any, reduction: str) -> Any:
    if reduction == "add":
        return x.scatter_add(axis, where, updates)
    return x.scatter_reduce(axis, where, updates, _REDUCE[reduction])


def _kernels(reduction: str) -> Any:
    """Lets a reduction run in the dtypes that torch has no kernels for."""
    return modular if reduction in ("add", "mul") else ordered


@rule("TensorScatter", since=24)
def tensor_scatter(cache: Any, update: Any, first: Any = None, *, axis: int = -2, mode: str = "linear") -> Any:
    """The cache with the update written from step first[b] on; a circular one goes on at its start."""
    return by_bits(lambda c, u: write_steps(c, u, first, axis, mode == "circular"), cache, update)


@leaf
def write_steps(
    cache: torch.Tensor, update: torch.Tensor, first: torch.Tensor | None, axis: int, circular: bool
) -> torch.Tensor:
    """The cache with the update's steps along `axis` written from step first[b] of sample b on."""
    axis = axis % cache.dim()
    steps = torch.arange(update.size(axis), device=cache.device)
    if first is not None:
        steps = steps + first.unsqueeze(1)
    steps = steps % cache.size(axis) if circular else steps  # (time) or (batch, time)
    lead = [-1] if first is not None else [1]
    shape = [*lead, *[1] * (axis - 1), update.size(axis), *[1] * (cache.dim() - 1 - axis)]
    return cache.scatter(axis, steps.reshape(shape).expand_as(update), update)
