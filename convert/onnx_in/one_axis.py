"""Convolutions over one axis that were written as convolutions over two, the other of size 1, become what they are.

before: x -> Unsqueeze(2) -> Conv(kernel (o, i, 1, k)) -> Squeeze(2) -> y
after:  x -> Conv(kernel (o, i, k)) -> y
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .moved import Moved
from .tracing import integers_of, trace

__all__ = ["axes_of", "constant_integers", "replace_value", "sink_unsqueezes"]

CONVOLUTIONS = ("Conv", "ConvTranspose")
PER_AXIS = ("kernel_shape", "strides", "dilations", "output_padding")


def axes_of(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a Squeeze or Unsqueeze; None where they are not known or it is another op."""
    if node.op_type not in ("Squeeze", "Unsqueeze") or node.domain:
        return None
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].value)
    return integers_of(node.inputs[1]) if len(node.inputs) > 1 else None


def constant_integers(numbers: Sequence[int]) -> ir.Node:
    """A Constant of these integers."""
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(np.array(numbers, np.int64)))])
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(numbers)])
    return node


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Everyone who read `old` reads `new`; an output keeps its own value if `new` is an input or an output already."""
    if old.is_graph_output() and (new.is_graph_output() or new.producer() is None):
        node = old.producer()
        assert node is not None
        node.op_type = "Identity"
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, new)
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, new)
        return
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def sink_unsqueezes(graph: ir.Graph) -> bool:
    """Move what puts an axis in behind the convolutions and pads that do nothing on it, until it meets what takes the
    axis away. True if anything changed."""
    changed = False
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        put = source.producer() if source is not None else None
        axes = axes_of(put) if put is not None and put.op_type == "Unsqueeze" else None
        if (
            put is None
            or axes is None
            or len(axes) != 1
            or put.inputs[0] is None
            or _rank(source) is None
            or node.domain
        ):
            continue
        axis = axes[0] % (_rank(source) or 1)
        if node.op_type == "Squeeze":
            mine = axes_of(node)
            if mine is not None and [a % (_rank(source) or 1) for a in mine] == [axis]:
                replace_value(node.outputs[0], put.inputs[0])
                changed = True
        elif _rank(source) == 4 and axis in (2, 3):
            made = _narrowed(node, put.inputs[0], axis)
            if made is not None:
                _put_back(node, made, axis)
                changed = True
    return changed


def _narrowed(node: ir.Node, x: ir.Value, axis: int) -> list[ir.Node] | None:
    """The nodes that do the same without the axis; None where the op does something on it."""
    if node.op_type == "Pad":
        return _pad(node, x, axis)
    weight = trace(node.inputs[1]) if node.op_type in CONVOLUTIONS and node.inputs[1] is not None else None
    if weight is None or len(weight.shape) != 4 or weight.shape[axis] != 1:
        return None
    return _convolution(node, x, weight, axis)


def _convolution(node: ir.Node, x: ir.Value, weight: Moved, axis: int) -> list[ir.Node] | None:
    own = {name: a.value for name, a in node.attributes.items()}
    pads = list(own.get("pads", (0, 0, 0, 0)))
    i = axis - 2
    if pads[i] or pads[i + 2] or "output_shape" in own or own.get("output_padding", (0, 0))[i]:
        return None
    if (
        node.op_type == "ConvTranspose"
        and own.get("strides", (1, 1))[i] != 1
        and own.get("auto_pad", "NOTSET") != "NOTSET"
    ):
        return None
    attributes = [a for name, a in node.attributes.items() if name not in (*PER_AXIS, "pads")]
    attributes += [ir.AttrInt64s(name, [own[name][1 - i]]) for name in PER_AXIS if name in own]
    if "pads" in own:
        attributes.append(ir.AttrInt64s("pads", [pads[1 - i], pads[3 - i]]))
    shape = [d for a, d in enumerate(weight.shape) if a != axis]
    held = constant_integers(shape)
    reshape = ir.Node("", "Reshape", [node.inputs[1], held.outputs[0]])
    assert node.inputs[1] is not None
    reshape.outputs[0].type, reshape.outputs[0].shape = node.inputs[1].type, ir.Shape(shape)
    reshape.outputs[0].name = f"{node.inputs[1].name}/narrow"
    new = ir.Node("", node.op_type, [x, reshape.outputs[0], *node.inputs[2:]], attributes, name=node.name)
    return [held, reshape, new]


def _pad(node: ir.Node, x: ir.Value, axis: int) -> list[ir.Node] | None:
    if "pads" in node.attributes:
        pads: tuple[int, ...] | None = tuple(node.attributes["pads"].value)
    else:
        pads = integers_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if (
        pads is None
        or len(pads) != 8
        or pads[axis]
        or pads[axis + 4]
        or (len(node.inputs) > 3 and node.inputs[3] is not None)
    ):
        return None
    rest = [p for i, p in enumerate(pads) if i % 4 != axis]
    if "pads" in node.attributes:
        kept = [a for name, a in node.attributes.items() if name != "pads"]
        return [ir.Node("", "Pad", [x], [*kept, ir.AttrInt64s("pads", rest)], name=node.name)]
    held = constant_integers(rest)
    return [
        held,
        ir.Node("", "Pad", [x, held.outputs[0], *node.inputs[2:]], list(node.attributes.values()), name=node.name),
    ]


def _put_back(node: ir.Node, made: list[ir.Node], axis: int) -> None:
    """Put the new nodes, and what puts the axis in behind them, in the place of a node."""
    graph, new, old = node.graph, made[-1], node.outputs[0]
    assert graph is not None
    new.metadata_props.update(node.metadata_props)
    result = new.outputs[0]
    result.type, result.name = old.type, f"{old.name}/narrow"
    if old.shape is not None:
        result.shape = ir.Shape([d for i, d in enumerate(old.shape) if i != axis])
    held = constant_integers([axis])
    back = ir.Node("", "Unsqueeze", [result, held.outputs[0]])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*made, held, back], [old], [back.outputs[0]])


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
