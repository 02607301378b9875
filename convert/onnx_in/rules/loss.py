"""Losses."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..operands import dtype_of, leaf
from ..registry import rule

NONE = -(2**31)  # no label


@rule("NegativeLogLikelihoodLoss", since=12)
def nll_loss(
    x: Any, target: Any, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Any:
    target = target if dtype_of(target) == torch.int64 else target.to(torch.int64)
    ignored = NONE if ignore_index is None else ignore_index
    if weight is not None:
        return weighted_nll(x, target, weight, ignored, reduction)
    return F.nll_loss(x.contiguous(), target, ignore_index=ignored, reduction=reduction)  # torch fails on other strides


@leaf
def weighted_nll(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, ignored: int, reduction: str
) -> torch.Tensor:
    """torch's nll_loss with a weight for each class, differentiable in the weight too, which torch's is not."""
    kept = target != ignored
    weights = weight[torch.where(kept, target, 0)] * kept
    loss = weights * F.nll_loss(x.contiguous(), target, ignore_index=ignored, reduction="none")
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / weights.sum()


@rule("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(
    scores: Any, labels: Any, weights: Any = None, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Any:
    """The loss and the logarithms of the probabilities."""
    log_prob = torch.log_softmax(scores, 1)
    return nll_loss(log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction), log_prob
