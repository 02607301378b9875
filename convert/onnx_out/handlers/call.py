"""What a handler meets: one TensorFlow op, to be written as ONNX nodes in tf2onnx's graph.

A handler is a function of a `Call` and of the op's inputs, `Value`s with the operators of Python, and returns what
stands for the op's outputs. Values that are known while converting are computed then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import helper

__all__ = ["HANDLERS", "PARTS", "Call", "Number", "Value", "handler"]

Number = bool | int | float
Handler = TypeVar("Handler", bound=Callable[..., "Value | Sequence[Value] | None"])
HANDLERS: dict[str, tuple[Callable[..., None], list[str]]] = {}


def handler(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler for TensorFlow ops. ValueError: one has a handler already."""

    def add(function: Handler) -> Handler:
        def run(ctx: Any, node: Any, name: str, args: Any) -> None:
            call = Call(ctx, node)
            result = function(call, *call.inputs)
            if result is not None:  # None: the handler has changed the node itself
                call.finish(*([result] if isinstance(result, Value) else result))

        for name in names:
            if name in HANDLERS:
                raise ValueError(f"{name} has two handlers")
            HANDLERS[name] = (run, [])
        return function

    return add


PARTS = {onnx.TensorProto.COMPLEX64: "float32", onnx.TensorProto.COMPLEX128: "float64"}  # of complex numbers


class Value:
    """A tensor of the graph: `name` there, or `array` where it is known while converting.

    Complex numbers are pairs of floats along a last axis, which `dims` leaves out; `dtype` is that of the parts.
    """

    def __init__(self, call: Call, name: str | None = None, array: np.ndarray | None = None) -> None:
        self.call, self._name, self.array = call, name, array
        self.complex = array is None and call.ctx.get_dtype(name) in PARTS
        if array is not None and array.dtype.kind == "c":
            self.complex, self._name, self.array = True, None, np.stack([array.real, array.imag], -1)

    @property
    def name(self) -> str:
        if self._name is None:
            self._name = self.call.add_constant(self.array)
        return self._name

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.array is not None:
            return self.array.dtype
        kind = self.call.ctx.get_dtype(self._name)
        return np.dtype(PARTS.get(kind) or helper.tensor_dtype_to_np_dtype(kind))

    @property
    def dims(self) -> tuple[int | None, ...]:
        """The static shape; None for a dim that is not known. ValueError: not even the rank is."""
        if self.array is not None:
            return self.array.shape[:-1] if self.complex else self.array.shape
        shape = self.call.ctx.get_shape(self._name)
        if shape is None:
            raise ValueError(f"{self.call.node.type} {self.call.node.name}: the rank of {self._name} is not known")
        return tuple(None if d is None or d < 0 else int(d) for d in shape)

    @property
    def rank(self) -> int:
        return len(self.dims)

    def size(self, axis: int) -> Value:
        """The size of an axis, int64 of shape (1,)."""
        known = self.dims[axis]
        if known is not None:
            return self.call.const([known], "int64")
        axis %= self.rank
        return self.call.op("Shape", self, start=axis, end=axis + 1)

    def cast(self, dtype: Any) -> Value:
        dtype = np.dtype(dtype)
        return self if dtype == self.dtype else self.call.op("Cast", self, to=helper.np_dtype_to_tensor_dtype(dtype))

    def reshape(self, *dims: int | Value) -> Value:
        """Dims are numbers (-1 and 0 as in ONNX) or int64 of shape (1,)."""
        parts = [d if isinstance(d, Value) else self.call.const([d], "int64") for d in dims]
        joined = (
            self.call.op("Concat", *parts, axis=0)
            if len(parts) > 1
            else parts[0]
            if parts
            else self.call.const([], "int64")
        )
        return self.call.op("Reshape", self, joined)

    def unsqueeze(self, *axes: int) -> Value:
        return self.call.op("Unsqueeze", self, self.call.const(axes, "int64"))

    def squeeze(self, *axes: int) -> Value:
        return self.call.op("Squeeze", self, self.call.const(axes, "int64"))

    def transpose(self, *order: int) -> Value:
        return self.call.op("Transpose", self, perm=list(order))

    def slice(self, start: int, end: int, axis: int, step: int = 1) -> Value:
        return self.call.op("Slice", self, *(self.call.const([v], "int64") for v in (start, end, axis, step)))

    def reduce(self, op: str, *axes: int, keepdims: bool = False) -> Value:
        """op: Sum, Max, Min, Prod, Mean, LogSumExp."""
        keep = int(keepdims)
        if self.call.ctx.opset >= 18 or op == "Sum":
            return self.call.op(f"Reduce{op}", self, self.call.const(axes, "int64"), keepdims=keep)
        return self.call.op(f"Reduce{op}", self, axes=list(axes), keepdims=keep)

    def where(self, yes: Value | Number, no: Value | Number) -> Value:
        like = yes if isinstance(yes, Value) else no
        assert isinstance(like, Value)
        yes, no = like.same(yes), like.same(no)
        if like.dtype == np.bool_:  # ONNX Runtime has no Where of them
            return (self & yes) | (~self & no)
        return self.call.op("Where", self, yes, no)

    def same(self, other: Value | Number) -> Value:
        """`other` as a Value, a number in this dtype."""
        return other if isinstance(other, Value) else self.call.const(other, self.dtype)

    def __add__(self, other: Value | Number) -> Value:
        return self.call.op("Add", self, self.same(other))

    def __sub__(self, other: Value | Number) -> Value:
        return self.call.op("Sub", self, self.same(other))

    def __rsub__(self, other: Number) -> Value:
        return self.call.op("Sub", self.same(other), self)

    def __mul__(self, other: Value | Number) -> Value:
        return self.call.op("Mul", self, self.same(other))

    def __truediv__(self, other: Value | Number) -> Value:
        return self.call.op("Div", self, self.same(other))

    def __rtruediv__(self, other: Number) -> Value:
        return self.call.op("Div", self.same(other), self)

    def __mod__(self, other: Value | Number) -> Value:
        """As Python's for integers."""
        return self.call.op("Mod", self, self.same(other))

    def __neg__(self) -> Value:
        return self.call.op("Neg", self)

    def __matmul__(self, other: Value) -> Value:
        return self.call.op("MatMul", self, other)

    def __lt__(self, other: Value | Number) -> Value:
        return self.call.op("Less", self, self.same(other))

    def __le__(self, other: Value | Number) -> Value:
        return self.call.op("LessOrEqual", self, self.same(other))

    def __gt__(self, other: Value | Number) -> Value:
        return self.call.op("Greater", self, self.same(other))

    def __ge__(self, other: Value | Number) -> Value:
        return self.call.op("GreaterOrEqual", self, self.same(other))

    def equal(self, other: Value | Number) -> Value:
        return self.call.op("Equal", self, self.same(other))

    def __and__(self, other: Value) -> Value:
        return self.call.op("And", self, other)

    def __or__(self, other: Value) -> Value:
        return self.call.op("Or", self, other)

    def __invert__(self) -> Value:
        return self.call.op("Not", self)

    __radd__, __rmul__ = __add__, __mul__


