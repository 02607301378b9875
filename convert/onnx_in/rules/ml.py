"""Classic machine learning (ai.onnx.ml): linear models, preparation of features. What stands in
attributes is constant: it is not trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from ..operands import dtype_of, leaf, rank_of
from ..registry import rule
from .dtypes import is_text
from .text import plain, strings

__all__ = ["DOMAIN", "classified", "transformed"]

DOMAIN = "ai.onnx.ml"


def real(x: Any) -> Any:
    """Integers as float32."""
    dtype = dtype_of(x)
    return x if dtype is not None and dtype.is_floating_point else x.to(torch.float32)


def column(values: tuple[float, ...], x: Any) -> torch.Tensor:
    """Attributes as a tensor beside x."""
    dtype = dtype_of(x)
    return torch.tensor(values, dtype=dtype if dtype is not None and dtype.is_floating_point else torch.float32)


# ------------------------------------------------------------------------------------------------------------- features
@rule("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(x: Any, index: Any) -> Any:
    if is_text(x):
        return picked_texts(plain(x), index)
    found = torch.index_select(x, -1, index.reshape(-1))
    return found.unsqueeze(0) if rank_of(x) == 1 else found


@leaf
def picked_texts(x: Any, index: torch.Tensor) -> Any:
    """Strings at these places of the last dim; of a vector as one row."""
    found = strings(x)[..., index.reshape(-1).cpu().numpy()]
    return found[None] if found.ndim == 1 else found


@rule("Binarizer", domain=DOMAIN)
def binarizer(x: Any, *, threshold: float = 0.0) -> Any:
    return (x > threshold).to(dtype_of(x) or torch.float32)


@rule("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(*xs: Any, inputdimensions: tuple[int, ...] = ()) -> Any:
    rows = [x.unsqueeze(0) if rank_of(x) == 1 else x.flatten(1) for x in xs]
    return torch.cat([real(r) for r in rows], 1).to(torch.float32)


@rule("Imputer", domain=DOMAIN)
def imputer(
    x: Any,
    *,
    imputed_value_floats: tuple[float, ...] = (),
    imputed_value_int64s: tuple[int, ...] = (),
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Any:
    dtype = dtype_of(x) or torch.float32
    values = imputed_value_floats or imputed_value_int64s
    replaced = replaced_value_float if imputed_value_floats else replaced_value_int64
    missing = torch.isnan(x) if math.isnan(replaced) else x == replaced
    return torch.where(missing, torch.tensor(values, dtype=dtype), x)


@rule("Normalizer", domain=DOMAIN)
def normalizer(x: Any, *, norm: str = "MAX") -> Any:
    """Each row over its largest element, the sum of its magnitudes or its length; as it is where that is 0."""
    x = real(x).to(torch.float32)
    if norm == "MAX":
        size = torch.amax(x, -1, keepdim=True)
    else:
        size = torch.linalg.vector_norm(x, 1 if norm == "L1" else 2, -1, keepdim=True)
    return torch.where(size == 0, x, x / torch.where(size == 0, 1.0, size))


@rule("Scaler", domain=DOMAIN)
def scaler(x: Any, *, offset: tuple[float, ...] = (0.0,), scale: tuple[float, ...] = (1.0,)) -> Any:
    return ((real(x) - column(offset, x)) * column(scale, x)).to(torch.float32)


@rule("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(
    x: Any, *, cats_int64s: tuple[int, ...] = (), cats_strings: tuple[str, ...] = (), zeros: int = 1
) -> Any:
    if is_text(x):
        return one_hot_texts(plain(x), tuple(cats_strings), bool(zeros))
    return one_hot(x, tuple(cats_int64s), bool(zeros))


@leaf
def one_hot(x: torch.Tensor, categories: tuple[Any, ...], zeros: bool) -> torch.Tensor:
    """1.0 at the category of each element; all 0 for another, which is an error unless zeros."""
    table = torch.tensor(categories, dtype=torch.int64, device=x.device)
    found = x.to(torch.int64).unsqueeze(-1) == table
    if not zeros and not bool(found.any(-1).all()):
        raise ValueError("OneHotEncoder: an element is in no category")
    return found.to(torch.float32)


@leaf
def one_hot_texts(x: Any, categories: tuple[str, ...], zeros: bool) -> torch.Tensor:
    """The same of strings."""
    places = {c: i for i, c in enumerate(categories)}
    array = strings(x)
    index = torch.tensor([places.get(t, -1) for t in array.flat], dtype=torch.int64).reshape(array.shape)
    result: torch.Tensor = one_hot(index, tuple(range(len(categories))), zeros)
    return result


# --------------------------------------------------------------------------------------------------------------- scores
def transformed(scores: Any, how: str) -> Any:
    """The last step of many models on scores of shape (N, classes)."""
    if how == "SOFTMAX":
        return torch.softmax(scores, -1)
    if how == "LOGISTIC":
        return torch.sigmoid(scores)
    if how == "SOFTMAX_ZERO":
        return torch.where(scores == 0, 0.0, torch.softmax(torch.where(scores == 0, -torch.inf, scores), -1))
    if how == "PROBIT":
        return math.sqrt(2) * torch.erfinv(2 * scores - 1)
    return scores


def classified(best: Any, labels: tuple[Any, ...]) -> Any:
    """The labels of these positions."""
    if isinstance(labels[0], str):
        return labels_of(best, tuple(labels))
    return best if labels == tuple(range(len(labels))) else torch.tensor(labels, dtype=torch.int64)[best]


@leaf
def labels_of(best: torch.Tensor, labels: tuple[str, ...]) -> Any:
    """Strings at these positions."""
    return strings([labels[i] for i in best.reshape(-1).tolist()]).reshape(tuple(best.shape))


@rule("LinearRegressor", domain=DOMAIN)
def linear_regressor(
    x: Any,
    *,
    coefficients: tuple[float, ...],
    intercepts: tuple[float, ...] = (),
    post_transform: str = "NONE",
    targets: int = 1,
) -> Any:
    weight = column(coefficients, x).reshape(targets, -1)
    found = F.linear(real(x), weight, column(intercepts, x) if intercepts else None)
    return transformed(found, post_transform).to(torch.float32)


@rule("LinearClassifier", domain=DOMAIN)
def linear_classifier(
    x: Any,
    *,
    coefficients: tuple[float, ...],
    classlabels_ints: tuple[int, ...] = (),
    classlabels_strings: tuple[str, ...] = (),
    intercepts: tuple[float, ...] = (),
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> Any:
    """The labels and the scores. Two labels with one row of coefficients: the second where its score is positive."""
    labels = classlabels_strings or classlabels_ints
    rows = len(intercepts) or len(labels)
    weight = column(coefficients, x).reshape(rows, -1)
    scores = F.linear(real(x), weight, column(intercepts, x) if intercepts else None).to(torch.float32)
    if rows == 1:
        best = (scores[:, 0] > 0).to(torch.int64)
        second = transformed(scores, post_transform)
        return classified(best, labels), torch.cat([1 - second, second], 1) if len(labels) == 2 else second
    return classified(torch.argmax(scores, 1), labels), transformed(scores, post_transform)
