"""Steps of optimisers, and derivatives inside a graph (ai.onnx.preview.training)."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..operands import Operand
from ..program import Program
from ..registry import rule

DOMAIN = "ai.onnx.preview.training"


def _groups(xs: tuple[Any, ...], count: int) -> list[tuple[Any, ...]]:
    """Tensors listed kind by kind, as one tuple for each variable."""
    each = len(xs) // count
    return [xs[i::each] for i in range(each)]


def _in_order(steps: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The reverse: first the new values of all variables, then each kind of state."""
    return tuple(value for kind in zip(*steps, strict=True) for value in kind)


@rule("Adagrad", domain=DOMAIN)
def adagrad(
    rate: Any, t: Any, *xs: Any, decay_factor: float = 0.0, epsilon: float = 1e-6, norm_coefficient: float = 0.0
) -> Any:
    rate = rate / (1 + t * decay_factor)

    def step(x: Any, gradient: Any, squares: Any) -> tuple[Any, Any]:
        gradient = norm_coefficient * x + gradient
        squares = squares + gradient * gradient
        return x - rate * gradient / (torch.sqrt(squares) + epsilon), squares

    return _in_order([step(*group) for group in _groups(xs, 3)])


@rule("Adam", domain=DOMAIN)
def adam(
    rate: Any,
    t: Any,
    *xs: Any,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> Any:
    corrected = torch.where(t > 0, rate * torch.sqrt(1 - beta**t) / (1 - alpha**t), rate)

    def step(x: Any, gradient: Any, momentum: Any, squares: Any) -> tuple[Any, Any, Any]:
        gradient = norm_coefficient * x + gradient
        momentum = alpha * momentum + (1 - alpha) * gradient
        squares = beta * squares + (1 - beta) * gradient * gradient
        x = x - corrected * momentum / (torch.sqrt(squares) + epsilon)
        return (1 - norm_coefficient_post) * x, momentum, squares

    return _in_order([step(*group) for group in _groups(xs, 4)])


@rule("Momentum", domain=DOMAIN)
def momentum(rate: Any, t: Any, *xs: Any, alpha: float, beta: float, mode: str, norm_coefficient: float) -> Any:
    """mode: "standard" or "nesterov"."""
    damping = torch.where(t > 0, beta, 1.0).type_as(rate)

    def step(x: Any, gradient: Any, velocity: Any) -> tuple[Any, Any]:
        gradient = norm_coefficient * x + gradient
        velocity = alpha * velocity + damping * gradient
        ahead = gradient + alpha * velocity if mode == "nesterov" else velocity
        return x - rate * ahead, velocity

    return _in_order([step(*group) for group in _groups(xs, 3)])


# ---------------------------------------------------------------------------------------------------------- derivatives
class Gradient(torch.nn.Module):
    """The derivatives of the sum of a function's result in its first `count` arguments."""

    def __init__(self, function: torch.nn.Module, count: int) -> None:
        super().__init__()
        self.function, self.count = function, count

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        def of(*xs: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.function(*xs, *given[self.count :])
            return result

        made = torch.func.vjp(of, *given[: self.count])
        found: tuple[torch.Tensor, ...] = made[1](torch.ones_like(made[0]))
        return found


@rule("Gradient", domain=DOMAIN)
def gradient(*inputs: Any, xs: tuple[str, ...], y: str, zs: tuple[str, ...] = (), site: Any) -> Any:
    """The derivatives of the value `y` in the values `xs`, as functions of those and `zs`, where they are `inputs`."""
    found = {value.name: made for value, made in site.lowering.values.items()}
    missing = [name for name in (*xs, *zs, y) if not isinstance(found.get(name), fx.Proxy)]
    if missing:
        raise ValueError(f"there is no tensor {missing[0]!r} before it")
    function, outer = between([found[n].node for n in (*xs, *zs)], found[y].node)
    made = site.module("gradient", Gradient(function, len(xs)), (*inputs, *(wrapped(n, inputs[0]) for n in outer)))
    return tuple(made[i] for i in range(len(xs)))


def wrapped(node: fx.Node, beside: Operand) -> Operand:
    """A node of the graph as an operand of it."""
    return Operand(node, beside.tracer)


def between(sources: list[fx.Node], target: fx.Node) -> tuple[Program, list[fx.Node]]:
    """The part of a graph that makes the target from the sources, as a module, and what it reads besides: parameters,
    constants, other inputs and what modules give are handed in."""
    graph = fx.Graph()
    outer: list[fx.Node] = []
    copies = {node: graph.placeholder(f"x{i}") for i, node in enumerate(sources)}
    inside = depending(sources, target)
    for node in target.graph.nodes:
        if node in inside and node not in copies:
            for read in node.all_input_nodes:
                if read not in copies:
                    with graph.inserting_before(first_call(graph)):
                        copies[read] = graph.placeholder(f"x{len(sources) + len(outer)}")
                    outer.append(read)
            if node.op == "call_module":
                raise ValueError(f"the derivative goes through the module {node.target}, which is not supported")
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(copies[target])
    return Program(torch.nn.Module(), graph), outer


def first_call(graph: fx.Graph) -> fx.Node:
    """What comes after the placeholders."""
    return next((n for n in graph.nodes if n.op != "placeholder"), graph._root)


def depending(sources: list[fx.Node], target: fx.Node) -> set[fx.Node]:
    """The nodes on the ways from the sources to the target."""
    reached = set(sources)
    for node in target.graph.nodes:
        if any(read in reached for read in node.all_input_nodes):
            reached.add(node)
    return reached
