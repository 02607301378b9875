"""Small ONNX models made by hand, for the tests of the importer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

KINDS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Sequence[str] | Mapping[str, Sequence[Any]],
    initializers: Mapping[str, np.ndarray],
    opset: int = 21,
    dtypes: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """A checked ModelProto. inputs: dims by name, float32 unless `dtypes` says otherwise; outputs: names, or dims where
    onnx cannot infer them."""
    dims = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    kinds = {name: KINDS[(dtypes or {}).get(name, "float32")] for name in (*inputs, *outputs)}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kinds[name], list(dims)) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, kinds[name], dims[name]) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    for key, value in (metadata or {}).items():
        made.metadata_props.add(key=key, value=value)
    made = onnx.shape_inference.infer_shapes(made, strict_mode=True)  # gives the outputs their dims
    del made.graph.value_info[:]
    onnx.checker.check_model(made)
    return made


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def drawn(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray:
    found = np.random.default_rng(seed + 31 * sum(shape)).standard_normal(shape).astype(np.float32)
    return np.abs(found) + np.float32(0.5) if positive else found


def reference(proto: Any, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes, without its optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, dict(feeds))
    return found