@functools.cache
def _own_mapping(opset: int) -> Any:
    """TensorFlow's op to tf2onnx's own handler."""
    from tf2onnx.handler import tf_op

    return tf_op.create_mapping(opset, [])


class Call:
    """One TensorFlow op.

    node: tf2onnx's; ctx: its graph.
    """

    def __init__(self, ctx: Any, node: Any) -> None:
        self.ctx, self.node = ctx, node
        self.inputs = [self._input(i) for i in range(len(node.input))]

    def _input(self, index: int) -> Value:
        producer = self.node.inputs[index]
        array = (
            np.asarray(producer.get_tensor_value(as_list=False))
            if producer is not None and producer.is_const()
            else None
        )
        return Value(self, self.node.input[index], array)

    def attr(self, name: str, default: Any = None) -> Any:
        found = self.node.get_attr_value(name, default)
        return found.decode() if isinstance(found, bytes) else found

    def output_dtype(self, index: int = 0) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(self.ctx.get_dtype(self.node.output[index])))
        return found

    def const(self, value: Any, dtype: Any) -> Value:
        return Value(self, array=np.asarray(value, dtype))

    def add_constant(self, array: Any) -> str:
        from tf2onnx import utils

        return str(
            self.ctx.make_const(utils.make_name("const"), np.ascontiguousarray(array).reshape(array.shape)).output[0]
        )

    def op(self, kind: str, *inputs: Value | None, **attributes: Any) -> Value:
        """A node of one output. An input that is left out is None."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: Value | None, **attributes: Any) -> list[Value]:
        known = [v for v in inputs if v is not None and v.array is not None]
        if known and len(known) == len(inputs):
            return [Value(self, array=array) for array in self._computed(kind, count, known, attributes)]
        node = self.ctx.make_node(
            kind, ["" if v is None else v.name for v in inputs], attr=attributes, output_count=count
        )
        return [Value(self, name) for name in node.output]

    def _computed(self, kind: str, count: int, inputs: Sequence[Value], attributes: Any) -> list[np.ndarray]:
        from onnx.reference import ReferenceEvaluator

        names, outputs = [f"i{i}" for i in range(len(inputs))], [f"o{i}" for i in range(count)]
        node = helper.make_node(kind, names, outputs, **attributes)
        infos = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in outputs]
        kinds = [helper.np_dtype_to_tensor_dtype(v.dtype) for v in inputs]
        given = [helper.make_tensor_value_info(n, k, None) for n, k in zip(names, kinds, strict=True)]
        graph = helper.make_graph([node], "constant", given, infos)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.ctx.opset)])
        feeds = {name: value.array for name, value in zip(names, inputs, strict=True)}
        return [np.asarray(v) for v in ReferenceEvaluator(model).run(None, feeds)]

    def range(self, count: Value, dtype: Any = "int64") -> Value:
        """0, 1 ... below count, an int64 of shape (1,)."""
        zero, one = self.const(0, "int64"), self.const(1, "int64")
        return self.op("Range", zero, count.squeeze(0), one).cast(dtype)

    def as_tf2onnx(self) -> None:
        """tf2onnx's own translation of the op."""
        function, extra = _own_mapping(self.ctx.opset)[self.node.type]
        if extra and extra.get("onnx_op"):
            extra = {**extra, "tf_op": self.node.type}
            self.node.type = extra["onnx_op"]
        function(self.ctx, self.node, **extra, initialized_tables={}, dequantize=False)

    def finish(self, *results: Value) -> None:
        """The results take the place of the op's outputs."""
        shapes, dtypes, outputs = self.node.output_shapes, self.node.output_dtypes, list(self.node.output)
        names = [value.name for value in results]
        self.ctx.remove_node(self.node.name)
        for name, output, shape, dtype in zip(names, outputs, shapes, dtypes, strict=True):
            self.ctx.make_node("Identity", [name], outputs=[output], shapes=[shape], dtypes=[dtype])
