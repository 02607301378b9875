"""Recurrent layers as ONNX's LSTM, GRU and RNN: Keras' own, in one direction or both, and isomorph's `Recurrent`.

ONNX: X (time, batch, input), W (directions, gates*hidden, input), R (directions, gates*hidden, hidden), B (directions,
2*gates*hidden; W's then R's), states (directions, batch, hidden); Y (time, directions, batch, hidden). Gates: LSTM i,
o, f, c; GRU z, r, h. https://onnx.ai/onnx/operators/onnx__LSTM.html. Keras: LSTM i, f, c, o; GRU z, r, h; torch: LSTM
i, f, g, o; GRU r, z, n. The weights are brought into ONNX's order by ops, so that each variable stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from .marked_layers import plain_dropout, shared_dropout
from .markers import Marks

__all__ = ["marking"]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KERAS_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}  # the place of ONNX's gates among Keras'
TORCH_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
# name of Keras' function: ONNX's name, alpha, beta (https://onnx.ai/onnx/operators/onnx__RNN.html)
Activation = tuple[str, float | None, float | None]
ACTIVATIONS: dict[str, Activation] = {
    "tanh": ("Tanh", None, None),
    "sigmoid": ("Sigmoid", None, None),
    "relu": ("Relu", None, None),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "softsign": ("Softsign", None, None),
    "softplus": ("Softplus", None, None),
    "elu": ("Elu", 1.0, None),
    "leaky_relu": ("LeakyRelu", 0.2, None),
    "linear": ("Affine", 1.0, 0.0),
}


@dataclass(frozen=True)
class Weights:
    """One direction in ONNX's layout, without the axis of directions; bias None where there is none."""

    w: Any
    r: Any
    b: Any


def marking(layer: Any) -> Callable[..., Any] | None:
    from isomorph.convert.nn_layers import Recurrent

    kind = type(layer)
    if getattr(kind, "call", None) is Recurrent.call:
        return torch_recurrent
    if getattr(kind, "call", None) is keras.layers.Bidirectional.call:
        return bidirectional
    if _cell_kind(layer) is not None:
        return one_direction
    return None


def _cell_kind(layer: Any) -> str | None:
    """Which op a Keras RNN layer is: its class and its cell's must be Keras' own."""
    layers = keras.layers
    for kind, own, cell in (
        ("LSTM", layers.LSTM, layers.LSTMCell),
        ("GRU", layers.GRU, layers.GRUCell),
        ("RNN", layers.SimpleRNN, layers.SimpleRNNCell),
    ):
        if getattr(type(getattr(layer, "cell", None)), "call", None) is cell.call:
            for base in (own, layers.RNN):
                if type(layer).call is base.call and type(layer).inner_loop is base.inner_loop:
                    return kind
    return None


# -------------------------------------------------------------------------------------------------------- Keras' layers
def one_direction(
    layer: Any, marks: Marks, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = False
) -> Any:
    """LSTM, GRU, SimpleRNN, and RNN over one of their cells."""
    kind = _cell_kind(layer)
    if not _fits(layer, mask, training) or kind is None or len(sequences.shape) != 3:
        return None
    facts = _facts(layer)
    marks.keep(layer, **facts)
    sequences = _dropped(layer, marks, sequences)
    states = None if initial_state is None else [ops.expand_dims(s, 0) for s in _states(initial_state)]
    direction = "reverse" if layer.go_backwards else "forward"
    y, *last = _marked(marks, kind, direction, sequences, [_weights(layer.cell, kind)], states, [layer.cell])
    output = _sequence(y)[:, :, 0] if layer.return_sequences else ops.squeeze(last[0], 0)
    if layer.return_sequences and layer.go_backwards:
        output = output[:, ::-1]  # Keras gives the outputs in the order in which it computes them
    output = ops.cast(output, layer.compute_dtype)
    if layer.return_state:
        return output, *(ops.cast(ops.squeeze(s, 0), layer.compute_dtype) for s in last)
    return output


