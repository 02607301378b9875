"""What the rules that move elements share: dtypes without kernels, axes, indices that count from the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..operands import dtype_of, leaf, rank_of

__all__ = ["by_bits", "device_source", "from_start", "positive_axis"]

I64_MAX = 2**63 - 1

# torch lacks gather, scatter, nonzero ... for these: they are moved as the integers of the same size
_CARRIERS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.int8,
    torch.float8_e4m3fnuz: torch.int8,
    torch.float8_e5m2: torch.int8,
    torch.float8_e5m2fnuz: torch.int8,
    torch.float8_e8m0fnu: torch.uint8,
}


def by_bits(move: Callable[..., Any], *tensors: Any) -> Any:
    """`move(*tensors)`, which only moves elements of tensors of one dtype, for every dtype."""
    dtype = dtype_of(tensors[0])
    carrier = None if dtype is None else _CARRIERS.get(dtype)
    if carrier is None:
        return move(*tensors)
    return move(*(t.view(carrier) for t in tensors)).view(dtype)


def positive_axis(axis: int, x: Any) -> int:
    """The axis counted from the front where the rank is known; else as it is."""
    rank = rank_of(x)
    return axis if axis >= 0 or rank is None else axis + rank


@leaf
def from_start(index: torch.Tensor, size: Any) -> torch.Tensor:
    """int64 indices, the negative ones counted from the start: i < 0 means i + size."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


def device_source(*values: Any) -> Any:
    """The tensor among the operands that sizes were taken of, whose device what is made of them belongs to; or None."""
    seen: list[Any] = [v for v in values if isinstance(v, fx.Proxy)]
    while seen:
        value = seen.pop()
        node = value.node
        if node.op == "call_method" and node.target == "size":
            return value.tracer.proxy(node.args[0])
        if node.op == "placeholder" or dtype_of(value) is not None:
            continue
        seen += [value.tracer.proxy(n) for n in node.all_input_nodes]
    return None
