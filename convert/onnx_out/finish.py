"""From tf2onnx's nodes to the finished graph: public names, variables as initializers, the same bytes each time.

tf2onnx numbers what it makes from a counter that runs on from model to model, and orders nodes by hashes. Here nodes
are put into the order in which the outputs need them and named by the layer they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .native import functions, settled
from .opset import IR_VERSION
from .shapes import sizes_in_int64
from .tidy import bodies, drop_identities, every_node, reduce_before_transpose, whole_variables

__all__ = ["LAYER", "Names", "finish"]

LAYER = "isomorph.layer"  # key of a node's metadata: the path of the layer it came from
Names = Mapping[str, str | None]


def finish(
    proto: Any,
    inputs: Names,
    outputs: Mapping[str, str],
    variables: Names,
    values: Mapping[str, np.ndarray],
    ports: Mapping[str, tuple[str, tuple[int | str, ...]]],
    layer_of: Callable[[str], str | None],
    name: str,
) -> Any:
    """A new ModelProto.

    inputs, outputs, variables: public name to the tensor's name in `proto`, None for what `proto` does not read.
    values: the variables' arrays by public name. ports: dtype and dims of every input and output; dims that are text
    are free, and those of the same text equal. layer_of: the path of the layer from a node's name. name: the graph's.
    """
    graph = proto.graph
    settled(graph)
    whole_variables(graph, {old: np.shape(values[new]) for new, old in variables.items() if old is not None})
    reduce_before_transpose(graph)
    sizes_in_int64(graph)
    drop_identities(graph)
    known = {old: new for names in (inputs, variables) for new, old in names.items() if old is not None}
    made = onnx.GraphProto(name=name)
    writer = _Writer(known, {*inputs, *outputs, *variables}, layer_of)
    wanted = {old: new for new, old in outputs.items()}
    writer.write(graph, made, wanted)
    for new, old in outputs.items():
        made.output.append(_value_info(new, *ports[new]))
        if writer.now[old] != new:  # an output that is an input, a variable, or another output
            made.node.append(
                onnx.helper.make_node("Identity", [writer.now[old]], [new], name=writer.nodes(f"{new}/Identity"))
            )
    made.input.extend(_value_info(new, *ports[new]) for new in inputs)
    made.initializer.extend(tensor(values[new], new) for new in variables)
    made.initializer.extend(writer.found)
    finished = onnx.ModelProto(ir_version=IR_VERSION, producer_name="isomorph", graph=made)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    finished.functions.extend(functions(every_node(made), opset))
    finished.opset_import.extend(_opsets(proto, made))
    return finished


def tensor(array: np.ndarray, name: str) -> Any:
    """A TensorProto of any dtype that Keras has."""
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name)


def _value_info(name: str, dtype: str, dims: tuple[int | str, ...]) -> Any:
    kind = onnx.TensorProto.DataType.Value("DOUBLE" if dtype == "float64" else _kind(dtype))
    return onnx.helper.make_tensor_value_info(name, kind, list(dims))


def _kind(dtype: str) -> str:
    return {"float32": "FLOAT", "string": "STRING"}.get(dtype, dtype.upper())


def _opsets(proto: Any, graph: Any) -> list[Any]:
    used = {"" if node.domain == "ai.onnx" else node.domain for node in every_node(graph)} | {""}
    known = {o.domain: o.version for o in proto.opset_import}
    return [onnx.helper.make_opsetid(domain, known.get(domain, 1)) for domain in sorted(used)]


# --------------------------------------------------------------------------------------------------------------- naming
class _Fresh:
    """Hands out names, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)
        self.counts: dict[str, int] = {}

    def __call__(self, base: str) -> str:
        while True:
            number = self.counts[base] = self.counts.get(base, -1) + 1
            name = f"{base}_{number}" if number else base
            if name not in self.taken:
                self.taken.add(name)
                return name