def bidirectional(
    layer: Any, marks: Marks, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None
) -> Any:
    """Both directions as one op; two ops, each marked by itself, where the two differ in more than their weights."""
    pair = [layer.forward_layer, layer.backward_layer]
    kinds = {_cell_kind(one) for one in pair}
    kind = kinds.pop()
    if kinds or kind is None or len(sequences.shape) != 3 or pair[0].go_backwards or not pair[1].go_backwards:
        return None
    if not all(_fits(one, mask, training) and not _rates(one) for one in pair):
        return None
    cells = [one.cell for one in pair]
    if len({(c.units, getattr(c, "reset_after", None), c.use_bias) for c in cells}) > 1:
        return None
    marks.keep(layer, **_facts(pair[0]))
    states = None
    if initial_state is not None:
        flat = _states(initial_state)
        half = len(flat) // 2
        states = [ops.stack([a, b], 0) for a, b in zip(flat[:half], flat[half:], strict=True)]
    y, *last = _marked(marks, kind, "bidirectional", sequences, [_weights(c, kind) for c in cells], states, cells)
    if layer.return_sequences:
        both = _sequence(y)
        sides = [both[:, :, 0], both[:, :, 1]]
    else:
        sides = [last[0][0], last[0][1]]
    sides = [ops.cast(s, layer.compute_dtype) for s in sides]
    ends = tuple(ops.cast(s[d], one.compute_dtype) for d, one in enumerate(pair) for s in last)
    output = _merged(layer.merge_mode, sides)
    if not layer.return_state:
        return output
    return (*output, *ends) if layer.merge_mode is None else (output, *ends)


def _merged(mode: str | None, sides: list[Any]) -> Any:
    a, b = sides
    match mode:
        case "concat":
            return ops.concatenate([a, b], axis=-1)
        case "sum":
            return a + b
        case "ave":
            return (a + b) / 2
        case "mul":
            return a * b
    return a, b


def _fits(layer: Any, mask: Any, training: Any) -> bool:
    cell = layer.cell
    names = [cell.activation, *([cell.recurrent_activation] if hasattr(cell, "recurrent_activation") else [])]
    known = all(f is getattr(keras.activations, n, None) for f in names for n in [getattr(f, "__name__", "")])
    known = known and all(f.__name__ in ACTIVATIONS for f in names)
    return mask is None and not training and not layer.stateful and known


def _rates(layer: Any) -> tuple[float, ...]:
    """Dropout inside the cell, if any: (of the input, of the state)."""
    found = float(layer.cell.dropout), float(layer.cell.recurrent_dropout)
    return found if any(found) else ()


def _facts(layer: Any) -> dict[str, Any]:
    rates = _rates(layer)
    return {"dropout": rates[0], "recurrent_dropout": rates[1]} if rates else {}


def _dropped(layer: Any, marks: Marks, x: Any) -> Any:
    """The cell's dropout of its input has one mask for all steps, where its gates share it."""
    rates = _rates(layer)
    if rates and rates[0] and not rates[1] and getattr(layer.cell, "implementation", 2) != 1:
        return shared_dropout(marks, x, rates[0], [1], layer.cell.seed)
    return x


