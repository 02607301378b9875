"""LSTM, GRU and RNN: torch's layers of those names; several ops that were one stacked layer are one again.

Gates: ONNX LSTM i, o, f, c and torch i, f, g, o; ONNX GRU z, r, h and torch r, z, n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ..moved import Moved, constant_tensor
from ..naming import anonymous, scope_of
from ..tracing import follows, is_zero, trace, trace_from
from . import layer
from .match import Call, Match
from .noise import dropout

KINDS = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # the place of torch's gates among ONNX's
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
JOINT = -1  # Y with its axis of directions; 0 without
ODD = ("activation_alpha", "activation_beta", "clip", "layout", "input_forget")


@dataclass(frozen=True)
class Stacked:
    """One op of a stack. state: torch's parameters without the layer's number. between: what joins it to the next."""

    node: ir.Node
    state: dict[str, Moved | np.ndarray]
    options: dict[str, Any]
    rate: float = 0.0
    between: tuple[ir.Node, ...] = ()


@layer("LSTM", "GRU", "RNN")
def recurrent(m: Match) -> Call | None:
    first = _one(m)
    if first is None:
        return None
    stack = [first]
    while (following := _next(m, stack[-1])) is not None:
        stack[-1], after = following
        stack.append(after)
    rates = {s.rate for s in stack[:-1]}
    if len(rates) > 1:
        stack = stack[:1]
    states = _states(m, stack)
    if states is None:
        return None
    weights, fixed = {}, {}
    for number, one in enumerate(stack):
        for name, held in one.state.items():
            full = name.replace("_l", f"_l{number}")
            if isinstance(held, Moved):
                weights[full] = held
            else:
                fixed[full] = held
    options = first.options | {"num_layers": len(stack), "dropout": rates.pop() if len(stack) > 1 else 0.0}
    last = stack[-1].node
    result, joining = _ending(last.outputs[0])
    outputs = [(0 if joining else JOINT, 0, result)]  # which of (y, h, c), of which layer
    outputs += [(i, n, v) for n, s in enumerate(stack) for i, v in enumerate(s.node.outputs) if i]
    outputs = [(i, n, v) for i, n, v in outputs if v.name and (v.uses() or v.is_graph_output())]
    if not outputs:
        return None
    nodes = [n for s in stack for n in (s.node, *(s.between if s is not stack[-1] else joining))]
    around = _Around(
        m.attribute("direction", "forward") == "reverse",
        2 if options["bidirectional"] else 1,
        len(stack),
        m.node.op_type == "LSTM",
        tuple((i, n) for i, n, _ in outputs),
    )
    inputs = [m.node.inputs[0], *states]
    return Call(
        m.node.op_type.lower(),
        KINDS[m.node.op_type],
        options,
        weights,
        inputs,
        [v for _, _, v in outputs],
        nodes,
        fixed,
        around=around,
    )


@dataclass(frozen=True)
class _Around:
    """Between ONNX's axes and torch's: Y is (time, directions, batch, hidden)."""

    reverse: bool
    directions: int
    layers: int
    is_lstm: bool
    wanted: tuple[tuple[int, int], ...]

    def __call__(self, module: Any, x: Any, *states: Any) -> list[Any]:
        given = [x.flip((0,)) if self.reverse else x]
        if states:
            count = len(states) // self.layers
            whole = [self._joined(states[i::count]) for i in range(count)]
            given.append(tuple(whole) if self.is_lstm else whole[0])
        result = module(*given)
        return [self._output(result, which, number) for which, number in self.wanted]

    def _joined(self, parts: tuple[Any, ...]) -> Any:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts), 0)

    def _output(self, result: Any, which: int, number: int) -> Any:
        if which in (0, JOINT):
            y = result[0].flip((0,)) if self.reverse else result[0]
            if which == 0:
                return y
            return y.unsqueeze(1) if self.directions == 1 else y.unflatten(-1, (2, -1)).transpose(1, 2)
        last = result[1][which - 1] if self.is_lstm else result[1]
        first = number * self.directions
        return last if self.layers == 1 else last[first : first + self.directions]


# ------------------------------------------------------------------------------------------------------------- one op
def _one(m: Match) -> Stacked | None:
    """The op as one layer; None where torch's layer computes something else."""
    kind = m.node.op_type
    w, r = m.weight(1), m.weight(2)
    odd = m.has(4) or m.has(7) or any(m.attribute(name) for name in ODD)
    if w is None or r is None or odd or (kind == "GRU" and not m.attribute("linear_before_reset", 0)):
        return None
    directions, rows, hidden = r.shape
    wanted = ACTIVATIONS[kind] * directions
    given = tuple(m.attribute("activations", wanted))
    nonlinearity = given[0] if kind == "RNN" and set(given) in ({"Tanh"}, {"Relu"}) else None
    if nonlinearity is None and given != wanted:
        return None
    state: dict[str, Moved | np.ndarray] = {}
    bias = None if m.input(3) is None else trace(m.input(3))
    if bias is None and m.has(3):
        return None
    for d in range(directions):
        suffix = "_l_reverse" if d else "_l"
        for name, whole in (("weight_ih", w), ("weight_hh", r)):
            state[name + suffix] = _gates(whole.take(0, d), kind)
        for name, start in (("bias_ih", 0), ("bias_hh", rows)):
            if bias is not None:
                part = _gates(bias.take(0, d).take(0, np.arange(start, start + rows)), kind)
                state[name + suffix] = part if _is_held(m, part) else part.array()
    options = {
        "input_size": w.shape[2],
        "hidden_size": hidden,
        "bias": bias is not None,
        "bidirectional": directions == 2,
    }
    if nonlinearity is not None:
        options["nonlinearity"] = nonlinearity.lower()
    return Stacked(m.node, state, options)


