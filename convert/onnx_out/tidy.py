"""Small rewrites of tf2onnx's graph that it does not make itself; each keeps every value as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["bodies", "drop_identities", "every_node", "reduce_before_transpose", "transposes", "whole_variables"]

Shape = tuple[int, ...]


def every_node(graph: Any) -> list[Any]:
    """The nodes of a graph and of the bodies inside them."""
    found = []
    for node in graph.node:
        found.append(node)
        for body in bodies(node):
            found += every_node(body)
    return found


def bodies(node: Any) -> list[Any]:
    """The graphs a node holds: branches and loop bodies."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def whole_variables(graph: Any, shapes: Mapping[str, Shape]) -> None:
    """Reshapes of a variable that end in its own shape give way to the variable: Keras' convolutions take their bias
    through (1, 1, 1, n). shapes: of the variables."""
    constants = {t.name: t for t in graph.initializer}
    source: dict[str, tuple[str, Shape]] = {name: (name, shape) for name, shape in shapes.items()}
    for node in graph.node:
        if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Identity") and node.input[0] in source:
            origin, shape = source[node.input[0]]
            new = _reshaped(node, shape, constants)
            if new is not None:
                source[node.output[0]] = (origin, new)
    same = {value: origin for value, (origin, shape) in source.items() if value != origin and shape == shapes[origin]}
    same = {value: origin for value, origin in same.items() if value not in {o.name for o in graph.output}}
    for node in every_node(graph):
        for i, value in enumerate(node.input):
            node.input[i] = same.get(value, value)


def _reshaped(node: Any, shape: Shape, constants: Mapping[str, Any]) -> Shape | None:
    """The shape behind a node that keeps the order of elements; None where it is not known."""
    given = None
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            return None
        given = [int(v) for v in numpy_helper.to_array(constants[node.input[1]])]
    match node.op_type:
        case "Identity":
            return shape
        case "Reshape" if given is not None and not node.attribute:
            sizes = [shape[i] if d == 0 else d for i, d in enumerate(given)]
            return np.broadcast_to(np.int8(0), shape).reshape(sizes).shape
        case "Squeeze":
            axes = {i for i, d in enumerate(shape) if d == 1} if given is None else {a % len(shape) for a in given}
            return tuple(d for i, d in enumerate(shape) if i not in axes)
        case "Unsqueeze" if given is not None:
            rank, rest = len(shape) + len(given), iter(shape)
            axes = {a % rank for a in given}
            return tuple(1 if i in axes else next(rest) for i in range(rank))
    return None


def reduce_before_transpose(graph: Any) -> None:
    """A reduction of transposed axes reads what was transposed, where the axes that stay keep their order: global
    pooling behind channels-first ops."""
    constants = {t.name: t for t in graph.initializer}
    maker = {value: node for node in graph.node for value in node.output}
    for node in graph.node:
        if not node.op_type.startswith("Reduce") or len(node.input) < 2 or node.input[1] not in constants:
            continue
        before = maker.get(node.input[0])
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        if before is None or before.op_type != "Transpose" or keep:
            continue
        perm = next((list(a.ints) for a in before.attribute if a.name == "perm"), None)
        old = numpy_helper.to_array(constants[node.input[1]])
        if perm is None or old.size == 0:
            continue
        axes = sorted(perm[int(a)] for a in old)
        stay = [p for p in perm if p not in axes]
        if stay != sorted(stay):
            continue
        name = f"isomorph/axes/{axes}"
        if name not in constants:
            constants[name] = numpy_helper.from_array(np.array(axes, np.int64), name)
            graph.initializer.append(constants[name])
        node.input[0], node.input[1] = before.input[0], name


def drop_identities(graph: Any) -> None:
    """Readers of an Identity read what it reads, in bodies too. One that gives an output stays."""
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and not node.domain and node.output[0] not in outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
    for node in every_node(graph):
        for i, value in enumerate(node.input):
            node.input[i] = same.get(value, value)
    for node in graph.node:
        for body in bodies(node):
            _plain_outputs(body)
            drop_identities(body)


def _scope(maker: Mapping[str, Any], value: str, i: int) -> str:
    """A node name in the scope of the value's own node."""
    own = str(maker[value].name) if value in maker else ""
    return f"{own.rpartition('/')[0]}/output_{i}" if "/" in own else f"output_{i}"


def _plain_outputs(body: Any) -> None:
    """A body's outputs are what its nodes make, without Identity; the second output of one value, and one that comes
    from outside the body's nodes, needs one. tf2onnx gives it to any of the two."""
    maker = {value: node for node in body.node for value in node.output}
    seen: set[str] = set()
    for i, output in enumerate(body.output):
        value = output.name
        while value in maker and maker[value].op_type == "Identity" and not maker[value].domain:
            value = maker[value].input[0]
        if value in seen or value not in maker:
            name = f"{output.name}/output_{i}"
            body.node.append(onnx.helper.make_node("Identity", [value], [name], name=_scope(maker, value, i)))
            value = name
        seen.add(value)
        output.name = value


def transposes(graph: Any) -> tuple[int, int]:
    """How many there are of activations, and of what is computed from initializers alone."""
    still = {t.name for t in graph.initializer} | {""}
    counts = [0, 0]
    for node in every_node(graph):
        if all(value in still for value in node.input) and not bodies(node):
            still |= set(node.output)
        if node.op_type == "Transpose":
            counts[node.input[0] in still] += 1
    return counts[0], counts[1]
