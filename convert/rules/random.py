"""Rules: random draws. Each op draws once, by `k.draw`, in torch axis order: a recorded draw can take its place.

A dropout draws its keep mask (1 keeps, 0 drops); the others draw the values themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from ..builder import Dynamic
from ..ir import ByMode
from .operands import is_tensor, plus, rule_order, torch_order, torch_sizes
from .registry import ELEMENTWISE, layer_form, rule

Tensor = Any


def _uniform(size: Sequence[Any], dtype: str, seed: Any, low: float = 0.0, high: float = 1.0) -> Tensor:
    wide = dtype if dtype in ("float32", "float64") else "float32"
    return keras.random.uniform(tuple(size), low, high, dtype=wide, seed=seed)


def _normal(size: Sequence[Any], dtype: str, seed: Any) -> Tensor:
    wide = dtype if dtype in ("float32", "float64") else "float32"
    return keras.random.normal(tuple(size), dtype=wide, seed=seed)


def _open(u: Tensor) -> Tensor:
    """1 - u for u in [0, 1): never zero, so it has a logarithm."""
    return ops.subtract(1.0, u)


# ------------------------------------------------------------------------------------------------------------- dropout
def _keep(k: Any, size: Sequence[Any], p: float, dtype: str) -> Tensor:
    return k.cast(k.draw(lambda seed: ops.cast(ops.greater_equal(_uniform(size, "float32", seed), p), dtype)), dtype)


def _active(p: float, train: Any) -> bool:
    if isinstance(train, ByMode):
        raise Dynamic("the mode")
    return bool(train) and p > 0


@rule("aten.dropout.default", layout=ELEMENTWISE, modal=("train",), random=True)
def dropout(k: Any, x: Tensor, p: float, train: Any) -> Tensor:
    if not _active(p, train):
        return x
    mask = rule_order(k, _keep(k, torch_sizes(k, x), p, k.dtype(x)))
    return ops.multiply(x, ops.multiply(mask, 1 / (1 - p) if p < 1 else 0.0))


@layer_form("aten.dropout.default", params=())
def dropout_layer(k: Any, x: Tensor, p: float, train: Any) -> Any:
    if train != ByMode(True, False) or not 0 < p < 1:
        return None
    return k.layer(keras.layers.Dropout, x, weights={}, rate=p)


@rule("aten.native_dropout.default", layout=ELEMENTWISE, modal=("train",), random=True)
def native_dropout(k: Any, x: Tensor, p: float, train: Any) -> tuple[Tensor, Tensor]:
    if isinstance(train, ByMode):
        raise Dynamic("the mode")
    if train is False or p == 0:
        return x, ops.ones_like(x, dtype="bool")
    mask = rule_order(k, _keep(k, torch_sizes(k, x), p, k.dtype(x)))
    return ops.multiply(x, ops.multiply(mask, 1 / (1 - p) if p < 1 else 0.0)), ops.cast(mask, "bool")


def _channel_mask(k: Any, x: Tensor, p: float) -> Tensor:
    sizes = torch_sizes(k, x)
    return rule_order(k, _keep(k, [*sizes[:2], *[1] * (len(sizes) - 2)], p, k.dtype(x)))


@rule("aten.feature_dropout.default", layout=ELEMENTWISE, modal=("train",), random=True)
def feature_dropout(k: Any, x: Tensor, p: float, train: Any) -> Tensor:
    """Drops whole channels (N, C, ...)."""
    if not _active(p, train):
        return x
    return ops.multiply(x, ops.multiply(_channel_mask(k, x, p), 1 / (1 - p) if p < 1 else 0.0))


@layer_form("aten.feature_dropout.default", params=())
def feature_dropout_layer(k: Any, x: Tensor, p: float, train: Any) -> Any:
    if train != ByMode(True, False) or not 0 < p < 1:
        return None
    noise_shape = [None if a < 2 else 1 for a in (k.perm or range(k.rank(x)))]
    return k.layer(keras.layers.Dropout, x, weights={}, rate=p, noise_shape=noise_shape)


def _alpha(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """Dropped entries take selu's negative limit, and mean and variance are restored (Klambauer et al., 2017)."""
    alpha = 1.7580993408473766
    a = 1 / math.sqrt((alpha * alpha * p + 1) * (1 - p)) if p < 1 else 0.0
    return plus(
        ops.multiply(x, ops.multiply(mask, a)), plus(ops.multiply(ops.subtract(mask, 1.0), alpha * a), alpha * a * p)
    )


