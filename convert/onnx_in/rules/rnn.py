"""LSTM, GRU and RNN: torch's own kernels where they compute the same, else a loop over the steps.

Shapes, if layout is 0: x (T, B, I), w (D, G*H, I), r (D, G*H, H), b (D, 2*G*H), states (D, B, H), y (T, D, B, H), with
D directions and G gates. Layout 1 has the batch first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..operands import leaf
from ..registry import rule
from .rnn_steps import Cell, activations_of, gru_step, lstm_step, rnn_step, run_steps

__all__ = ["GATE_ORDER", "in_torch_order"]

# ONNX's gates in torch's order: i o f c -> i f c o; z r h -> r z h
GATE_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
KERNELS: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


def in_torch_order(op: str, x: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """The rows of weights or biases, gate by gate, as torch has them."""
    order = GATE_ORDER[op]
    gates = x.chunk(len(order), axis)
    return torch.cat([gates[i] for i in order], axis) if len(order) > 1 else x


@rule("LSTM")
def lstm(
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    initial_c: Any = None,
    p: Any = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Any, ...]:
    names = _lowered(activations)
    plain = names in (None, ("sigmoid", "tanh", "tanh") * (1 + (direction == "bidirectional")))
    if plain and clip is None and p is None and sequence_lens is None and not input_forget:
        y = rnn_kernel("LSTM", x, w, r, b, initial_h, initial_c, direction, layout)
    else:
        options = {
            "activations": names or ("sigmoid", "tanh", "tanh"),
            "alphas": activation_alpha,
            "betas": activation_beta,
            "clip": clip,
            "input_forget": bool(input_forget),
        }
        y = rnn_steps("LSTM", x, w, r, b, sequence_lens, initial_h, initial_c, p, direction, layout, options)
    return y[0], y[1], y[2]


@rule("GRU")
def gru(
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
) -> tuple[Any, ...]:
    names = _lowered(activations)
    plain = names in (None, ("sigmoid", "tanh") * (1 + (direction == "bidirectional")))
    if plain and clip is None and sequence_lens is None and linear_before_reset:
        y = rnn_kernel("GRU", x, w, r, b, initial_h, None, direction, layout)
    else:
        options = {
            "activations": names or ("sigmoid", "tanh"),
            "alphas": activation_alpha,
            "betas": activation_beta,
            "clip": clip,
            "linear_before_reset": bool(linear_before_reset),
        }
        y = rnn_steps("GRU", x, w, r, b, sequence_lens, initial_h, None, None, direction, layout, options)
    return y[0], y[1]


@rule("RNN")
def rnn(
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Any, ...]:
    names = (_lowered(activations) or ("tanh",))[: 1 + (direction == "bidirectional")]
    if set(names) in ({"tanh"}, {"relu"}) and clip is None and sequence_lens is None:
        kernel = "RNN" if names[0] == "tanh" else "RNN_RELU"
        y = rnn_kernel(kernel, x, w, r, b, initial_h, None, direction, layout)
    else:
        options = {"activations": names, "alphas": activation_alpha, "betas": activation_beta, "clip": clip}
        y = rnn_steps("RNN", x, w, r, b, sequence_lens, initial_h, None, None, direction, layout, options)
    return y[0], y[1]


def _lowered(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if not names else tuple(n.lower() for n in names)


def _time_first(layout: int, *tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [t if t is None or not layout else t.transpose(0, 1) for t in tensors]


def _as_layout(layout: int, y: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What is returned: y (T, D, B, H) and states (D, B, H) in the layout asked for."""
    if not layout:
        return y, *states
    return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states)


@leaf
def rnn_kernel(
    kind: str,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None,
    initial_h: torch.Tensor | None,
    initial_c: torch.Tensor | None,
    direction: str,
    layout: int,
) -> tuple[torch.Tensor, ...]:
    """One layer by torch's own kernel. Returns (y, last h) and, of an LSTM, the last c."""
    data, h, c = _time_first(layout, x, initial_h, initial_c)
    assert data is not None
    op = "RNN" if kind == "RNN_RELU" else kind
    directions, hidden = w.shape[0], r.shape[2]
    h = data.new_zeros(directions, data.shape[1], hidden) if h is None else h
    flat: list[torch.Tensor] = []
    for d in range(directions):
        flat += [in_torch_order(op, w[d]), in_torch_order(op, r[d])]
        flat += [in_torch_order(op, half) for half in b[d].chunk(2)] if b is not None else []
    data = data.flip(0) if direction == "reverse" else data
    state: Any = h.contiguous()
    if op == "LSTM":
        state = (state, torch.zeros_like(state) if c is None else c.contiguous())
    y, *last = KERNELS[kind](data, state, flat, b is not None, 1, 0.0, True, direction == "bidirectional", False)
    y = y.unflatten(2, (directions, hidden)).transpose(1, 2)
    return _as_layout(layout, y.flip(0) if direction == "reverse" else y, *last)


@leaf
def rnn_steps(
    op: str,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None,
    sequence_lens: torch.Tensor | None,
    initial_h: torch.Tensor | None,
    initial_c: torch.Tensor | None,
    p: torch.Tensor | None,
    direction: str,
    layout: int,
    options: dict[str, Any],
) -> tuple[torch.Tensor, ...]:
    """One layer step by step: any activations, clip, peepholes, lengths of the sequences. Returns like `rnn_kernel`; y
    is zero beyond a sequence's length, and the last state is that of its last step."""
    data, h, c = _time_first(layout, x, initial_h, initial_c)
    assert data is not None
    directions, hidden = w.shape[0], r.shape[2]
    zeros = data.new_zeros(directions, data.shape[1], hidden)
    states = [zeros if h is None else h] + ([zeros if c is None else c] if op == "LSTM" else [])
    step, each = {"LSTM": (lstm_step, 3), "GRU": (gru_step, 2), "RNN": (rnn_step, 1)}[op]
    functions = activations_of(directions, each, options["activations"], options["alphas"], options["betas"])
    outputs, lasts = [], []
    for d in range(directions):
        cell = Cell(
            w[d],
            r[d],
            None if b is None else b[d],
            None if p is None else p[d],
            functions[d],
            options["clip"],
            options.get("input_forget", False),
            options.get("linear_before_reset", False),
        )
        backwards = direction == "reverse" or d == 1
        y, last = run_steps(step, cell, data, [s[d] for s in states], sequence_lens, backwards)
        outputs.append(y)
        lasts.append(last)
    return _as_layout(layout, torch.stack(outputs, 1), *(torch.stack(s) for s in zip(*lasts, strict=True)))