def _gates(part: Moved, kind: str) -> Moved:
    return part if len(ORDER[kind]) == 1 else part.blocks(0, *ORDER[kind])


def _is_held(m: Match, part: Moved) -> bool:
    found = part.resolve()
    return found is None or found.source in m.held


def _states(m: Match, stack: list[Stacked]) -> list[ir.Value] | None:
    """The first states of each layer: [h, c] * layers; [] where all are zero, None where only some are given."""
    count = 2 if m.node.op_type == "LSTM" else 1
    found = [s.node.inputs[5 + i] if len(s.node.inputs) > 5 + i else None for s in stack for i in range(count)]
    if all(v is None or is_zero(v, m.held) for v in found):
        return []
    return None if any(v is None for v in found) else [v for v in found if v is not None]


# ---------------------------------------------------------------------------------------------------------- the stack
def _next(m: Match, one: Stacked) -> tuple[Stacked, Stacked] | None:
    """(the same op with what joins it to the next, the next), where both were one layer of torch."""
    assert one.node.graph is not None
    for node in one.node.graph:
        if node.op_type != one.node.op_type or node is one.node or node.domain or not _one_module(m, one.node, node):
            continue
        between = _between(m, one, node)
        if between is None:
            continue
        after = _one(Match(node, m.held, m.origin, m.version))
        same = {"hidden_size", "bias", "bidirectional", "nonlinearity"}
        if after is None or any(after.options.get(k) != one.options.get(k) for k in same):
            return None
        if node.attributes.get("direction") != one.node.attributes.get("direction"):
            return None
        if m.attribute("direction", "forward") == "reverse":
            return None
        rate, nodes = between
        return Stacked(one.node, one.state, one.options, rate, nodes), after
    return None


def _one_module(m: Match, a: ir.Node, b: ir.Node) -> bool:
    """Whether the names of two ops' weights, or else their own, are those of one module."""
    prefixes = []
    for node in (a, b):
        found = trace(node.inputs[1])
        held = [s for s in found.sources if s in m.held] if found is not None else []
        names = [n for s in held for n in (m.held[s].variable.torch_names if m.held[s].variable else (s.name or "",))]
        plain = {n.rpartition(".")[0] for n in names if "weight_ih_l" in n}
        prefixes.append(plain or ({scope_of(node)} if all(anonymous(n) for n in names) else set()))
    return bool(prefixes[0] & prefixes[1] - {""})


