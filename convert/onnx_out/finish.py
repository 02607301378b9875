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

from .draws import DRAWS
from .native import functions, settled
from .opset import IR_VERSION
from .shapes import sizes_in_int64
from .tidy import bodies, drop_identities, every_node, reduce_before_transpose, whole_variables

__all__ = ["LAYER", "Names", "finish"]

LAYER = "isomorph.layer"  # key of a node's metadata: the path of the layer it came from
Names = Mapping[str, str | None]
# Two equal calls of these are two: each draws, or moves its statistics.
CALLS = ("Dropout", "BatchNormalization", "LSTM", "GRU", "RNN", *DRAWS)


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
    finished = onnx.ModelProto(ir_version=IR_VERSION, producer_name="isomorph")
    made = finished.graph  # never copied: protobuf copies no message above 2 GB
    made.name = name
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
    for new in variables:
        _write_tensor(made.initializer.add(), values[new], new)
    made.initializer.extend(writer.found)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    finished.functions.extend(functions(every_node(made), opset))
    finished.opset_import.extend(_opsets(proto, made))
    return finished


def _write_tensor(made: Any, array: np.ndarray, name: str) -> None:
    """An array of any dtype that Keras has into an empty TensorProto."""
    made.name = name
    made.dims.extend(array.shape)
    if array.dtype == object:
        made.data_type = onnx.TensorProto.STRING
        made.string_data.extend(str(v).encode() for v in array.ravel())
        return
    made.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    made.raw_data = np.ascontiguousarray(array).tobytes()


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

    now: old name of a value to the new one. found: the constants, each once. equal: nodes that are there, by what they
    do, and their outputs' old names.
    """

    def __init__(self, now: dict[str, str], taken: set[str], layer_of: Callable[[str], str | None]) -> None:
        self.now, self.layer_of = dict(now), layer_of
        self.values, self.nodes = _Fresh(taken), _Fresh()
        self.constants: dict[tuple[Any, ...], str] = {}
        self.found: list[Any] = []
        self.equal: dict[bytes, tuple[str, ...]] = {}

    def write(self, graph: Any, made: Any, wanted: Mapping[str, str]) -> None:
        """`graph`'s nodes into `made`; wanted: outputs that have a name already."""
        tensors = {t.name: t for t in graph.initializer}
        for node in _ordered(graph, list(wanted)):
            for value in _reads(node):
                if value in tensors and value not in self.now:
                    self._constant(tensors[value])
            new = self._node(node)
            if not self._merged(node, new, wanted):
                made.node.append(self._named(node, new, wanted))
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

    def _node(self, old: Any) -> Any:
        """The node with its inputs' new names and its plain attributes, sorted."""
        node = onnx.NodeProto(op_type=old.op_type, domain=old.domain, overload=old.overload)
        node.input.extend(self.now[v] if v else "" for v in old.input)
        plain = [a for a in old.attribute if a.type != onnx.AttributeProto.GRAPH]
        node.attribute.extend(sorted(plain, key=lambda a: str(a.name)))
        return node

    def _merged(self, old: Any, new: Any, wanted: Mapping[str, str]) -> bool:
        """Whether an equal node is there already, whose outputs then stand for this one's. tf2onnx would do the same,
        but keep any of the two."""
        if bodies(old) or old.domain or old.op_type in CALLS or any(wanted.get(v) for v in old.output):
            return False
        key = new.SerializeToString(deterministic=True)
        if key not in self.equal:
            self.equal[key] = tuple(old.output)
            return False
        self.now |= {mine: self.now[other] for mine, other in zip(old.output, self.equal[key], strict=True) if mine}
        return True

    def _named(self, old: Any, node: Any, wanted: Mapping[str, str]) -> Any:
        """The node with names, and with the bodies in it."""
        layer = self.layer_of(old.name)
        node.name = self.nodes(f"{layer}/{old.op_type}" if layer else old.op_type)
        for i, value in enumerate(old.output):
            if value:
                self.now[value] = wanted.get(value) or self.values(f"{node.name}:{i}" if i else node.name)
            node.output.append(self.now[value] if value else "")
        for attribute in (a for a in old.attribute if a.type == onnx.AttributeProto.GRAPH):
            new = node.attribute.add(name=attribute.name, type=attribute.type)
            outside = dict(self.equal)
            new.g.CopyFrom(self._body(attribute.g, f"{node.name}/{attribute.name}"))
            self.equal = outside  # what is in a body cannot be seen from outside
        if layer:
            node.metadata_props.add(key=LAYER, value=layer)
        return node

    def _body(self, old: Any, name: str) -> Any:
        """A body: its own inputs and values get names of their own, what it takes from outside has its name already."""
        made = onnx.GraphProto(name=name)
        for value in old.input:
            self.now[value.name] = self.values(f"{name}/input")
            made.input.append(_renamed(value, self.now[value.name]))
        outputs = [v.name for v in old.output]
        self.write(old, made, dict.fromkeys(outputs, ""))
        for value in old.output:
            made.output.append(_renamed(value, self.now[value.name]))
        return made


def _renamed(value: Any, name: str) -> Any:
    """A body's input or output; tf2onnx numbers free dims by its counter, which says nothing."""
    info = onnx.ValueInfoProto()
    info.CopyFrom(value)
    info.name = name
    for dim in info.type.tensor_type.shape.dim:
        if dim.HasField("dim_param"):
            dim.ClearField("dim_param")
    return info


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
