"""An ONNX model counts as written once the checker accepts it, ONNX Runtime runs it, and it gives what Keras gives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from isomorph.convert.errors import IsomorphError, one_line

from .draws import DRAWS
from .examples import Example
from .export import is_large, write
from .opset import OpsetError
from .tidy import every_node

__all__ = ["in_float32", "verify"]

# ONNX Runtime's own words: a valid model, but no kernel for a dtype or version. LSTM and GRU say so only when they run.
NOT_IMPLEMENTED = ("NOT_IMPLEMENTED", "does not support double yet")
# A wrong graph is off by far more, another order of additions by far less; parity proper is isomorph.check's to judge.
WRONG = {"float64": 1e-2, "float32": 1e-2, "float16": 0.1, "bfloat16": 0.3}


def verify(proto: Any, examples: list[Example]) -> dict[str, Any]:
    """{"ran_as", "batches", "max_error", "outputs"}: max_error is the largest difference from Keras, relative to the
    output's largest value; None where the model draws random numbers.

    IsomorphError: the model is not valid, does not run, or computes something else.
    """
    with tempfile.TemporaryDirectory(prefix="isomorph-") as folder:
        path = Path(folder) / "model.onnx" if is_large(proto) else None
        if path is not None:
            write(proto, path)
        _check(proto, path)
        random = any(node.op_type in DRAWS for node in every_node(proto.graph))

        def errors_of(session: Any, ran_as: str) -> list[list[float]]:
            return [_compared(proto, session, example, ran_as, random) for example in examples]

        try:
            ran_as, errors = "own", errors_of(_session(proto, path), "own")
        except OpsetError:
            ran_as, errors = "float32", errors_of(_session(in_float32(proto), None), "float32")
    return {
        "ran_as": ran_as,
        "examples": len(examples),
        "max_error": None if random else max((e for each in errors for e in each), default=0.0),
    }


def _check(proto: Any, path: Path | None) -> None:
    import onnx

    try:
        onnx.checker.check_model(proto if path is None else str(path), full_check=True)
    except Exception as error:  # the checker's, shape inference's and protobuf's types
        raise IsomorphError(f"the ONNX model is not valid, nothing is written: {one_line(error)}") from error


def _session(proto: Any, path: Path | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        model = proto.SerializeToString() if path is None else str(path)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises one type per status
        if any(word in str(error) for word in NOT_IMPLEMENTED):
            raise OpsetError(f"ONNX Runtime has no kernel: {one_line(error)}") from error
        raise IsomorphError(f"ONNX Runtime refuses the ONNX model, nothing is written: {one_line(error)}") from error


def _compared(proto: Any, session: Any, example: Example, ran_as: str, random: bool) -> list[float]:
    """The relative error of every output."""
    names = [v.name for v in session.get_inputs()]
    given = [a.astype("float32") if ran_as == "float32" and _floating(a) else a for a in example.inputs]
    try:
        outputs = session.run(None, dict(zip(names, given, strict=True)))
    except Exception as error:  # as above
        if any(word in str(error) for word in NOT_IMPLEMENTED):
            raise OpsetError(f"ONNX Runtime has no kernel: {one_line(error)}") from error
        sizes = ", ".join(str(a.shape) for a in given)
        raise IsomorphError(
            f"ONNX Runtime fails on inputs of {sizes}, nothing is written: {one_line(error)}"
        ) from error
    found = []
    for value, mine, keras in zip(proto.graph.output, outputs, example.outputs, strict=True):
        mine = np.asarray(mine)
        if mine.shape != keras.shape:
            raise IsomorphError(f"output {value.name} is {list(mine.shape)} in ONNX and {list(keras.shape)} in Keras")
        off = 0.0 if random else _error(mine, keras)
        if off > WRONG.get(keras.dtype.name, np.inf):
            raise IsomorphError(
                f"output {value.name} differs from Keras' by {off:.2g} of its largest value, nothing is written"
            )
        found.append(off)
    return found


def _floating(a: np.ndarray) -> bool:
    return a.dtype.name in WRONG


def _error(mine: np.ndarray, keras: np.ndarray) -> float:
    """The largest difference relative to the largest value; infinite where NaN and infinities stand elsewhere."""
    if mine.dtype == object or keras.dtype == object:
        return float(np.any(mine.astype(str) != keras.astype(str)))
    a, b = mine.astype("float64"), keras.astype("float64")
    finite = np.isfinite(b)
    if not (np.array_equal(a[~finite], b[~finite], equal_nan=True) and np.isfinite(a[finite]).all()):
        return float("inf")
    a, b = a[finite], b[finite]
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-6)) if a.size else 0.0


def in_float32(proto: Any) -> Any:
    """The same graph in float32, to be run where ONNX Runtime lacks kernels of float64 or bfloat16."""
    import onnx
    from onnx import numpy_helper

    other = onnx.ModelProto()
    other.CopyFrom(proto)
    wide = (onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)

    def tensor(t: Any) -> None:
        if t.data_type in wide:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype("float32"), t.name))

    def graph(g: Any) -> None:
        for t in g.initializer:
            tensor(t)
        for value in [*g.input, *g.output, *g.value_info]:
            if value.type.tensor_type.elem_type in wide:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        nodes(g.node)

    def nodes(found: Any) -> None:
        for node in found:
            for a in node.attribute:
                if a.type == onnx.AttributeProto.GRAPH:
                    graph(a.g)
                elif a.type == onnx.AttributeProto.TENSOR:
                    tensor(a.t)
                elif a.name in ("to", "dtype") and a.i in wide:
                    a.i = onnx.TensorProto.FLOAT

    graph(other.graph)
    for function in other.functions:
        nodes(function.node)
    return other
