"""Types and shapes of a graph's values, from onnx's shape inference and what it leaves open: sizes that are computed.

onnx can follow computed sizes itself (`data_prop`), but holds an entry for each element of every vector on the way: a
file of a few bytes that makes a vector of 2^40 elements would take all memory. Here at most LONGEST numbers are
followed.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isomorph.convert.errors import UsageError, one_line

from . import proto
from .checks import standard

__all__ = ["inferred"]

MAX_VALUE = 2**40  # elements of one value whose shape is static: nothing that runs is larger
LONGEST = 64  # numbers in a shape or axes vector that is followed
T = TypeVar("T")
Size = int | str | None  # a number, the name of a free dim, or nothing known
Numbers = tuple[Size, ...]
Known = MutableMapping[str, T]  # of each value by its name
Types = Sequence[Any]  # of a node's inputs, as TypeProto
Vectors = Sequence[Numbers | None]  # the numbers in them


def inferred(model: Any, opsets: dict[str, int], notes: list[str], where: str) -> Any:
    """The model with the types and shapes that follow, which must be valid. What does not follow goes to `notes`.

    Raises UsageError: onnx's checker objects, types contradict each other, a value no machine can hold.
    """
    _require_valid(model, notes, where)
    _require_sizes(model, where)  # before: onnx counts some sizes one by one
    found = _by_onnx(model, notes, where)
    _Walk(found, opsets).graph(found.graph, {}, {})
    _require_sizes(found, where)
    return found


def _require_valid(model: Any, notes: list[str], where: str) -> None:
    """Raise UsageError where onnx's checker objects, except that an output's shape need not be stated, and that an op
    may be deprecated (GroupNormalization of opset 18 to 20 is, and is in use)."""
    open_ = [
        v for v in model.graph.output if v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape")
    ]
    for value in open_:
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        if "is deprecated in domain_version" not in str(error):
            raise UsageError(f"{where}: not valid ONNX: {plain_text(error)}") from error
        notes.append(plain_text(error))
    for value in open_:
        value.type.tensor_type.ClearField("shape")


def _require_sizes(model: Any, where: str) -> None:
    """Raise UsageError where a value of static shape is larger than any machine can hold."""
    for graph in proto.graphs(model):
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            for dim in tensor.shape.dim:
                if dim.dim_value < 0:  # inferred, for a branch that is never taken
                    dim.ClearField("dim_value")
            dims = [d.dim_value if d.HasField("dim_value") else 1 for d in tensor.shape.dim]
            if math.prod(dims) > MAX_VALUE:
                raise UsageError(f"{where}: {value.name!r} has dims {dims}: more than any machine can hold")


def _by_onnx(model: Any, notes: list[str], where: str) -> Any:
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:
        text = plain_text(error)
        if "TypeInferenceError" in text or "Type Error" in text:
            raise UsageError(f"{where}: its types contradict each other: {text}") from error
        notes.append(f"shapes could not be inferred in full: {text}")
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        notes.append(f"shapes could not be inferred: {plain_text(error)}")
    return model


class _Walk:
    """Over the nodes in their order: the small integer vectors, and the types that follow from them."""

    def __init__(self, model: Any, opsets: dict[str, int]) -> None:
        self.opsets = opsets
        self.imports = list(model.opset_import)
        self.ir_version = model.ir_version

    def graph(self, graph: Any, outer: Known[Any], outer_numbers: Known[Numbers]) -> None:
        types, numbers = ChainMap({}, outer), ChainMap({}, outer_numbers)  # thousands of branches share the outer ones
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = value.type
        for tensor in graph.initializer:
            types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            _remember(numbers, tensor.name, tensor)
        stated = {value.name for value in (*graph.value_info, *graph.output)}
        changed: set[str] = set()
        for node in graph.node:
            for inner in proto.attached_graphs(node):
                self.graph(inner, types, numbers)
            for name, new in self._node(node, types, numbers, changed).items():
                changed.add(name)
                types[name] = new
                if name not in stated:
                    stated.add(name)
                    graph.value_info.append(onnx.ValueInfoProto(name=name))
            self._follow(node, types, numbers)
        for value in (*graph.value_info, *graph.output):
            if value.name in changed:
                value.type.CopyFrom(types[value.name])

    def _node(self, node: Any, types: Known[Any], numbers: Known[Numbers], changed: set[str]) -> dict[str, Any]:
        """The types of the node's outputs that are better known than before."""
        domain = standard(node.domain)
        version = self.opsets.get(domain, 0)
        if not version or not onnx.defs.has(node.op_type, version, domain) or proto.attached_graphs(node):
            return {}
        if all(_settled(types.get(name)) for name in node.output if name):
            return {}
        if not any(name in changed or name in numbers for name in node.input):
            return {}
        if any(name and types.get(name) is None for name in node.input):
            return {}
        found = {}
        sizes, element = _sized(node, types, numbers), _element(types.get(node.output[0]))
        if sizes is not None and element:
            found = {node.output[0]: helper.make_tensor_type_proto(element, sizes)}
        else:
            plain = [name for name in node.input if name in numbers and _known(numbers[name])]
            data = {name: numpy_helper.from_array(_whole(numbers[name], types[name]), name) for name in plain}
            schema = onnx.defs.get_schema(node.op_type, version, domain)
            given = {name: types[name] for name in node.input if name}
            infer_node = onnx.shape_inference.infer_node_outputs
            try:
                found = infer_node(schema, node, given, data, None, self.imports, self.ir_version)
            except Exception:
                return {}  # it was noted, or is met again when the node is lowered
        return {n: t for n, t in found.items() if t.WhichOneof("value") and not _settled(types.get(n))}

    def _follow(self, node: Any, types: Known[Any], numbers: Known[Numbers]) -> None:
        """Note the numbers that the node makes, if it only moves or adds up numbers that are known."""
        if standard(node.domain) or not node.output or node.output[0] in numbers:
            return
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    _remember(numbers, node.output[0], attribute.t)
                elif attribute.name in ("value_int", "value_ints"):
                    ints = list(attribute.ints) if attribute.name == "value_ints" else [attribute.i]
                    _set(numbers, node.output[0], tuple(ints))
            return
        make = MOVES.get(node.op_type)
        if make is None:
            return
        try:
            result = make(node, [types.get(n) for n in node.input], [numbers.get(n) for n in node.input])
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return  # a wrong index or axis: the op's own rule will say so
        if result is not None:
            _set(numbers, node.output[0], result)


