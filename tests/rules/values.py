"""Inputs and rows that several case tables share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from .harness import Case, rand


def grid(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Multiples of 0.5 around zero, with ties: where subgradients differ."""
    return torch.round(rand(*shape, seed=seed) * 2 * scale) / 2


def specials() -> torch.Tensor:
    """NaN, infinities, signed zeros."""
    return torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.5, -2.5, 1e300], dtype=torch.float64)


def bools(*shape: int, seed: int = 0) -> torch.Tensor:
    return rand(*shape, seed=seed) > 0


def signed(*shape: int, seed: int = 0, high: int = 9) -> torch.Tensor:
    """int64 in (-high, high)."""
    return torch.randint(-high + 1, high, shape, generator=torch.Generator().manual_seed(seed))


def op(key: str) -> Any:
    """The overload of "add.Tensor" (ATen's) or "prims.fft_r2c.default"."""
    namespace, packet, overload = full(key).split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def full(key: str) -> str:
    """The key with its namespace."""
    return key if key.count(".") == 2 else f"aten.{key}"


def call(
    key: str,
    *args: Any,
    tag: str = "",
    dynamic: Any = False,
    grad: bool = True,
    rtol: float = 1e-10,
    xfail: str = "",
    wrt: int | None = None,
    **kwargs: Any,
) -> Case:
    """A row that calls one overload. The tensors among `args` (and in lists) are the inputs, the rest is fixed.
    `wrt`: how many of them torch can differentiate, where not all."""
    flat, spec = tree_flatten((args, kwargs))
    tensors = [a for a in flat if isinstance(a, torch.Tensor)]

    def function(*xs: torch.Tensor) -> Any:
        rest = iter(x if wrt is None or i < wrt else x.detach() for i, x in enumerate(xs))
        positional, named = tree_unflatten([next(rest) if isinstance(a, torch.Tensor) else a for a in flat], spec)
        return op(key)(*positional, **named)

    name = key.replace(".default", "").replace(".", "_") + (f"_{tag}" if tag else "")
    return Case(name, (full(key),), function, lambda: tensors, dynamic=dynamic, grad=grad, rtol=rtol, xfail=xfail)


def undifferentiated(key: str, *args: Any, **kwargs: Any) -> Case:
    """A row for an op that has no derivative in torch."""
    return call(key, *args, wrt=0, **kwargs)


def each(keys: str, *args: Any, row: Callable[..., Case] = call, **kwargs: Any) -> list[Case]:
    """The same arguments for several overloads, separated by spaces; ".default" where none is named."""
    return [row(k if "." in k else f"{k}.default", *args, **kwargs) for k in keys.split()]
