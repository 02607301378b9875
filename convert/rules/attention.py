"""Rules: attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ..builder import Dynamic
from ..ir import ByMode
from ..recurrence import keep_mask
from .operands import plus
from .registry import layer_form, rule


def causal(scores: Any) -> Any:
    """The mask that lets row i see columns 0..i. It is counted from the scores, so that no size need be known."""
    lead = (slice(0, 1),) * (len(scores.shape) - 2)
    rows = ops.cumsum(ops.ones_like(scores[(*lead, slice(None), slice(0, 1))], dtype="int32"), axis=-2)
    columns = ops.cumsum(ops.ones_like(scores[(*lead, slice(0, 1), slice(None))], dtype="int32"), axis=-1)
    return ops.less_equal(columns, rows)


def hidden(scores: Any, visible: Any) -> Any:
    """scores with -inf added where they are not visible, as torch does: NaN stays NaN."""
    return plus(scores, ops.cast(ops.where(visible, 0.0, -math.inf), scores.dtype))


def masked_softmax(scores: Any, mask: Any, mask_dtype: str) -> Any:
    """softmax(scores + mask) over the last axis; a row whose every entry is masked gives zeros, as in torch."""
    if mask_dtype == "bool":
        dead = ops.logical_not(ops.any(mask, axis=-1, keepdims=True))
        scores = hidden(scores, ops.logical_or(mask, dead))
    else:
        dead = ops.all(ops.equal(mask, -math.inf), axis=-1, keepdims=True)
        scores = plus(scores, ops.where(dead, ops.zeros_like(mask), mask))
    weights = ops.softmax(scores, axis=-1)
    return ops.where(dead, ops.zeros_like(weights), weights)


def attend(
    k: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    is_causal: bool,
    scale: Any,
    gqa: bool,
    drop: Callable[[Any], Any],
) -> Any:
    """softmax(q k^T scale + mask) v with `drop` applied to the weights."""
    sizes = k.shape(query)
    factor = 1.0 / math.sqrt(sizes[-1]) if scale is None else scale
    if gqa:
        heads = sizes[-3]
        pair = (key, value)
        key, value = (ops.repeat(t, heads // t.shape[-3], axis=-3) if t.shape[-3] != heads else t for t in pair)
    axes = list(range(len(key.shape)))
    scores = ops.matmul(query * factor, ops.transpose(key, (*axes[:-2], axes[-1], axes[-2])))
    if is_causal:
        scores = hidden(scores, causal(scores))
    weights = ops.softmax(scores, axis=-1) if mask is None else masked_softmax(scores, mask, k.dtype(mask))
    return ops.matmul(drop(weights), value)


@rule("aten.scaled_dot_product_attention.default", random=True, modal=("dropout_p",))
def scaled_dot_product_attention(
    k: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: Any,
    is_causal: bool,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if isinstance(dropout_p, ByMode):
        raise Dynamic("whether to drop is only known at call time")
    dtype = k.dtype(query)

    def drop(weights: Any) -> Any:
        if not dropout_p:
            return weights
        keep = k.draw(lambda seed: keep_mask(ops.shape(weights), dropout_p, dtype, seed))
        return weights * (k.cast(keep, dtype) / (1.0 - dropout_p)) if dropout_p < 1 else weights * 0.0

    return attend(k, query, key, value, attn_mask, is_causal, scale, enable_gqa, drop)


@layer_form("aten.scaled_dot_product_attention.default", params=())
def attention_with_dropout(
    k: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: Any,
    is_causal: bool,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The same around a Dropout layer where the weights are dropped in train mode alone."""
    if not isinstance(dropout_p, ByMode) or dropout_p.eval or not 0 < dropout_p.train < 1:
        return None

    def drop(weights: Any) -> Any:
        return k.layer(keras.layers.Dropout, weights, weights={}, rate=dropout_p.train)

    return attend(k, query, key, value, attn_mask, is_causal, scale, enable_gqa, drop)
