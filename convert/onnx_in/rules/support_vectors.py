"""Support vector machines (ai.onnx.ml)."""

from __future__ import annotations

from itertools import accumulate, combinations
from typing import Any

import torch

from ..operands import leaf
from ..registry import rule
from .ml import DOMAIN, classified, real, transformed

CLIPPED = 1e-7  # no pairwise probability is nearer to 0 or 1


def kernel(x: Any, vectors: Any, kind: str, params: tuple[float, ...]) -> Any:
    """The kernel of each row of x with each support vector."""
    gamma, offset, degree = params or (0.0, 0.0, 0.0)
    if kind == "RBF":
        return torch.exp(-gamma * torch.cdist(x, vectors, compute_mode="donot_use_mm_for_euclid_dist") ** 2)
    product = x @ vectors.mT
    if kind == "POLY":
        return (gamma * product + offset) ** degree
    return torch.tanh(gamma * product + offset) if kind == "SIGMOID" else product


@rule("SVMRegressor", domain=DOMAIN)
def svm_regressor(
    x: Any,
    *,
    coefficients: tuple[float, ...],
    kernel_params: tuple[float, ...] = (),
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: tuple[float, ...] = (0.0,),
    support_vectors: tuple[float, ...] = (),
) -> Any:
    """Without support vectors the coefficients are those of a linear model. One class: 1 inside, -1 outside."""
    x = real(x).to(torch.float32)
    weights = torch.tensor(coefficients, dtype=torch.float32)
    if n_supports:
        vectors = torch.tensor(support_vectors, dtype=torch.float32).reshape(n_supports, -1)
        found = kernel(x, vectors, kernel_type, kernel_params) @ weights + rho[0]
    else:
        found = kernel(x, weights.unsqueeze(0), kernel_type, kernel_params)[:, 0] + rho[0]
    if one_class:
        found = torch.where(found > 0, 1.0, -1.0)
    return transformed(found.unsqueeze(1), post_transform)


@rule("SVMClassifier", domain=DOMAIN)
def svm_classifier(
    x: Any,
    *,
    classlabels_ints: tuple[int, ...] = (),
    classlabels_strings: tuple[str, ...] = (),
    coefficients: tuple[float, ...] = (),
    kernel_params: tuple[float, ...] = (),
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: tuple[float, ...] = (),
    prob_b: tuple[float, ...] = (),
    rho: tuple[float, ...] = (),
    support_vectors: tuple[float, ...] = (),
    vectors_per_class: tuple[int, ...] = (),
) -> Any:
    """The label that wins most pairs of classes (without support vectors: of the highest score), and the scores: of
    each class where they are probabilities, else of each pair; of two classes, one for each."""
    x = real(x).to(torch.float32)
    labels = classlabels_strings or classlabels_ints
    if not vectors_per_class:
        scores = x @ torch.tensor(coefficients, dtype=torch.float32).reshape(len(labels), -1).mT + rho[0]
        return classified(torch.argmax(scores, 1), labels), transformed(scores, post_transform)
    vectors = torch.tensor(support_vectors, dtype=torch.float32).reshape(sum(vectors_per_class), -1)
    similar = kernel(x, vectors, kernel_type, kernel_params)
    scores = similar @ pair_weights(coefficients, vectors_per_class) + torch.tensor(rho, dtype=torch.float32)
    best = torch.argmax(votes(scores, len(labels)), 1)
    if prob_a:
        ratio = torch.sigmoid(-(scores * torch.tensor(prob_a) + torch.tensor(prob_b)))
        return classified(best, labels), transformed(coupled(ratio, len(labels)), post_transform)
    if len(labels) > 2:
        return classified(best, labels), transformed(scores, post_transform)
    if post_transform in ("NONE", "LOGISTIC"):
        return classified(best, labels), transformed(torch.cat([-scores, scores], 1), post_transform)
    return classified(best, labels), torch.cat([1 - scores, scores], 1)


def pair_weights(coefficients: tuple[float, ...], counts: tuple[int, ...]) -> torch.Tensor:
    """The coefficients of all vectors (rows) in the decision of each pair of classes (columns)."""
    table = torch.tensor(coefficients, dtype=torch.float32).reshape(len(counts) - 1, -1)
    start = [0, *accumulate(counts)]
    columns = []
    for i, j in combinations(range(len(counts)), 2):
        column = torch.zeros(table.size(1))
        column[start[i] : start[i + 1]] = table[j - 1, start[i] : start[i + 1]]
        column[start[j] : start[j + 1]] = table[i, start[j] : start[j + 1]]
        columns.append(column)
    return torch.stack(columns, 1)


@leaf
def votes(scores: torch.Tensor, classes: int) -> torch.Tensor:
    """How many pairs each class wins: (N, classes)."""
    pairs = list(combinations(range(classes), 2))
    first = torch.tensor([[c == i for c in range(classes)] for i, _ in pairs], device=scores.device)
    second = torch.tensor([[c == j for c in range(classes)] for _, j in pairs], device=scores.device)
    return torch.where((scores > 0).unsqueeze(-1), first, second).sum(1)


@leaf
def coupled(ratio: torch.Tensor, classes: int) -> torch.Tensor:
    """The probabilities of the classes, (N, classes), that fit those of the first of each pair, (N, pairs), best: they
    minimise sum (r_ji p_i - r_ij p_j)^2 with sum p = 1 (Wu, Lin and Weng, 2004, their second method)."""
    wins = ratio.new_zeros(ratio.size(0), classes, classes)
    i, j = torch.triu_indices(classes, classes, 1, device=ratio.device)
    clipped = ratio.clamp(CLIPPED, 1 - CLIPPED)
    wins = wins.index_put((torch.arange(len(ratio), device=ratio.device)[:, None], i, j), clipped)
    wins = wins.index_put((torch.arange(len(ratio), device=ratio.device)[:, None], j, i), 1 - clipped)
    system = torch.diag_embed((wins**2).sum(1)) - wins * wins.mT
    column = ratio.new_ones(ratio.size(0), classes, 1)
    top = torch.cat([system, column], 2)
    bottom = torch.cat([column.mT, ratio.new_zeros(ratio.size(0), 1, 1)], 2)
    right = torch.zeros_like(bottom.mT)
    right[:, -1] = 1
    solved: torch.Tensor = torch.linalg.solve(torch.cat([top, bottom], 1), right)
    return solved[:, :classes, 0]
