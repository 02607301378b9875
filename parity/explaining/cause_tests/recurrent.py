"""Recurrent layers: the order of gates, where the reset gate acts, directions, biases and initial states."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from isomorph.parity.explaining.cause_tests.base import Again, alternative

GATES = {"LSTM": "ifgo", "GRU": "rzn", "LSTMCell": "ifgo", "GRUCell": "rzn"}


def _gates_moved(module: Any, order: tuple[int, ...]) -> None:
    for name, parameter in module.named_parameters():
        if "weight_hr" not in name:  # the projection has no gates
            parts = parameter.data.chunk(len(order), 0)
            parameter.data = torch.cat([parts[i] for i in order], 0).contiguous()


@alternative(*GATES)
def gates(again: Again) -> Iterator[tuple[str, Any]]:
    names = GATES[type(again.module).__name__]
    honest = tuple(range(len(names)))
    for order in itertools.permutations(honest):
        if order != honest:
            shown = "".join(names[i] for i in order)
            yield f"gates are in the order {shown}, not {names}", again.altered(partial(_gates_moved, order=order))


@alternative("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
def biases(again: Again) -> Iterator[tuple[str, Any]]:
    for part, text in (("bias_hh", "recurrent"), ("bias_ih", "input")):

        def without(module: Any, part: str = part) -> None:
            for name, parameter in module.named_parameters():
                if part in name:
                    parameter.data = torch.zeros_like(parameter.data)

        yield f"the {text} bias is missing", again.altered(without)


@alternative("LSTM", "GRU", "RNN")
def directions(again: Again) -> Iterator[tuple[str, Any]]:
    module = again.module
    axis = 1 if module.batch_first else 0
    if again.x.ndim == 2:
        axis = 0

    def reversed_run(given: Any, *rest: Any) -> Any:
        result = module(given.flip(axis), *rest)
        return (result[0].flip(axis), *result[1:])

    yield "it runs in the other direction", again.run(reversed_run)
    yield "the input is reversed", again.run(lambda given, *rest: module(given.flip(axis), *rest))
    if module.bidirectional:
        outputs = again.run()
        half = outputs[0].shape[-1] // 2
        first, second = outputs[0][..., :half], outputs[0][..., half:]
        yield (
            "the directions are exchanged",
            [torch.cat([torch.from_numpy(second), torch.from_numpy(first)], -1).numpy()],
        )
        yield (
            "the reverse direction's output is not turned back",
            [torch.cat([torch.from_numpy(first), torch.from_numpy(second.copy()).flip(axis)], -1).numpy()],
        )
        yield (
            "the reverse direction runs forwards",
            again.run(lambda given, *rest: _forwards(module, given, rest, axis, half)),
        )


def _forwards(module: Any, given: Any, rest: Any, axis: int, half: int) -> Any:
    """The second direction over the input as it comes."""
    straight, turned = module(given, *rest), module(given.flip(axis), *rest)
    return torch.cat([straight[0][..., :half], turned[0][..., half:].flip(axis)], -1)


@alternative("LSTM", "GRU", "RNN")
def states(again: Again) -> Iterator[tuple[str, Any]]:
    module = again.module
    if len(again.fault.inputs) > 1:
        yield "the initial state is ignored", again.run(lambda given, *rest: module(given))
        if len(again.fault.inputs) == 3:
            for name, zeroed in (("h", (0.0, 1.0)), ("c", (1.0, 0.0))):
                yield (
                    f"the initial state {name} is ignored",
                    again.run(lambda given, state, z=zeroed: module(given, (state[0] * z[0], state[1] * z[1]))),
                )
            yield (
                "the initial states h and c are exchanged",
                again.run(lambda given, state: module(given, (state[1], state[0]))),
            )
    if module.num_layers > 1:

        def exchanged(m: Any) -> None:
            for name, parameter in list(m.named_parameters()):
                if name.endswith(("_l0", "_l0_reverse")):
                    other = getattr(m, name.replace("_l0", "_l1"))
                    if other.shape == parameter.shape:
                        parameter.data, other.data = other.data, parameter.data

        yield "the layers are exchanged", again.altered(exchanged)


@alternative("GRU")
def reset(again: Again) -> Iterator[tuple[str, Any]]:
    """reset_after=False: the reset gate acts on the state before the recurrent product."""
    module = again.module
    if module.num_layers == 1 and not module.bidirectional and again.x.ndim == 3:
        yield (
            "the reset gate acts before the recurrent product (reset_after=False)",
            again.run(lambda given, *rest: _reset_before(module, given, rest)),
        )


def _reset_before(module: Any, given: torch.Tensor, rest: Any) -> torch.Tensor:
    x = given.transpose(0, 1) if module.batch_first else given
    w, u = module.weight_ih_l0, module.weight_hh_l0
    zero = torch.zeros(w.shape[0], dtype=x.dtype)
    b, c = (module.bias_ih_l0, module.bias_hh_l0) if module.bias else (zero, zero)
    state = rest[0][0] if rest else torch.zeros(x.shape[1], module.hidden_size, dtype=x.dtype)
    (wr, wz, wn), (ur, uz, un) = w.chunk(3), u.chunk(3)
    (br, bz, bn), (cr, cz, cn) = b.chunk(3), c.chunk(3)
    steps = []
    for step in x:
        r = torch.sigmoid(step @ wr.t() + br + state @ ur.t() + cr)
        z = torch.sigmoid(step @ wz.t() + bz + state @ uz.t() + cz)
        n = torch.tanh(step @ wn.t() + bn + (r * state) @ un.t() + cn)
        state = (1 - z) * n + z * state
        steps.append(state)
    result = torch.stack(steps)
    return result.transpose(0, 1) if module.batch_first else result