def _states(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _weights(cell: Any, kind: str) -> Weights:
    dtype = cell.compute_dtype
    kernel, recurrent = ops.cast(cell.kernel, dtype), ops.cast(cell.recurrent_kernel, dtype)
    order = KERAS_ORDER[kind]
    w, r = (ops.transpose(_ordered(k, order, 1)) for k in (kernel, recurrent))
    if not cell.use_bias:
        return Weights(w, r, None)
    bias = ops.cast(cell.bias, dtype)
    if kind == "GRU" and cell.reset_after:  # (2, 3*units): both biases
        return Weights(w, r, ops.reshape(bias, (-1,)))
    return Weights(w, r, ops.concatenate([_ordered(bias, order, 0), ops.zeros(bias.shape, dtype)], 0))


def _ordered(x: Any, order: Sequence[int], axis: int) -> Any:
    """The gates in another order."""
    if tuple(order) == tuple(range(len(order))):
        return x
    parts = ops.split(x, len(order), axis)
    return ops.concatenate([parts[i] for i in order], axis)


# ------------------------------------------------------------------------------------------------------- torch's layers
def torch_recurrent(layer: Any, marks: Marks, x: Any, h: Any = None, c: Any = None, training: Any = None) -> Any:
    """isomorph's `Recurrent`, torch's nn.LSTM, GRU and RNN: one op per stacked layer, dropout between them."""
    if training or layer.proj_size:
        return None
    kind = {"lstm": "LSTM", "gru": "GRU"}.get(layer.mode, "RNN")
    marks.keep(layer, mode=layer.mode, layers=layer.num_layers, dropout=float(layer.dropout))
    dtype = keras.backend.standardize_dtype(x.dtype)
    single = len(x.shape) == 2
    given = [s for s in (h, c) if s is not None]
    if single:
        x, given = ops.expand_dims(x, 1), [ops.expand_dims(s, 1) for s in given]
    steps = ops.transpose(x, (1, 0, 2)) if layer.batch_first and not single else x
    directions = 2 if layer.bidirectional else 1
    ends: list[list[Any]] = []
    for number in range(layer.num_layers):
        weights = [_torch_weights(layer, kind, f"l{number}{s}", dtype) for s in ("", "_reverse")[:directions]]
        own = [s[number * directions : (number + 1) * directions] for s in given] or None
        activation = ACTIVATIONS["relu" if layer.mode == "rnn_relu" else "tanh"]
        y, *last = _op(
            marks,
            kind,
            "bidirectional" if layer.bidirectional else "forward",
            steps,
            weights,
            own,
            layer.hidden_size,
            [activation] * directions if kind == "RNN" else None,
            1,
        )
        ends.append(last)
        steps = _joined(y, directions)
        if layer.dropout and number < layer.num_layers - 1:
            path = marks.path(layer)
            facts = marks.layers[path]
            steps = plain_dropout(layer, marks, steps, float(layer.dropout), layer.seed)
            marks.layers[path] = facts
    finals = [ops.concatenate(found, 0) if len(found) > 1 else found[0] for found in zip(*ends, strict=True)]
    if single:
        return ops.squeeze(steps, 1), *(ops.squeeze(f, 1) for f in finals)
    return ops.transpose(steps, (1, 0, 2)) if layer.batch_first else steps, *finals


def _torch_weights(layer: Any, kind: str, suffix: str, dtype: str) -> Weights:
    order = TORCH_ORDER[kind]

    def own(name: str) -> Any:
        return _ordered(ops.cast(getattr(layer, f"{name}_{suffix}"), dtype), order, 0)

    bias = ops.concatenate([own("bias_ih"), own("bias_hh")], 0) if layer.biases else None
    return Weights(own("weight_ih"), own("weight_hh"), bias)


def _joined(y: Any, directions: int) -> Any:
    """(time, directions, batch, hidden) to (time, batch, directions*hidden)."""
    if directions == 1:
        return ops.squeeze(y, 1)
    return ops.concatenate([y[:, 0], y[:, 1]], -1)


# -------------------------------------------------------------------------------------------------------------- the op
def _marked(
    marks: Marks,
    kind: str,
    direction: str,
    sequences: Any,
    weights: list[Weights],
    states: list[Any] | None,
    cells: list[Any],
) -> list[Any]:
    """The op over Keras' (batch, time, features)."""
    dtype = cells[0].compute_dtype
    states = None if states is None else [ops.cast(s, dtype) for s in states]
    steps = ops.transpose(ops.cast(sequences, dtype), (1, 0, 2))
    found = []
    for cell in cells:
        gate = [ACTIVATIONS[cell.recurrent_activation.__name__]] if kind != "RNN" else []
        own = ACTIVATIONS[cell.activation.__name__]
        found += [*gate, own, *([own] if kind == "LSTM" else [])]
    reset = int(getattr(cells[0], "reset_after", 1))
    return _op(marks, kind, direction, steps, weights, states, cells[0].units, found, reset)


def _op(
    marks: Marks,
    kind: str,
    direction: str,
    steps: Any,
    weights: list[Weights],
    states: list[Any] | None,
    hidden: int,
    activations: list[Activation] | None,
    linear_before_reset: int,
) -> list[Any]:
    """[Y, Y_h] or [Y, Y_h, Y_c]. activations: None for ONNX's defaults, else those of each direction in turn."""
    dtype, directions = keras.backend.standardize_dtype(steps.dtype), len(weights)
    attributes: dict[str, Any] = {"direction": direction, "hidden_size": int(hidden)}
    if activations is not None:
        attributes["activations"] = [name for name, _, _ in activations]
        if any(alpha is not None for _, alpha, _ in activations):
            attributes["activation_alpha"] = [alpha for _, alpha, _ in activations if alpha is not None]
        if any(beta is not None for _, _, beta in activations):
            attributes["activation_beta"] = [beta for _, _, beta in activations if beta is not None]
    if kind == "GRU":
        attributes["linear_before_reset"] = linear_before_reset
    w, r, b = (
        None if parts[0] is None else ops.stack(parts, 0) if directions > 1 else ops.expand_dims(parts[0], 0)
        for parts in zip(*((x.w, x.r, x.b) for x in weights), strict=True)
    )
    time, batch = steps.shape[0], steps.shape[1]
    inputs = [steps, w, r, b] if states is None else [steps, w, r, b, None, *states]
    state = ((directions, batch, hidden), dtype)
    outputs = [((time, directions, batch, hidden), dtype), state, *([state] if kind == "LSTM" else [])]
    return marks.mark(kind, inputs, outputs, attributes)


def _sequence(y: Any) -> Any:
    """(time, directions, batch, hidden) to (batch, time, directions, hidden)."""
    return ops.transpose(y, (2, 0, 1, 3))
