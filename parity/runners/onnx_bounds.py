"""Which tables the integer inputs of an ONNX model index, told from its graph."""

from __future__ import annotations

from typing import Any, NamedTuple

from onnx import numpy_helper

__all__ = ["index_bounds"]

SAME = {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Slice", "Expand", "Tile"}
AXIS = {"Gather": 0, "GatherElements": 0, "ArrayFeatureExtractor": -1}


class _Index(NamedTuple):
    """Values of an input plus a constant."""

    input: str
    offset: int


def index_bounds(model: Any) -> dict[str, int]:
    """Input name -> how many values from 0 on are rows of the smallest table that it indexes. Only nodes of the main
    graph, and tables that the file holds, are looked at."""
    held = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in (a for a in node.attribute if a.name == "value"):
                held[node.output[0]] = attribute.t
    shapes = {name: tuple(tensor.dims) for name, tensor in held.items()}
    indices = {v.name: _Index(v.name, 0) for v in model.graph.input if v.name not in held}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in AXIS and node.input[0] in shapes and node.input[1] in indices:
            index, shape = indices[node.input[1]], shapes[node.input[0]]
            axis = next((int(a.i) for a in node.attribute if a.name == "axis"), AXIS[node.op_type])
            if shape:
                rows = max(1, shape[axis] - max(0, index.offset))
                found[index.input] = min(rows, found.get(index.input, rows))
        moved = _moved(node, shapes)
        if moved is not None:
            shapes[node.output[0]] = moved
        passed = _passed(node, indices, held)
        if passed is not None:
            indices[node.output[0]] = passed
    return found


def _moved(node: Any, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of a table that a node hands on, or transposes."""
    if not node.input or node.input[0] not in shapes or node.op_type not in ("Identity", "Cast", "Transpose"):
        return None
    shape = shapes[node.input[0]]
    if node.op_type != "Transpose":
        return shape
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(len(shape)))[::-1])
    return tuple(shape[axis] for axis in order)


def _passed(node: Any, indices: dict[str, _Index], held: dict[str, Any]) -> _Index | None:
    """The index that a node hands on. Where one branch wraps negative values around, the other one counts."""
    given = [indices[name] for name in node.input if name in indices]
    if not given:
        return None
    if node.op_type in SAME:
        return indices.get(node.input[0])
    if node.op_type in ("Where", "Max", "Min"):
        return min(given, key=lambda index: abs(index.offset))
    if node.op_type in ("Add", "Sub") and len(given) == 1 and (node.op_type == "Add" or node.input[0] in indices):
        constant = next((held[name] for name in node.input if name in held), None)
        if constant is None:
            return None
        values = numpy_helper.to_array(constant)
        if values.dtype.kind in "iu" and values.size:
            return given[0]._replace(
                offset=given[0].offset + int(values.max() if node.op_type == "Add" else -values.min())
            )
    return None
