"""What is done to an ONNX model before it is run: looked through, cast to float64, opened up for a trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from isomorph.convert.errors import UsageError
from isomorph.convert.onnx_in.proto import embed, graphs, nodes, open_model
from isomorph.parity.runners.base import PortInfo

__all__ = ["dtype_name", "exposed", "load", "ports", "precision", "widened"]

NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type"})
# ops whose numbers are integers that stand for real ones
COMPUTED = {"QLinearConv", "QLinearMatMul", "QLinearAdd", "QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger"}
COMPUTED |= {"MatMulInteger", "QGemm", "DynamicQuantizeMatMul"}
HELD = {"DequantizeLinear", "MatMulNBits", "MatMulBnb4"}


def load(path: Path) -> Any:
    """The model with the data that lies beside it. UsageError: no such file, no ONNX model, or one that names data
    outside its own folder."""
    model = open_model(path)
    embed(model, path.parent, str(path))
    return model


def ports(values: Any) -> tuple[PortInfo, ...]:
    """Inputs or outputs of a graph. UsageError: one is no tensor (a sequence, a map)."""
    found = []
    for value in values:
        if not value.type.HasField("tensor_type"):
            raise UsageError(f"the ONNX model's {value.name!r} is no tensor")
        tensor = value.type.tensor_type
        dims: tuple[int | str | None, ...] | None = None
        if tensor.HasField("shape"):
            dims = tuple(_dim(d, axis) for axis, d in enumerate(tensor.shape.dim))
        found.append(PortInfo(value.name, dtype_name(tensor.elem_type), dims))
    return tuple(found)


def _dim(dim: Any, axis: int) -> int | str | None:
    if dim.HasField("dim_value") and dim.dim_value >= 0:  # some exporters write an unknown size as -1
        return int(dim.dim_value)
    text = str(dim.dim_param)
    # an expression or a name with signs in it is a free size of its own
    return text if text.isidentifier() else "batch" if axis == 0 and not text else None


def dtype_name(element: int) -> str:
    """An element type as torch names it."""
    name = str(TensorProto.DataType.Name(element)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def precision(model: Any) -> str:
    """What rounding the model may show, by its ops and by what its weights are stored in."""
    ops = {node.op_type for node in nodes(model)}
    stored = {t.data_type for t in model.graph.initializer}
    if ops & COMPUTED:
        return "int8"
    if ops & HELD:
        return "int8-weights"
    taken = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    for element, name in ((TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16")):
        if element in stored | taken:
            return f"{name}-weights" if element not in taken and TensorProto.FLOAT in taken else name
    return "float64" if TensorProto.DOUBLE in taken and TensorProto.FLOAT not in taken else "float32"


def widened(model: Any) -> Any:
    """A copy with every float32 (and narrower) type as float64: weights, inputs, outputs, constants, casts, also inside
    subgraphs and functions. Constants keep their values."""
    wide = copy.deepcopy(model)
    # the scales of these are float32 by definition
    single = {name for node in nodes(wide) if node.op_type in ("Resize", "Upsample") for name in node.input[1:] if name}
    for graph in graphs(wide):
        for tensor in graph.initializer:
            if tensor.name not in single:
                _widen_tensor(tensor)
        for value in (*graph.input, *graph.output):
            _widen_type(value.type)
        del graph.value_info[:]
    for node in nodes(wide):
        if single.intersection(node.output):
            continue
        for attribute in node.attribute:
            if attribute.name in DTYPE_ATTRIBUTES and attribute.type == onnx.AttributeProto.INT:
                if attribute.i in NARROW and attribute.name != "stash_type":
                    attribute.i = TensorProto.DOUBLE
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.FLOAT and node.op_type == "Constant":
                attribute.CopyFrom(helper.make_attribute("value", helper.make_tensor("v", 11, (), [attribute.f])))
            elif attribute.type == onnx.AttributeProto.FLOATS and node.op_type == "Constant":
                values = list(attribute.floats)
                attribute.CopyFrom(helper.make_attribute("value", helper.make_tensor("v", 11, (len(values),), values)))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", helper.make_tensor("v", 11, (1,), [0.0])))
        draws = node.op_type.startswith("Random") and not node.op_type.endswith("Like")
        if draws and not any(a.name == "dtype" for a in node.attribute):
            node.attribute.append(helper.make_attribute("dtype", int(TensorProto.DOUBLE)))
    return wide


def exposed(model: Any) -> Any:
    """A copy whose outputs are those of all its nodes, in order."""
    opened = copy.deepcopy(model)
    known = {value.name for value in opened.graph.output}
    for node in opened.graph.node:
        for name in node.output:
            if name and name not in known:
                opened.graph.output.append(onnx.ValueInfoProto(name=name))
    return opened


def _widen_type(type_: Any) -> None:
    if type_.HasField("tensor_type") and type_.tensor_type.elem_type in NARROW:
        type_.tensor_type.elem_type = TensorProto.DOUBLE


def _widen_tensor(tensor: Any) -> None:
    if tensor.data_type in NARROW:
        array = numpy_helper.to_array(tensor).astype("float64")
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
