"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..operands import constant_of, leaf
from ..registry import rule


@rule("Dropout")
def dropout_1(
    x: Any,
    *,
    ratio: float = 0.5,
    is_test: int = 0,
    consumed_inputs: tuple[int, ...] | None = None,
    site: Any = None,
) -> Any:
    """In the form of inference, whatever is_test says: the layer of torch that follows train() and eval() stands in
    layers/. The mask is of the type of the input."""
    return (x, torch.ones_like(x)) if _wants_mask(site) else x


@rule("Dropout", since=10)
def dropout_10(x: Any, *, ratio: float = 0.5, site: Any = None) -> Any:
    return (x, torch.ones_like(x, dtype=torch.bool)) if _wants_mask(site) else x


@rule("Dropout", since=12)
def dropout(x: Any, ratio: Any = None, training_mode: Any = None, *, seed: int | None = None, site: Any = None) -> Any:
    """Trains if the model itself says so, in train() and eval() alike."""
    trains = None if training_mode is None else constant_of(training_mode)
    if training_mode is None or (trains is not None and not trains.any()):
        return (x, torch.ones_like(x, dtype=torch.bool)) if _wants_mask(site) else x
    y = drop(x, 0.5 if ratio is None else ratio, training_mode, seed)
    return y[0], y[1]


def _wants_mask(site: Any) -> bool:
    return site is not None and any(site.outputs[1:])


@leaf
def drop(
    x: torch.Tensor, ratio: torch.Tensor | float, training_mode: torch.Tensor, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, mask): elements dropped with probability `ratio` and the rest scaled up, where `training_mode`.

    seed: the draws of numpy's RandomState(seed), the same at each call, as ONNX's reference has it; None: torch's own.
    """
    if seed is None:
        draws = torch.rand(x.shape, dtype=torch.float32, device=x.device)
    else:
        draws = torch.from_numpy(np.random.RandomState(seed).uniform(size=tuple(x.shape))).to(x.device)
    ratio = torch.as_tensor(ratio, dtype=torch.float64, device=x.device).reshape(())
    mask = (draws >= ratio) | ~training_mode.reshape(())
    scales = training_mode.reshape(()) & (ratio < 1)
    scale = torch.where(scales, 1.0 / (1.0 - ratio), torch.ones_like(ratio))
    return torch.where(mask, x * scale.to(x.dtype), torch.zeros_like(x)), mask
