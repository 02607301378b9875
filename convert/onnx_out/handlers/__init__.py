"""Own translations of TensorFlow ops to ONNX, where tf2onnx has none or a wrong one. One file per family.

``HANDLERS`` is what tf2onnx takes as ``custom_op_handlers``: it goes before tf2onnx's own.
"""

from . import (  # noqa: F401 - each registers its own
    colour,
    convolution,
    elementwise,
    indexing,
    linalg,
    projective,
    resampling,
    spectra,
)
from .call import HANDLERS

__all__ = ["HANDLERS"]
