"""A dispatch mode that settles what torch leaves open: which of equal elements comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["FirstOfEqual"]


class FirstOfEqual(TorchDispatchMode):
    """Unstable sorts, `topk` and `kthvalue` take equal elements in the order in which they stand.

    torch promises no order among them, and its kernels choose by size; the place of the gradient, and the index, depend
    on it. The mathematics is the same.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        settled = _SETTLED.get(str(func))
        return settled(*args, **(kwargs or {})) if settled and args[0].dim() else func(*args, **(kwargs or {}))


def _sort(x: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    return torch.ops.aten.sort.stable(x, stable=True, dim=dim, descending=descending)


def _topk(x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    values, places = _sort(x, dim, largest)
    return values.narrow(dim, 0, k).contiguous(), places.narrow(dim, 0, k).contiguous()


def _kthvalue(x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    values, places = (part.narrow(dim, k - 1, 1).contiguous() for part in _sort(x, dim))
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


_SETTLED: dict[str, Callable[..., Any]] = {
    "aten.sort.default": _sort,
    "aten.topk.default": _topk,
    "aten.kthvalue.default": _kthvalue,
}
