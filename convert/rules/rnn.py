"""Rules: recurrent networks. What they compute stands in recurrence.py; the layer form is nn_layers.Recurrent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .. import nn_layers
from ..builder import Dynamic, is_known
from ..ir import ByMode
from ..recurrence import activate, gru_step, lstm_step, parameter_shapes, recur
from .operands import plus
from .registry import layer_form, rule

RNN = {
    "aten.lstm.input": "lstm",
    "aten.gru.input": "gru",
    "aten.rnn_tanh.input": "rnn_tanh",
    "aten.rnn_relu.input": "rnn_relu",
}


@rule(*RNN, random=True, modal=("train",))
def recurrent(
    k: Any,
    x: Any,
    hx: Any,
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: Any,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    if k.functional:
        raise Dynamic("a loop over time")
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    rate = dropout if train and num_layers > 1 else 0.0
    if params[-1] is None:  # passes/single_bias.py
        params = [*params[:-1], ops.zeros_like(params[-2])]
        states = states or [ops.zeros((1, ops.shape(x)[1], params[1].shape[1]), x.dtype)] * 2
    return recur(
        RNN[k.node.op], x, states, list(params), has_biases, num_layers, rate, bidirectional, batch_first, k.draw
    )


@layer_form(*RNN, params=("params",))
def recurrent_layer(
    k: Any,
    x: Any,
    hx: Any,
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: Any,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    mode = RNN[k.node.op]
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    if params[-1] is None:
        return single_bias(k, x, states, *params[:-1])
    drops = train.train and not train.eval if isinstance(train, ByMode) else False
    if dropout and num_layers > 1 and not drops and train is not False:
        return None  # it drops in both modes: the rule does that
    gates = {"lstm": 4, "gru": 3}.get(mode, 1)
    hidden = params[0].type.shape[0] // gates
    each = len(params) // (num_layers * (2 if bidirectional else 1))
    projected = params[each - 1].type.shape[0] if mode == "lstm" and each in (3, 5) else 0
    width = params[0].type.shape[1]
    if not is_known(width):
        return None
    names = parameter_shapes(mode, width, hidden, num_layers, bidirectional, has_biases, projected)
    return k.layer(
        nn_layers.Recurrent,
        [x, *states],
        weights=dict(zip(names, params, strict=True)),
        mode=mode,
        hidden_size=hidden,
        num_layers=num_layers,
        bidirectional=bidirectional,
        batch_first=batch_first,
        biases=has_biases,
        dropout=dropout if drops and num_layers > 1 else 0.0,
        proj_size=projected,
    )


def single_bias(k: Any, x: Any, states: Sequence[Any], weight_ih: Any, weight_hh: Any, bias: Any) -> tuple[Any, ...]:
    """Keras' own LSTM: its gates stand in torch's order. x (time, batch, features); no states: zeros."""
    y, h, c = k.layer(
        keras.layers.LSTM,
        [ops.transpose(x, (1, 0, 2)), *([[s[0] for s in states]] if states else [])],
        weights={
            "cell.kernel": weight_ih.transposed(1, 0),
            "cell.recurrent_kernel": weight_hh.transposed(1, 0),
            "cell.bias": bias,
        },
        units=weight_hh.shape[1],
        return_sequences=True,
        return_state=True,
    )
    return ops.transpose(y, (1, 0, 2)), ops.expand_dims(h, 0), ops.expand_dims(c, 0)


# --------------------------------------------------------------------------------------------------------------- cells
def projections(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> tuple[Any, Any]:
    """The input's and the state's share of the gates, biases included."""
    xs, hs = ops.matmul(x, ops.transpose(w_ih)), ops.matmul(h, ops.transpose(w_hh))
    return xs if b_ih is None else plus(xs, b_ih), hs if b_hh is None else plus(hs, b_hh)


@rule("aten.lstm_cell.default")
def lstm_cell(k: Any, x: Any, hx: Sequence[Any], w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> tuple[Any, Any]:
    xs, hs = projections(x, hx[0], w_ih, w_hh, b_ih, b_hh)
    return lstm_step(plus(xs, hs), hx[1])


@rule("aten.gru_cell.default")
def gru_cell(k: Any, x: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    return gru_step(*projections(x, hx, w_ih, w_hh, b_ih, b_hh), hx)


@rule("aten.rnn_tanh_cell.default", "aten.rnn_relu_cell.default")
def rnn_cell(k: Any, x: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
    xs, hs = projections(x, hx, w_ih, w_hh, b_ih, b_hh)
    return activate("rnn_tanh" if "tanh" in k.node.op else "rnn_relu", plus(xs, hs))