class _Writer:
    """Copies nodes in the order in which they are needed, under new names.

    now: old name of a value to the new one. found: the constants, each once.
    """

    def __init__(self, now: dict[str, str], taken: set[str], layer_of: Callable[[str], str | None]) -> None:
        self.now, self.layer_of = dict(now), layer_of
        self.values, self.nodes = _Fresh(taken), _Fresh()
        self.constants: dict[tuple[Any, ...], str] = {}
        self.found: list[Any] = []

    def write(self, graph: Any, made: Any, wanted: Mapping[str, str]) -> None:
        """`graph`'s nodes into `made`; wanted: outputs that have a name already."""
        tensors = {t.name: t for t in graph.initializer}
        for node in _ordered(graph, list(wanted)):
            for value in _reads(node):
                if value in tensors and value not in self.now:
                    self._constant(tensors[value])
            made.node.append(self._node(node, wanted))
        for value in wanted:
            if value in tensors and value not in self.now:
                self._constant(tensors[value])

    def _constant(self, old: Any) -> None:
        """Those of bodies, too, go to the graph itself, where every body sees them."""
        array = numpy_helper.to_array(old)
        key = (old.data_type, tuple(old.dims), array.tobytes() if array.dtype != object else tuple(array.ravel()))
        if key not in self.constants:
            new = onnx.TensorProto()
            new.CopyFrom(old)
            new.name = self.constants[key] = self.values("constant")
            self.found.append(new)
        self.now[old.name] = self.constants[key]

    def _node(self, old: Any, wanted: Mapping[str, str]) -> Any:
        layer = self.layer_of(old.name)
        name = self.nodes(f"{layer}/{old.op_type}" if layer else old.op_type)
        node = onnx.NodeProto(op_type=old.op_type, domain=old.domain, name=name, overload=old.overload)
        node.input.extend(self.now[v] if v else "" for v in old.input)
        for i, value in enumerate(old.output):
            if value:
                self.now[value] = wanted.get(value) or self.values(name if not i else f"{name}:{i}")
            node.output.append(self.now[value] if value else "")
        for attribute in sorted(old.attribute, key=lambda a: str(a.name)):
            new = node.attribute.add()
            if attribute.type == onnx.AttributeProto.GRAPH:
                new.name, new.type = attribute.name, attribute.type
                new.g.CopyFrom(self._body(attribute.g, f"{name}/{attribute.name}"))
            else:
                new.CopyFrom(attribute)
        if layer:
            node.metadata_props.add(key=LAYER, value=layer)
        return node

    def _body(self, old: Any, name: str) -> Any:
        """A body: its own inputs and values get names of their own, what it takes from outside has its name already."""
        made = onnx.GraphProto(name=name)
        for value in old.input:
            self.now[value.name] = self.values(f"{name}/input")
            info = made.input.add()
            info.CopyFrom(value)
            info.name = self.now[value.name]
        outputs = [v.name for v in old.output]
        self.write(old, made, dict.fromkeys(outputs, ""))
        for value in old.output:
            info = made.output.add()
            info.CopyFrom(value)
            info.name = self.now[value.name]
        return made


def _reads(node: Any) -> list[str]:
    """What a node reads, and the bodies in it from outside."""
    found = [v for v in node.input if v]
    for body in bodies(node):
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {v for inner in body.node for v in inner.output}
        outside = [v for inner in body.node for v in _reads(inner)] + [v.name for v in body.output]
        found += [v for v in outside if v not in own]
    return found


def _ordered(graph: Any, outputs: list[str]) -> list[Any]:
    """The nodes that the outputs need, each behind what it reads."""
    maker = {value: node for node in graph.node for value in node.output if value}
    done: set[int] = set()
    found: list[Any] = []
    stack = [(maker[v], False) for v in reversed(outputs) if v in maker]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            found.append(node)
            continue
        stack.append((node, True))
        stack += [(maker[v], False) for v in reversed(_reads(node)) if v in maker and id(maker[v]) not in done]
    return found