# ------------------------------------------------------------------------------------------ what moves or makes numbers
def _dims(type_: Any) -> list[Size] | None:
    if type_ is None or not type_.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in type_.tensor_type.shape.dim]


def _rank(type_: Any) -> int | None:
    dims = _dims(type_)
    return None if dims is None else len(dims)


def _attribute(node: Any, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _shape(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    dims = _dims(types[0])
    return None if dims is None else tuple(dims[_attribute(node, "start", 0) : _attribute(node, "end", len(dims))])


def _size(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    dims = _dims(types[0])
    known = [d for d in dims or () if isinstance(d, int)]
    return None if dims is None or len(known) < len(dims) else (math.prod(known),)


def _same(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    return numbers[0]


def _cast(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    return numbers[0] if _attribute(node, "to", 0) in (TensorProto.INT64, TensorProto.INT32) else None


def _gather(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    if numbers[0] is None or numbers[1] is None or _rank(types[0]) != 1 or (_rank(types[1]) or 0) > 1:
        return None
    return tuple(numbers[0][i] for i in numbers[1] if isinstance(i, int)) if _known(numbers[1]) else None


def _concat(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    known = [n for n in numbers if n is not None]
    return tuple(x for n in known for x in n) if len(known) == len(numbers) else None


def _slice(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
    if numbers[0] is None or _rank(types[0]) != 1:
        return None
    starts, ends = _attribute(node, "starts", None), _attribute(node, "ends", None)
    if starts is None:
        given = [n for n in numbers[1:3] if n is not None and _known(n) and len(n) == 1]
        if len(given) != 2:
            return None
        starts, ends = given
    step = numbers[4] if len(numbers) > 4 else (1,)
    if step is None or not _known(step):
        return None
    return numbers[0][slice(*(int(n) for n in (starts[0], ends[0], step[0]) if n is not None))]


def _arithmetic(compute: Callable[[int, int], int]) -> Callable[..., Numbers | None]:
    def make(node: Any, types: Types, numbers: Vectors) -> Numbers | None:
        a, b = numbers
        if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
            return None
        length = max(len(a), len(b))
        a, b = a * (length // len(a)), b * (length // len(b))
        pairs = zip(a, b, strict=True)
        return tuple(compute(x, y) if isinstance(x, int) and isinstance(y, int) else None for x, y in pairs)

    return make


MOVES: dict[str, Callable[..., Numbers | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Reshape": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Add": _arithmetic(lambda x, y: x + y),
    "Sub": _arithmetic(lambda x, y: x - y),
    "Mul": _arithmetic(lambda x, y: x * y),
    "Div": _arithmetic(lambda x, y: abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)),
}


def _sized(node: Any, types: Known[Any], numbers: Known[Numbers]) -> list[Size] | None:
    """The output's dims of an op that takes a shape of which some numbers are free; None where onnx can tell itself."""
    where = {"ConstantOfShape": 0, "Reshape": 1, "Expand": 1}.get(node.op_type)
    if standard(node.domain) or where is None or len(node.input) <= where:
        return None
    asked = numbers.get(node.input[where])
    if asked is None or _known(asked) or _rank(types[node.input[where]]) != 1:
        return None
    dims = _dims(types[node.input[0]])
    if node.op_type == "ConstantOfShape":
        return list(asked)
    if node.op_type == "Reshape":
        copied = not _attribute(node, "allowzero", 0)
        return [_copied(dims, i) if n == 0 and copied else None if n == -1 else n for i, n in enumerate(asked)]
    if dims is None:
        return None
    rank = max(len(dims), len(asked))
    pairs = zip([1] * (rank - len(dims)) + dims, [1] * (rank - len(asked)) + list(asked), strict=True)
    return [a if b == 1 or a == b else b if a == 1 or isinstance(b, int) else None for a, b in pairs]


def _copied(dims: list[Size] | None, i: int) -> Size:
    return dims[i] if dims is not None and i < len(dims) else None


def _known(numbers: Numbers) -> bool:
    return all(isinstance(n, int) for n in numbers)


def _whole(numbers: Numbers, type_: Any) -> Any:
    """Known numbers as the array they are."""
    dtype = helper.tensor_dtype_to_np_dtype(_element(type_) or TensorProto.INT64)
    return np.array(numbers, dtype).reshape([] if _rank(type_) == 0 else [-1])


def _element(type_: Any) -> int:
    return int(type_.tensor_type.elem_type) if type_ is not None else 0


def _settled(type_: Any) -> bool:
    """Whether nothing can be added: all dims are numbers, or names that the model itself gives."""
    if type_ is None or not type_.HasField("tensor_type"):
        return type_ is not None and type_.WhichOneof("value") is not None
    dims = _dims(type_)
    return dims is not None and all(d is not None and not str(d).startswith("unk__") for d in dims)


def _remember(numbers: Known[Numbers], name: str, tensor: Any) -> None:
    """Note a constant's numbers, if it is a short vector of integers."""
    small = len(tensor.dims) <= 1 and math.prod(tensor.dims) <= LONGEST
    if small and tensor.data_type in (TensorProto.INT64, TensorProto.INT32) and not tensor.external_data:
        _set(numbers, name, tuple(int(v) for v in numpy_helper.to_array(tensor).reshape(-1)))


def _set(numbers: Known[Numbers], name: str, value: Numbers) -> None:
    if len(value) <= LONGEST and all(abs(v) < 2**63 for v in value if isinstance(v, int)):
        numbers[name] = value


def plain_text(error: BaseException) -> str:
    """What an exception says in one line, without its type."""
    return one_line(error).partition(": ")[2] or type(error).__name__
