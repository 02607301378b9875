"""A model's floating dtype exchanged: what the nodes say of it. Parameters, buffers and constants follow with
`module.to`."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["retype"]

FLOATING = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
NAMED = ("to", "dtype", "output_datatype")  # attributes that hold an onnx.TensorProto.DataType
ELEMENTS = {
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "float32": ir.DataType.FLOAT,
    "float64": ir.DataType.DOUBLE,
}


def retype(model: ir.Model, dtype: str) -> None:
    """Change what nodes say of the dtype of a result, and the types of values, here and in graphs inside."""
    element = ELEMENTS[dtype]
    for graph in model.graphs():
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
            if value.dtype in FLOATING:
                value.dtype = element
        for node in graph:
            # what is computed in float32 to be exact stays so in a narrower dtype
            for name in (*NAMED, "stash_type") if dtype == "float64" else NAMED:
                held = node.attributes.get(name)
                if held is not None and held.type == ir.AttributeType.INT and held.as_int() in FLOATING:
                    node.attributes[name] = ir.AttrInt64(name, int(element))
            filled = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
            if node.op_type == "ConstantOfShape" and (filled is None or filled.as_tensor().dtype in FLOATING):
                number = 0.0 if filled is None else filled.as_tensor().numpy().astype("float64").item()
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor([number], dtype=element))
