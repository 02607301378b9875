"""`to_torch`: an ONNX model becomes a trainable torch module."""

from __future__ import annotations

from typing import Any

from .conversion import TorchConversion

__all__ = ["to_torch"]


def to_torch(source: Any) -> TorchConversion:
    """Convert an ONNX model to a torch module with named, trainable parameters; it is in eval mode.

    source: a path of an .onnx file, its bytes, or an onnx.ModelProto.

    Raises UsageError (no model that can be read), UnsupportedError (all ops without a rule at once).
    """
    from . import registry
    from .initializers import Initializers
    from .lowering import Lowering
    from .reading import read

    registry.load_rules()
    model = read(source)
    lowering = Lowering(model.graph, dict(model.opset_imports), Initializers(None))  # type: ignore[arg-type]
    lowering.initializers.root = lowering.root
    return TorchConversion(lowering.program().eval())
