"""Random numbers. They are drawn from torch's own generator: `torch.manual_seed` governs them, a node's seed does not,
for a generator of its own can be neither exported nor compiled."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import dtype_of
from ..registry import rule
from .dtypes import held

FLOAT = 1
INT32 = 6


class Drawn(torch.nn.Module):
    """Numbers of a fixed shape that are drawn anew at each call: spread * n + start, with n from N(0, 1) or [0, 1)."""

    like: torch.Tensor

    def __init__(self, normal: bool, shape: tuple[int, ...], start: float, spread: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.normal, self.shape, self.start, self.spread = normal, tuple(shape), start, spread
        self.register_buffer("like", torch.zeros((), dtype=dtype), persistent=False)  # knows the device

    def forward(self) -> torch.Tensor:
        draw = torch.randn if self.normal else torch.rand
        return draw(self.shape, dtype=self.like.dtype, device=self.like.device) * self.spread + self.start

    def extra_repr(self) -> str:
        return f"{'normal' if self.normal else 'uniform'}, {self.shape}, start={self.start}, spread={self.spread}"


@rule("RandomNormal")
def random_normal(
    *,
    shape: tuple[int, ...],
    dtype: int = FLOAT,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    site: Any,
) -> Any:
    return site.module("random_normal", Drawn(True, shape, mean, scale, held(dtype)), ())


@rule("RandomUniform")
def random_uniform(
    *,
    shape: tuple[int, ...],
    dtype: int = FLOAT,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    site: Any,
) -> Any:
    return site.module("random_uniform", Drawn(False, shape, low, high - low, held(dtype)), ())


@rule("RandomNormalLike")
def random_normal_like(
    x: Any, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Any:
    drawn = torch.randn_like(x) if dtype is None else torch.randn_like(x, dtype=held(dtype))
    return drawn * scale + mean


@rule("RandomUniformLike")
def random_uniform_like(
    x: Any, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None
) -> Any:
    drawn = torch.rand_like(x) if dtype is None else torch.rand_like(x, dtype=held(dtype))
    return drawn * (high - low) + low


@rule("Bernoulli", since=15)
def bernoulli(x: Any, *, dtype: int | None = None, seed: float | None = None) -> Any:
    drawn = torch.bernoulli(x)
    return drawn if dtype is None or held(dtype) == dtype_of(x) else drawn.to(held(dtype))


@rule("Multinomial", since=7)
def multinomial(x: Any, *, dtype: int = INT32, sample_size: int = 1, seed: float | None = None) -> Any:
    """x: log-probabilities up to a constant, of shape (N, classes)."""
    drawn = torch.multinomial(torch.softmax(x, -1), sample_size, replacement=True)
    return drawn if held(dtype) == torch.int64 else drawn.to(held(dtype))
