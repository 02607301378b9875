"""One step of LSTM, GRU and RNN as ONNX writes them, and the loop over the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ["Cell", "activations_of", "gru_step", "lstm_step", "rnn_step", "run_steps"]

Function = Callable[[torch.Tensor], torch.Tensor]
State = list[torch.Tensor]

# name -> (f(x, alpha, beta), default alpha, default beta); None: the function has no such parameter
ACTIVATIONS: dict[str, tuple[Callable[..., torch.Tensor], float | None, float | None]] = {
    "relu": (lambda x, a, b: torch.relu(x), None, None),
    "tanh": (lambda x, a, b: torch.tanh(x), None, None),
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), None, None),
    "softsign": (lambda x, a, b: F.softsign(x), None, None),
    "softplus": (lambda x, a, b: torch.logaddexp(x, torch.zeros_like(x)), None, None),
    "leakyrelu": (lambda x, a, b: torch.where(x >= 0, x, a * x), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: torch.where(x >= a, x, torch.zeros_like(x)), 1.0, None),
    "elu": (lambda x, a, b: F.elu(x, a), 1.0, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5),
}


def activations_of(
    directions: int, each: int, names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None
) -> list[list[Function]]:
    """The `each` activations of each direction. alphas and betas are consumed in order by the functions that have one;
    names for one direction serve both. Raises ValueError on a name that ONNX does not know."""
    names = tuple(names) * directions if len(names) == each else names
    if len(names) != each * directions:
        raise ValueError(f"{len(names)} activations for {directions} directions of {each}")
    left_alphas, left_betas = list(alphas or ()), list(betas or ())
    functions: list[Function] = []
    for name in names:
        if name not in ACTIVATIONS:
            raise ValueError(f"the activation {name!r} is not one of ONNX's: {', '.join(sorted(ACTIVATIONS))}")
        function, alpha, beta = ACTIVATIONS[name]
        if alpha is not None and left_alphas:
            alpha = left_alphas.pop(0)
        if beta is not None and left_betas:
            beta = left_betas.pop(0)
        functions.append(_bind(function, alpha, beta))
    return [functions[d * each : (d + 1) * each] for d in range(directions)]


def _bind(function: Callable[..., torch.Tensor], alpha: float | None, beta: float | None) -> Function:
    return lambda x: function(x, alpha, beta)


@dataclass(frozen=True)
class Cell:
    """One direction: w (G*H, I), r (G*H, H), b (2*G*H), p (3*H); the activations f, g, h as far as the op has them."""

    w: torch.Tensor
    r: torch.Tensor
    b: torch.Tensor | None
    p: torch.Tensor | None
    activations: list[Function]
    clip: float | None
    input_forget: bool
    linear_before_reset: bool

    def activate(self, which: int, x: torch.Tensor) -> torch.Tensor:
        return self.activations[which](x if self.clip is None else x.clamp(-self.clip, self.clip))

    @property
    def biases(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Of the input and of the recurrence."""
        if self.b is None:
            return None, None
        input_bias, recurrent = self.b.chunk(2)
        return input_bias, recurrent


Step = Callable[[Cell, torch.Tensor, State], State]


def lstm_step(cell: Cell, given: torch.Tensor, state: State) -> State:
    """given: x_t W^T + Wb. state: [h, c]. The gates are clipped, the cell state is not, as ONNX Runtime does it."""
    h, c = state
    i, o, f, g = (given + F.linear(h, cell.r, cell.biases[1])).chunk(4, -1)
    if cell.p is not None:
        peep_i, peep_o, peep_f = cell.p.chunk(3)
        i, f = i + peep_i * c, f + peep_f * c
    i = cell.activate(0, i)
    f = 1 - i if cell.input_forget else cell.activate(0, f)
    c = f * c + i * cell.activate(1, g)
    o = cell.activate(0, o if cell.p is None else o + peep_o * c)
    return [o * cell.activations[2](c), c]


def gru_step(cell: Cell, given: torch.Tensor, state: State) -> State:
    """given: x_t W^T + Wb. state: [h]."""
    (h,) = state
    rows = cell.r.shape[0] // 3
    bias = cell.biases[1]
    gates, of_h = (None, None) if bias is None else (bias[: 2 * rows], bias[2 * rows :])
    z, r = (given[..., : 2 * rows] + F.linear(h, cell.r[: 2 * rows], gates)).chunk(2, -1)
    z, r = cell.activate(0, z), cell.activate(0, r)
    matrix = cell.r[2 * rows :]
    back = r * F.linear(h, matrix, of_h) if cell.linear_before_reset else F.linear(r * h, matrix, of_h)
    new = cell.activate(1, given[..., 2 * rows :] + back)
    return [(1 - z) * new + z * h]


def rnn_step(cell: Cell, given: torch.Tensor, state: State) -> State:
    """given: x_t W^T + Wb. state: [h]."""
    return [cell.activate(0, given + F.linear(state[0], cell.r, cell.biases[1]))]


def run_steps(
    step: Step, cell: Cell, x: torch.Tensor, state: State, lengths: torch.Tensor | None, backwards: bool
) -> tuple[torch.Tensor, State]:
    """One direction over x (T, B, I). Returns (y (T, B, H), last states). A sequence that is over keeps its state; one
    read backwards starts at its own last step."""
    given = F.linear(x, cell.w, cell.biases[0]).unbind(0)
    outputs = []
    for t in reversed(range(len(given))) if backwards else range(len(given)):
        new = step(cell, given[t], state)
        output = new[0]
        if lengths is not None:
            live = (lengths > t).unsqueeze(-1)
            new = [torch.where(live, n, old) for n, old in zip(new, state, strict=True)]
            output = torch.where(live, output, torch.zeros_like(output))
        state = new
        outputs.append(output)
    return torch.stack(outputs[::-1] if backwards else outputs), state