@rule("aten.alpha_dropout.default", layout=ELEMENTWISE, modal=("train",), random=True)
def alpha_dropout(k: Any, x: Tensor, p: float, train: Any) -> Tensor:
    if not _active(p, train):
        return x
    return _alpha(x, rule_order(k, _keep(k, torch_sizes(k, x), p, k.dtype(x))), p)


@rule("aten.feature_alpha_dropout.default", layout=ELEMENTWISE, modal=("train",), random=True)
def feature_alpha_dropout(k: Any, x: Tensor, p: float, train: Any) -> Tensor:
    return _alpha(x, _channel_mask(k, x, p), p) if _active(p, train) else x


# ------------------------------------------------------------------------------------------------ like another tensor
def _drawn(k: Any, x: Tensor, make: Callable[[list[Any], str, Any], Tensor]) -> Tensor:
    """A draw of the size of `x` and the dtype of the result. Nothing flows back to `x`."""
    sizes = torch_sizes(k, x)
    return rule_order(k, k.draw(lambda seed: make(sizes, k.out.dtype, seed)))


@rule("aten.bernoulli.default", layout=ELEMENTWISE, random=True)
def bernoulli(k: Any, p: Tensor) -> Tensor:
    return _bernoulli(k, p, ops.stop_gradient(p))


@rule("aten.bernoulli.p", "aten.bernoulli.Tensor", layout=ELEMENTWISE, random=True)
def bernoulli_p(k: Any, x: Tensor, p: Any) -> Tensor:
    return _bernoulli(k, x, ops.stop_gradient(p) if is_tensor(p) else p)


def _bernoulli(k: Any, x: Tensor, p: Any) -> Tensor:
    if is_tensor(p) and k.rank(p) != k.rank(x):
        p = plus(ops.zeros_like(x, dtype=p.dtype), p)
    p = torch_order(k, p) if is_tensor(p) else p
    wide = str(k.dtype(p)) if is_tensor(p) else "float32"
    return _drawn(k, x, lambda size, dtype, seed: ops.cast(ops.less(_uniform(size, wide, seed), p), dtype))


@rule("aten.rand_like.default", layout=ELEMENTWISE, random=True)
def rand_like(k: Any, x: Tensor, dtype: Any = None) -> Tensor:
    return _drawn(k, x, _uniform)


@rule("aten.randn_like.default", layout=ELEMENTWISE, random=True)
def randn_like(k: Any, x: Tensor, dtype: Any = None) -> Tensor:
    return _drawn(k, x, _normal)


