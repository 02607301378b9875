"""Rows: recurrent networks."""

from __future__ import annotations

from typing import Any

from torch import nn

from .harness import Case, rand

OPS = {nn.LSTM: "aten.lstm.input", nn.GRU: "aten.gru.input"}


class Flat(nn.Module):
    """The outputs of a recurrent module as one flat tuple; initial states may come as inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any, *states: Any) -> Any:
        if not states:
            y, last = self.inner(x)
        else:
            y, last = self.inner(x, states if len(states) > 1 else states[0])
        return (y, *last) if isinstance(last, tuple) else (y, last)


def rnn(
    name: str, cls: Any, shape: tuple[int, ...], *states: tuple[int, ...], dynamic: Any = False, **options: Any
) -> Case:
    op = OPS.get(cls) or f"aten.rnn_{options.get('nonlinearity', 'tanh')}.input"
    inputs = [shape, *states]
    return Case(
        name,
        (op,),
        lambda: Flat(cls(3, 4, **options)),
        lambda: [rand(*s, seed=i) for i, s in enumerate(inputs)],
        module=True,
        dynamic=dynamic,
    )


CASES = [
    rnn("lstm", nn.LSTM, (2, 5, 3), batch_first=True, dynamic=True),
    rnn("lstm_time_first", nn.LSTM, (5, 2, 3)),
    rnn("lstm_stacked", nn.LSTM, (2, 5, 3), batch_first=True, num_layers=2),
    rnn("lstm_bidirectional", nn.LSTM, (2, 5, 3), batch_first=True, num_layers=2, bidirectional=True, dynamic=True),
    rnn("lstm_states", nn.LSTM, (5, 2, 3), (1, 2, 4), (1, 2, 4)),
    rnn("lstm_projected", nn.LSTM, (2, 5, 3), batch_first=True, num_layers=2, proj_size=2),
    rnn("lstm_no_bias", nn.LSTM, (2, 5, 3), batch_first=True, bias=False),
    rnn("lstm_unbatched", nn.LSTM, (5, 3)),
    rnn("gru", nn.GRU, (2, 5, 3), batch_first=True, dynamic=True),
    rnn("gru_states", nn.GRU, (5, 2, 3), (4, 2, 4), num_layers=2, bidirectional=True),
    rnn("gru_no_bias", nn.GRU, (5, 2, 3), bias=False),
    rnn("rnn_tanh", nn.RNN, (2, 5, 3), batch_first=True, num_layers=2),
    rnn("rnn_relu", nn.RNN, (2, 5, 3), batch_first=True, bidirectional=True, nonlinearity="relu"),
    Case("lstm_cell", ("aten.lstm_cell.default",), lambda: nn.LSTMCell(3, 4), lambda: [rand(2, 3)], module=True),
    Case(
        "gru_cell", ("aten.gru_cell.default",), lambda: nn.GRUCell(3, 4), lambda: [rand(2, 3), rand(2, 4)], module=True
    ),
    Case(
        "rnn_tanh_cell",
        ("aten.rnn_tanh_cell.default",),
        lambda: nn.RNNCell(3, 4),
        lambda: [rand(2, 3), rand(2, 4)],
        module=True,
    ),
    Case(
        "rnn_relu_cell",
        ("aten.rnn_relu_cell.default",),
        lambda: nn.RNNCell(3, 4, nonlinearity="relu"),
        lambda: [rand(2, 3), rand(2, 4)],
        module=True,
    ),
]
