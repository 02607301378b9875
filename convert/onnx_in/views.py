"""What moves the elements of a weight on its way to its use becomes one step from where torch holds it.

before: Transpose(Reshape(kernel)) -> Mul       after: isomorph.module.View(kernel) -> Mul, recorded as one permute
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from . import layers
from .initializers import Held
from .moved import shape_of, simplify
from .tracing import follows, trace

__all__ = ["put_views"]


def put_views(graph: ir.Graph, held: Mapping[ir.Value, Held]) -> None:
    """Put a View in front of every op that reads a weight moved by invertible steps."""
    made: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        for i, value in enumerate(node.inputs):
            if value is None or follows(node, i) or value.producer() is None:
                continue
            if value not in made:
                view = _view(value, held)
                if view is None:
                    continue
                graph.insert_before(node, view)
                made[value] = view.outputs[0]
            node.replace_input_with(i, made[value])


def _view(value: ir.Value, held: Mapping[ir.Value, Held]) -> ir.Node | None:
    found = trace(value)
    if found is None or found.steps is None or found.sources[0] not in held:
        return None
    source = held[found.sources[0]]
    if len(source.pieces) != 1 or source.pieces[0].part is not None:
        return None
    node = ir.Node(layers.MODULE, layers.VIEW, [source.value], name=value.name)
    node.meta["view"] = source, simplify(found.steps, shape_of(source.value))
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{value.name}/view", value.type, ir.Shape(found.shape)
    return node