@rule("aten.uniform.default", layout=ELEMENTWISE, random=True)
def uniform(k: Any, x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return _drawn(k, x, lambda size, dtype, seed: _uniform(size, dtype, seed, low, high))


@rule("aten.normal_functional.default", layout=ELEMENTWISE, random=True)
def normal_functional(k: Any, x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return _drawn(k, x, lambda size, dtype, seed: _normal(size, dtype, seed) * std + mean)


@rule("aten.log_normal.default", layout=ELEMENTWISE, random=True)
def log_normal(k: Any, x: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    return _drawn(k, x, lambda size, dtype, seed: ops.exp(_normal(size, dtype, seed) * std + mean))


@rule("aten.exponential.default", layout=ELEMENTWISE, random=True)
def exponential(k: Any, x: Tensor, lambd: float = 1.0) -> Tensor:
    return _drawn(k, x, lambda size, dtype, seed: ops.log(_open(_uniform(size, dtype, seed))) * (-1 / lambd))


@rule("aten.cauchy.default", layout=ELEMENTWISE, random=True)
def cauchy(k: Any, x: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return _drawn(
        k, x, lambda size, dtype, seed: ops.tan((_uniform(size, dtype, seed) - 0.5) * math.pi) * sigma + median
    )


@rule("aten.geometric.default", layout=ELEMENTWISE, random=True)
def geometric(k: Any, x: Tensor, p: float) -> Tensor:
    """The number of trials up to the first success: 1, 2, ..."""
    scale = 1 / math.log1p(-p) if p < 1 else 0.0
    return _drawn(
        k, x, lambda size, dtype, seed: ops.maximum(ops.ceil(ops.log(_open(_uniform(size, dtype, seed))) * scale), 1.0)
    )


@rule("aten.randint_like.default", layout=ELEMENTWISE, random=True)
def randint_like(k: Any, x: Tensor, high: Any, dtype: Any = None) -> Tensor:
    return randint_like_low(k, x, 0, high)


@rule("aten.randint_like.low_dtype", layout=ELEMENTWISE, random=True)
def randint_like_low(k: Any, x: Tensor, low: Any, high: Any, dtype: Any = None) -> Tensor:
    return _drawn(k, x, lambda size, _, seed: keras.random.randint(tuple(size), low, high, dtype="int64", seed=seed))


# --------------------------------------------------------------------------------------------------------- from sizes
def _made(k: Any, size: Sequence[Any], make: Callable[[Sequence[Any], str, Any], Tensor]) -> Tensor:
    sizes = [k.size(s) for s in size]
    return k.draw(lambda seed: make(sizes, k.out.dtype, seed))


@rule("aten.rand.default", random=True)
def rand(k: Any, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return _made(k, size, _uniform)


@rule("aten.randn.default", random=True)
def randn(k: Any, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return _made(k, size, _normal)


@rule("aten.randint.low", random=True)
def randint_low(k: Any, low: Any, high: Any, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return _made(
        k, size, lambda sizes, _, seed: keras.random.randint(tuple(sizes), low, high, dtype="int64", seed=seed)
    )


@rule("aten.randint.default", random=True)
def randint(k: Any, high: Any, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return randint_low(k, 0, high, size)


@rule("aten.randperm.default", random=True)
def randperm(k: Any, n: Any, dtype: Any = None) -> Tensor:
    return _made(k, [n], lambda sizes, _, seed: ops.argsort(_uniform(sizes, "float64", seed)))


@rule("aten.normal.float_float", random=True)
def normal_float_float(k: Any, mean: float, std: float, size: Sequence[Any], dtype: Any = None) -> Tensor:
    return _made(k, size, lambda sizes, kind, seed: _normal(sizes, kind, seed) * std + mean)


@rule(*(f"aten.normal.{o}" for o in ("Tensor_Tensor", "Tensor_float", "float_Tensor")), random=True)
def normal_of_tensors(k: Any, mean: Any, std: Any) -> Tensor:
    """No gradient flows to the mean and deviation: torch draws, it does not reparametrise."""
    mean, std = (ops.stop_gradient(v) if is_tensor(v) else v for v in (mean, std))
    size = k.node.outputs[0].type.shape
    return _made(k, size, lambda sizes, kind, seed: plus(ops.multiply(_normal(sizes, kind, seed), std), mean))


@rule("aten.multinomial.default", random=True)
def multinomial(k: Any, weights: Tensor, count: int, replacement: bool = False) -> Tensor:
    """The greatest of log w + Gumbel noise; without replacement the `count` greatest (Kool et al., 2019)."""
    logits = ops.log(ops.stop_gradient(weights))
    shape = list(k.shape(weights))

    def make(seed: Any) -> Tensor:
        sizes = [*shape[:-1], count, shape[-1]] if replacement else shape
        noise = ops.negative(ops.log(ops.negative(ops.log(_open(_uniform(sizes, "float64", seed))))))
        scores = plus(ops.cast(ops.expand_dims(logits, -2) if replacement else logits, "float64"), noise)
        return ops.cast(ops.argmax(scores, axis=-1) if replacement else ops.top_k(scores, count)[1], "int64")

    return k.draw(make)
