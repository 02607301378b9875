"""Tensors made of little: ranges, constants of a shape, identities."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import constant_of, dtype_of, ints, leaf, number, recorder_of, sizes_of, torch_dtype
from ..registry import rule
from .moves import device_source
from .sizes import nonnegative, of_dims


@rule("ConstantOfShape", since=9)
def constant_of_shape(shape: Any, *, value: torch.Tensor | None = None) -> Any:
    """Its value, 0.0 by default, is a constant of the module: it follows the module's dtype and device."""
    value = torch.zeros(()) if value is None else value.reshape(())
    dims, recorder = ints(shape), recorder_of(shape)
    made = (value if recorder is None else recorder.hold(value)).expand(dims)
    return of_dims(made, dims, filler=value.item()) if isinstance(dims, tuple) else made


@rule("Range", since=11)
def range_(start: Any, limit: Any, delta: Any, *, stash_type: int = 1) -> Any:
    """Of half precision it is computed in `stash_type`."""
    dtype = dtype_of(start)
    numbers = tuple(_number(v) for v in (start, limit, delta))
    if dtype in (torch.int64, torch.int32, torch.int16) and all(n is not None for n in numbers):
        source = device_source(*numbers)
        if source is not None:
            first, end, step = numbers
            if isinstance(step, int) and step == 1 and isinstance(first, int) and first == 0 and nonnegative(end):
                return of_dims(torch.arange(end, dtype=dtype, device=source.device), (end,))
            return integers(first, end, step, dtype, source.device)
    return progression(start, limit, delta, torch_dtype(stash_type))


def _number(x: Any) -> Any:
    """Its element if that is known by now as a number or a size; else None."""
    return number(x) if sizes_of(x) is not None or constant_of(x) is not None else None


@leaf
def integers(start: Any, limit: Any, step: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """From start to before limit; none where the step leads away from it."""
    count = -((start - limit) // step)
    steps: torch.Tensor = torch.arange(torch.sym_max(count, 0), dtype=dtype, device=device) * step + start
    return steps


@leaf
def progression(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor, stash: torch.dtype) -> torch.Tensor:
    """start + i * delta, up to before limit; differentiable in start and delta."""
    dtype = start.dtype
    if dtype in (torch.float16, torch.bfloat16):
        start, limit, delta = start.to(stash), limit.to(stash), delta.to(stash)
    distance, step = (limit - start).reshape(()), delta.reshape(())
    if dtype.is_floating_point:
        count = int(torch.ceil(distance / step))
    else:
        count = -int(torch.div(-distance, step, rounding_mode="floor"))
    steps = torch.arange(torch.sym_max(count, 0), dtype=start.dtype, device=start.device)
    return (start.reshape(()) + steps * step).to(dtype)


@rule("EyeLike", since=9)
def eye_like(x: Any, *, dtype: int | None = None, k: int = 0) -> Any:
    """Ones on the k-th diagonal of a matrix of x's size."""
    return eye(x, k, None if dtype is None else torch_dtype(dtype))


@leaf
def eye(x: torch.Tensor, diagonal: int, dtype: torch.dtype | None) -> torch.Tensor:
    """Ones on a diagonal of a matrix of x's size, in x's dtype by default."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (rows.unsqueeze(1) + diagonal == columns).to(x.dtype if dtype is None else dtype)
