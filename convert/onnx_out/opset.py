"""Which opset to write, and how a graph gets there from the newest that tf2onnx writes."""

from __future__ import annotations

import functools
from typing import Any

from isomorph.convert.errors import IsomorphError, UsageError, one_line

__all__ = ["IR_VERSION", "OpsetError", "choose", "newest", "raised"]

OLDEST = 15  # functions of the model, and the ops the markers become, are all there since 15
IR_VERSION = 10  # the first whose nodes bear metadata; every ONNX Runtime that knows opset 21 reads it


class OpsetError(IsomorphError):
    """The model cannot have this opset: an op cannot be brought there, or ONNX Runtime has no kernel of its version."""


@functools.cache
def newest() -> int:
    """The newest opset that the installed ONNX Runtime takes as released: it refuses newer ones by name, so the
    smallest model is tried from onnx's newest downwards."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", [value("x", 1, [1])], [value("y", 1, [1])]
    )
    for version in range(onnx.defs.onnx_opset_version(), OLDEST, -1):
        opsets = [onnx.helper.make_opsetid("", version)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # ONNX Runtime's own exception types say no more
            continue
        return version
    return OLDEST


def choose(wanted: int | None) -> int:
    """`wanted`, or the newest. UsageError: it is no opset that can be written and run here."""
    if wanted is None:
        return newest()
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise UsageError(f"opset={wanted!r}: give a whole number")
    if not OLDEST <= wanted <= newest():
        raise UsageError(
            f"opset={wanted}: choose {OLDEST} to {newest()}, the newest that the installed ONNX Runtime supports"
        )
    return wanted


def raised(proto: Any, opset: int) -> Any:
    """The model at a newer opset, by ONNX's own converter; it loses node metadata, so it comes before they are set.
    OpsetError: the converter does not know a way."""
    import onnx.version_converter

    try:
        return onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter's and shape inference's types
        raise OpsetError(f"onnx cannot bring the model to opset {opset}: {one_line(error)}") from error
