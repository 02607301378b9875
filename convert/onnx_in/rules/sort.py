"""Ops that order elements."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import ints, leaf
from ..registry import rule


@rule("TopK", since=1)
def top_k_1(x: Any, *, k: int, axis: int = -1) -> Any:
    found = largest_first(x, k, axis, True)
    return found[0], found[1]


@rule("TopK", since=10)
def top_k(x: Any, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    """Sorted also where that is not asked for; of equal elements the first one comes first."""
    count = ints(k)[0]
    found = largest_first(x, count, axis, bool(largest))
    return found[0], found[1]


@leaf
def largest_first(x: torch.Tensor, k: int, axis: int, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest (or smallest) elements along an axis in order, and where they stand; the first one of equals."""
    values, index = x.sort(dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), index.narrow(axis, 0, k)


@rule("Unique", since=11)
def unique(x: Any, *, axis: int | None = None, sorted: int = 1) -> Any:
    found = distinct(x, axis, bool(sorted))
    return found[0], found[1], found[2], found[3]


@leaf
def distinct(
    x: torch.Tensor, axis: int | None, ascending: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The different elements (slices along an axis), where each stands first, the number of its value for each element,
    and how many there are of each; in ascending order or in that of their first places."""
    if axis is None:
        x = x.reshape(-1)
    along = 0 if axis is None else axis % x.dim()
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    places = torch.arange(inverse.numel(), device=x.device)
    first = places.new_zeros(counts.numel()).scatter_reduce(0, inverse, places, "amin", include_self=False)
    if not ascending:
        order = first.argsort()
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return x[(slice(None),) * along + (first,)], first, inverse, counts
