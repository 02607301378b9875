"""Rules: matrix products."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .registry import layer_form, rule


@rule("aten.linear.default")
def linear(k: Any, x: Any, weight: Any, bias: Any) -> Any:
    y = ops.matmul(x, ops.transpose(weight)) if k.rank(weight) == 2 else ops.tensordot(x, weight, axes=[[-1], [0]])
    return y if bias is None else ops.add(y, bias)


@layer_form("aten.linear.default", params=("weight", "bias"))
def dense(k: Any, x: Any, weight: Any, bias: Any) -> Any:
    if k.rank(x) < 2 or len(weight.type.shape) != 2:
        return None
    return k.layer(
        keras.layers.Dense,
        x,
        weights={"kernel": weight.transposed(1, 0), "bias": bias},
        units=weight.type.shape[0],
        use_bias=bias is not None,
    )
