"""isomorph: a PyTorch model becomes a trainable Keras model, and back, by way of ONNX, and is proven equal.

The whole public surface, loaded on first use: importing `isomorph` loads no framework and no numpy.

    conversion = isomorph.to_keras(module, (example,))   # -> Conversion (isomorph.convert.conversion)
    conversion = isomorph.to_torch("model.keras")        # -> TorchConversion; also a keras.Model, a Conversion, .onnx
    export = isomorph.to_onnx(model)                     # -> OnnxExport; a keras.Model, a Conversion, .keras
    verdict = isomorph.check(module, conversion)         # -> Verdict (isomorph.parity.verdict); any two models
    spec = isomorph.ModelSpec("model.keras", backend="jax")  # a model of a check, and where and how to run it
    conversion = isomorph.load("model.keras")            # what `conversion.save` or `isomorph convert` wrote
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isomorph.convert.api import to_keras
    from isomorph.convert.conversion import Conversion, load
    from isomorph.convert.onnx_in.api import to_torch
    from isomorph.convert.onnx_in.conversion import TorchConversion
    from isomorph.convert.onnx_out.api import to_onnx
    from isomorph.convert.onnx_out.export import OnnxExport
    from isomorph.parity.check import check
    from isomorph.parity.runners.spec import ModelSpec
    from isomorph.parity.verdict import Verdict

__version__ = "0.1.0"
__all__ = [
    "Conversion",
    "ModelSpec",
    "OnnxExport",
    "TorchConversion",
    "Verdict",
    "__version__",
    "check",
    "load",
    "to_keras",
    "to_onnx",
    "to_torch",
]

_HOME = {
    "Conversion": "isomorph.convert.conversion",
    "ModelSpec": "isomorph.parity.runners.spec",
    "OnnxExport": "isomorph.convert.onnx_out.export",
    "TorchConversion": "isomorph.convert.onnx_in.conversion",
    "Verdict": "isomorph.parity.verdict",
    "check": "isomorph.parity.check",
    "load": "isomorph.convert.conversion",
    "to_keras": "isomorph.convert.api",
    "to_onnx": "isomorph.convert.onnx_out.api",
    "to_torch": "isomorph.convert.onnx_in.api",
}


def __getattr__(name: str) -> Any:
    """The public object `name`, from its home module. Raises AttributeError for any other name."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'isomorph' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