def _between(m: Match, one: Stacked, after: ir.Node) -> tuple[float, tuple[ir.Node, ...]] | None:
    """(dropout's rate, nodes) from one op's Y to the next op's X, if they only join the directions and drop."""
    value, y = after.inputs[0], one.node.outputs[0]
    nodes: list[ir.Node] = []
    rate = 0.0
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Dropout" and not node.domain:
        call = dropout(Match(node, m.held, m.origin, 13 if len(node.inputs) > 1 else 7))
        if call is None or m.only_user(node.outputs[0]) is not after:
            return None
        rate, value = call.options["p"], node.inputs[0]
        nodes.append(node)
    joined = None if value is None else _joining(value, y)
    if joined is None:
        return None
    nodes += joined
    others = [u.node for n in nodes for v in n.outputs for u in v.uses() if u.node not in (after, *nodes)]
    if others:
        nodes += _for_states(m, others, after)
        if any(node not in nodes for node in others):
            return None
    if any(use.node not in nodes for use in y.uses()) or any(v.is_graph_output() for n in nodes for v in n.outputs):
        return None
    return rate, tuple(nodes)


def _ending(y: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """(what Y is brought to, the nodes that do so), if all that is done with it is to join the directions."""
    reached = [y]
    for value in reached:  # it grows
        if len(reached) < 12:
            reached += [
                v for use in value.uses() if follows(use.node, use.idx) for v in use.node.outputs if v not in reached
            ]
    for value in reached[1:]:
        nodes = _joining(value, y) if value.shape is not None and len(value.shape) == 3 else None
        inside = nodes is not None and all(
            u.node in nodes for n in nodes for v in n.outputs if v is not value for u in v.uses()
        )
        if nodes is not None and inside and all(u.node in nodes for u in y.uses()) and not y.is_graph_output():
            return value, nodes
    return y, []


def _for_states(m: Match, nodes: list[ir.Node], after: ir.Node) -> list[ir.Node]:
    """The nodes from these on, if they end in the first states of an op alone: TorchScript's exporter makes zeros of a
    size that it asks the layer before for."""
    found: list[ir.Node] = []
    for node in (queue := list(nodes)):
        if node not in found:
            found.append(node)
            uses = [use for v in node.outputs for use in v.uses()]
            if any(u.node is after and u.idx not in (5, 6) for u in uses) or any(
                v.is_graph_output() for v in node.outputs
            ):
                return []
            queue += [u.node for u in uses if u.node is not after]
            if len(found) > 40:
                return []
    states = [v for v in after.inputs[5:7] if v is not None]
    return found if all(is_zero(v, m.held) for v in states) else []


def _joining(value: ir.Value, y: ir.Value) -> list[ir.Node] | None:
    """The nodes that make (time, batch, directions * hidden) of Y; None where it is something else."""
    nodes: list[ir.Node] = []
    queue = [value]
    for at in queue:
        node = at.producer()
        if at is y or node in nodes or constant_tensor(at) is not None:
            continue
        if node is None or not follows(node, 0) or len(nodes) > 12:
            return None
        nodes.append(node)
        queue += [v for i, v in enumerate(node.inputs) if v is not None and follows(node, i)]
    dims = [d if isinstance(d, int) else stand_in for d, stand_in in zip(y.shape or (), (5, 1, 7, 3), strict=False)]
    if y not in queue or len(dims) != 4:
        return None
    found = trace_from(value, y, tuple(dims))
    if found is None or found.sources != (y,):
        return None
    numbers = np.arange(math.prod(dims)).reshape(dims)
    wanted = numbers.transpose(0, 2, 1, 3).reshape(dims[0], dims[2], -1)
    return nodes if np.array_equal(found.apply({y: numbers}), wanted) else None
