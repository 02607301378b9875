"""Models of one ONNX node, converted: what tests of a rule share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from isomorph.convert.onnx_in.api import to_torch
from tests.quality.onnx_suite.judge import as_numpy, as_torch

__all__ = ["agree", "converted", "model_of", "run"]

NEWEST = {"": 28, "ai.onnx.ml": 5, "ai.onnx.preview.training": 1}


def element(array: Any) -> int:
    array = np.asarray(array)
    return TensorProto.STRING if array.dtype.kind in "OU" else int(helper.np_dtype_to_tensor_dtype(array.dtype))


def model_of(
    op: str,
    *arrays: Any,
    domain: str = "",
    opset: int | None = None,
    outputs: int = 1,
    hidden: bool = False,
    constants: tuple[int, ...] = (),
    dims: dict[int, tuple[Any, ...]] | None = None,
    gives: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node on inputs of these arrays' types; None is an input left out.

    hidden: the ranks are known at run time only. constants: positions that are Constant nodes. dims: by position, the
    dims that the model states (names are free). gives: the outputs' element type where ONNX infers none; that of the
    first input, if not said.
    """
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    made = [f"y{i}" for i in range(outputs)]
    nodes = [helper.make_node(op, names, made, domain=domain, **attributes)]
    given = []
    for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
        if i in constants:
            value = onnx.numpy_helper.from_array(np.asarray(array))
            nodes.insert(0, helper.make_node("Constant", [], [name], value=value))
        elif hidden:  # a reshape to what nobody knows
            nodes.insert(0, helper.make_node("Reshape", [f"flat{i}", f"shape{i}"], [name]))
            given.append(helper.make_tensor_value_info(f"flat{i}", element(array), ["n"]))
            given.append(helper.make_tensor_value_info(f"shape{i}", TensorProto.INT64, ["r"]))
        elif name:
            given.append(helper.make_tensor_value_info(name, element(array), (dims or {}).get(i, np.shape(array))))
    results = [helper.make_empty_tensor_value_info(n) for n in made]
    graph = helper.make_graph(nodes, "graph", given, results)
    version = opset or NEWEST[domain]
    opsets = [helper.make_opsetid("", 21 if domain else version)]
    opsets += [helper.make_opsetid(domain, version)] if domain else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)  # which ONNX Runtime reads too
    model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.tensor_type.elem_type and value.type.WhichOneof("value") in (None, "tensor_type"):
            value.type.tensor_type.elem_type = gives or element(next(a for a in arrays if a is not None))
    return model


def converted(model: onnx.ModelProto) -> torch.nn.Module:
    module: torch.nn.Module = to_torch(model).module
    return module


def run(model: onnx.ModelProto, *arrays: Any) -> list[Any]:
    """The outputs of the converted model as numpy arrays. Arrays that are no inputs of it are left out."""
    values = {f"x{i}": a for i, a in enumerate(arrays)}
    values |= {f"flat{i}": np.reshape(a, -1) for i, a in enumerate(arrays)}
    values |= {f"shape{i}": np.int64(np.shape(a)) for i, a in enumerate(arrays)}
    with torch.no_grad():
        found = converted(model)(*(as_torch(values[v.name]) for v in model.graph.input))
    return [as_numpy(f) for f in (found if isinstance(found, tuple) else (found,))]


def agree(ours: Any, theirs: Any, rtol: float = 1e-6, atol: float = 1e-7) -> None:
    """The same shape, the same element type, the same values; integers and strings are equal."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    if theirs.dtype.kind in "OU":
        assert ours.tolist() == theirs.tolist()
        return
    assert ours.dtype == theirs.dtype
    if theirs.dtype.kind in "biu":
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=rtol, atol=atol)
