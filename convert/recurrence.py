"""The computation of torch's LSTM, GRU and RNN in keras.ops: shared by the rules and by `nn_layers.Recurrent`.

Gate order is torch's: LSTM i, f, g, o; GRU r, z, n with the recurrent bias of n inside the product with r. Equations:
the documentation of torch.nn.LSTM, GRU and RNN. The input is projected once for all steps; only the recurrence is a
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

MODES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

Mask = Callable[[Callable[[Any], Any]], Any]


def parameter_shapes(
    mode: str, input_size: int, hidden: int, layers: int, bidirectional: bool, biases: bool, projected: int
) -> dict[str, tuple[int, ...]]:
    """torch's parameter names with their shapes, in the order in which torch hands them to the op."""
    gates, out = MODES[mode] * hidden, projected or hidden
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        width = input_size if layer == 0 else out * (2 if bidirectional else 1)
        for suffix in ("", "_reverse") if bidirectional else ("",):
            shapes[f"weight_ih_l{layer}{suffix}"] = (gates, width)
            shapes[f"weight_hh_l{layer}{suffix}"] = (gates, out)
            if biases:
                shapes[f"bias_ih_l{layer}{suffix}"] = (gates,)
                shapes[f"bias_hh_l{layer}{suffix}"] = (gates,)
            if projected:
                shapes[f"weight_hr_l{layer}{suffix}"] = (projected, hidden)
    return shapes


def lstm_step(gates: Any, c: Any) -> tuple[Any, Any]:
    """(h, c) from the summed gates (..., 4*hidden) and the cell state."""
    i, f, g, o = ops.split(gates, 4, axis=-1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def gru_step(xs: Any, hs: Any, h: Any) -> Any:
    """The new h from the input's and the state's projections (..., 3*hidden), biases included."""
    xr, xz, xn = ops.split(xs, 3, axis=-1)
    hr, hz, hn = ops.split(hs, 3, axis=-1)
    z = ops.sigmoid(xz + hz)
    n = ops.tanh(xn + ops.sigmoid(xr + hr) * hn)
    return n + z * (h - n)


def activate(mode: str, x: Any) -> Any:
    return ops.tanh(x) if mode == "rnn_tanh" else ops.relu(x)


def direction(
    mode: str, x: Any, h: Any, c: Any, weights: Sequence[Any], biases: bool, reverse: bool
) -> tuple[Any, Any, Any]:
    """One layer in one direction. x (time, batch, features), h and c (batch, hidden). Returns (outputs, h_n, c_n)."""
    w_ih, w_hh, *rest = weights
    b_ih: Any = None
    b_hh: Any = None
    if biases:
        b_ih, b_hh = rest[:2]
    w_hr = rest[2 if biases else 0] if len(rest) > (2 if biases else 0) else None
    recurrent, width = ops.transpose(w_hh), h.shape[-1]

    def parts(state: Any) -> tuple[Any, Any]:
        return state[..., :width], state[..., width:]

    xs = ops.matmul(x, ops.transpose(w_ih))
    if biases:
        xs = xs + (b_ih if mode == "gru" else b_ih + b_hh)

    def step(state: Any, now: Any) -> Any:
        before, cell = (state, None) if c is None else parts(state)
        hs = ops.matmul(before, recurrent)
        if mode == "lstm":
            new, cell = lstm_step(now + hs, cell)
            new = new if w_hr is None else ops.matmul(new, ops.transpose(w_hr))
            new = ops.concatenate([new, cell], -1)
            return new, new
        new = gru_step(now, hs if b_hh is None else hs + b_hh, before) if mode == "gru" else activate(mode, now + hs)
        return new, new

    # One state, of h and c, whose steps are read whatever of them is wanted: a loop of ONNX has no outputs to spare.
    _, states = ops.scan(step, h if c is None else ops.concatenate([h, c], -1), xs, reverse=reverse)
    last = states[0 if reverse else -1]
    return (states, last, None) if c is None else (parts(states)[0], *parts(last))


def recur(
    mode: str,
    x: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    biases: bool,
    layers: int,
    dropout: float,
    bidirectional: bool,
    batch_first: bool,
    mask: Mask,
) -> tuple[Any, ...]:
    """The whole op: (output, h_n) or (output, h_n, c_n). `mask(make)` draws a keep mask where `dropout` is positive."""
    single = len(x.shape) == 2
    if single:
        x, states = ops.expand_dims(x, 1), [ops.expand_dims(s, 1) for s in states]
    elif batch_first:
        x = ops.transpose(x, (1, 0, 2))
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    lasts: list[list[Any]] = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for d in range(directions):
            at = layer * directions + d
            h, c = states[0][at], states[1][at] if mode == "lstm" else None
            y, *last = direction(mode, x, h, c, weights[at * each : (at + 1) * each], biases, d == 1)
            outputs.append(y)
            for found, state in zip(lasts, last, strict=False):
                found.append(state)
        x = outputs[0] if directions == 1 else ops.concatenate(outputs, -1)
        if dropout and layer < layers - 1:
            x = dropped(x, dropout, mask)
    finals = [ops.stack(found, 0) for found in lasts]
    if single:
        return ops.squeeze(x, 1), *(ops.squeeze(f, 1) for f in finals)
    return ops.transpose(x, (1, 0, 2)) if batch_first else x, *finals


def dropped(x: Any, rate: float, mask: Mask) -> Any:
    """Dropout between layers. torch draws it for (time, batch, features), `batch_first` or not."""
    keep = mask(lambda seed: keep_mask(ops.shape(x), rate, x.dtype, seed))
    return x * (ops.cast(keep, x.dtype) / (1.0 - rate)) if rate < 1.0 else x * 0.0


def keep_mask(shape: Sequence[Any], rate: float, dtype: Any, seed: Any) -> Any:
    """1 with probability 1 - rate, else 0."""
    return ops.cast(ops.greater_equal(keras.random.uniform(tuple(shape), dtype="float32", seed=seed), rate), dtype)
