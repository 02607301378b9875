"""Checks on models of one ONNX node: against ONNX Runtime, without known ranks, in float64, derived, exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tests.quality.onnx_suite.judge import as_numpy, as_torch

from .onnx_node import agree, converted, model_of

__all__ = [
    "Row",
    "build",
    "derive",
    "evaluate",
    "export_freely",
    "like_reference",
    "like_runtime",
    "row_id",
    "run_unranked",
    "unranked",
]

# op, opset, inputs (None: left out), attributes
Row = tuple[str, int, tuple[Any, ...], dict[str, Any]]
OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}


def row_id(row: Any) -> str:
    op, opset, arrays, attributes = row
    named = "-".join(f"{k}={v}" for k, v in attributes.items())
    return f"{op}-{opset}-{len([a for a in arrays if a is not None])}-{named}".replace(" ", "")


def build(row: Row, **options: Any) -> onnx.ModelProto:
    op, opset, arrays, attributes = row
    options.setdefault("outputs", OUTPUTS.get(op, 1))
    return model_of(op, *arrays, opset=opset, **options, **attributes)


def like_runtime(row: Row, rtol: float = 1e-4, atol: float = 1e-5, **options: Any) -> None:
    """The converted node gives what ONNX Runtime gives, with ranks known and unknown."""
    import onnxruntime

    model, arrays = build(row, **options), row[2]
    constants = options.get("constants", ())
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None and i not in constants}
    wanted = session.run(None, feeds)
    _both_ways(model, list(feeds.values()), wanted, rtol, atol)


def like_reference(row: Row, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """The same against onnx.reference: what ONNX Runtime does not have."""
    model, given = build(row), [a for a in row[2] if a is not None]
    names = [value.name for value in model.graph.input]
    wanted = ReferenceEvaluator(model).run(None, dict(zip(names, given, strict=True)))
    _both_ways(model, given, wanted, rtol, atol)


def _both_ways(model: onnx.ModelProto, given: list[Any], wanted: Sequence[Any], rtol: float, atol: float) -> None:
    found = evaluate(converted(model), given)
    for ours, theirs in zip(found, wanted, strict=True):
        agree(ours, theirs, rtol, atol)
    if model.opset_import[0].version >= 5:  # Reshape-1 takes no shape at run time
        for ours, theirs in zip(run_unranked(model, given), wanted, strict=True):
            agree(ours, theirs, rtol, atol)


def evaluate(module: torch.nn.Module, arrays: Sequence[Any]) -> list[Any]:
    with torch.no_grad():
        found = module(*map(as_torch, arrays))
    return [as_numpy(f) for f in (found if isinstance(found, tuple) else (found,))]


def unranked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each input reshaped to a shape that is an input of its own: no rank is known before it runs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shapes = []
    for value in list(copy.graph.input):
        name = value.name
        value.name = f"{name}_flat"
        shapes.append(helper.make_tensor_value_info(f"{name}_shape", TensorProto.INT64, [f"{name}_rank"]))
        copy.graph.node.insert(0, helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
    copy.graph.input.extend(shapes)
    return copy


def run_unranked(model: onnx.ModelProto, arrays: Sequence[Any]) -> list[Any]:
    shapes = [np.array(np.shape(a), np.int64) for a in arrays]
    return evaluate(converted(unranked(model)), [*arrays, *shapes])


def derive(row: Row, wanted: Sequence[int] | None = None, **options: Any) -> None:
    """In float64 all the way, with right first derivatives for all floating inputs (or those at `wanted`)."""
    constants = options.get("constants", ())
    module = converted(build(row, **options)).double()
    given = []
    for i, array in enumerate(row[2]):
        if array is not None and i not in constants:
            tensor = as_torch(array)
            floats = tensor.is_floating_point()
            given.append(tensor.double().requires_grad_(wanted is None or i in wanted) if floats else tensor)
    found = module(*given)
    for output in found if isinstance(found, tuple) else (found,):
        assert output.dtype == torch.float64
    assert torch.autograd.gradcheck(module, given, fast_mode=True)


def export_freely(row: Row, free: dict[int, Sequence[int]], more: Sequence[Any], **options: Any) -> None:
    """torch.export takes the module with these dims free, by input, and what it gives does the same on `more`, inputs
    of other sizes."""
    constants = options.get("constants", ())
    dims = {i: tuple(f"d{i}{d}" if d in free[i] else n for d, n in enumerate(np.shape(row[2][i]))) for i in free}
    module = converted(build(row, dims=dims, **options))
    positions = [i for i, a in enumerate(row[2]) if a is not None and i not in constants]
    given = tuple(as_torch(row[2][i]) for i in positions)
    shapes = tuple(dict.fromkeys(free.get(i, ()), torch.export.Dim.DYNAMIC) for i in positions)
    exported = torch.export.export(module, given, dynamic_shapes=shapes).module()
    for ours, theirs in zip(evaluate(exported, more), evaluate(module, more), strict=True):
        agree(ours, theirs, 1e-5, 1e-6)
