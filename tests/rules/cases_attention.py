"""Rows: attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .harness import Case, rand

SDPA = ("aten.scaled_dot_product_attention.default",)


def attend(name: str, function: Any, *masks: Any, heads: int = 3, dynamic: Any = False, columns: int = 5) -> Case:
    def inputs() -> list[Any]:
        return [
            rand(2, 6, 4, 8),
            rand(2, heads, columns, 8, seed=1),
            rand(2, heads, columns, 8, seed=2),
            *(m() for m in masks),
        ]

    return Case(name, SDPA, function, inputs, dynamic=dynamic)


def some(*shape: int) -> torch.Tensor:
    """A boolean mask with every kind of row: full, partly masked, fully masked."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) > 0.4
    mask[..., 0, :] = False
    mask[..., 1, :] = True
    return mask


def additive(*shape: int) -> torch.Tensor:
    return torch.where(some(*shape), rand(*shape), -torch.inf)


CASES = [
    attend("sdpa", F.scaled_dot_product_attention, heads=6, dynamic=True),
    attend("sdpa_scale", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.7), heads=6),
    attend(
        "sdpa_causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), heads=6, dynamic=True
    ),
    attend(
        "sdpa_causal_tall", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), heads=6, columns=3
    ),
    attend(
        "sdpa_bool_mask", lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), lambda: some(4, 5), heads=6
    ),
    attend(
        "sdpa_bool_mask_batch",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        lambda: some(2, 1, 4, 5),
        heads=6,
        dynamic=True,
    ),
    attend(
        "sdpa_float_mask",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        lambda: rand(2, 6, 4, 5),
        heads=6,
        dynamic=True,
    ),
    attend("sdpa_infinite_mask", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, MASK), heads=6),
    attend("sdpa_gqa", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), heads=2),
    Case(
        "sdpa_flat",
        SDPA,
        F.scaled_dot_product_attention,
        lambda: [rand(2, 4, 8), rand(2, 5, 8, seed=1), rand(2, 5, 7, seed=2)],
    ),
    Case(
        "multihead_attention",
        (),
        lambda: _Attend(nn.MultiheadAttention(8, 2, batch_first=True)),
        lambda: [rand(2, 5, 8)],
        module=True,
        dynamic=True,
    ),
    Case(
        "encoder_layer",
        SDPA,
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
        lambda: [rand(2, 5, 8)],
        module=True,
        dynamic=True,
    ),
]
MASK = additive(4, 5)


class _Attend(nn.Module):
    """Self-attention without the weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x, x, x, need_weights=False)[0]
