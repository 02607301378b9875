"""The model's initializers in torch: which are parameters, buffers or constants, and the names they bear."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from .operands import Info, Operand, tensor_of

if TYPE_CHECKING:
    from .lowering import Lowering

__all__ = ["Initializers"]


@dataclass
class Initializers:
    """What became of them, by ONNX name."""

    root: torch.nn.Module
    metadata: dict[str, Any] = field(default_factory=dict)
    placed: dict[str, str] = field(default_factory=dict)

    def operand(self, lowering: Lowering, value: ir.Value) -> Operand | Any:
        """The initializer as the graph reads it."""
        tensor = value.const_value
        assert tensor is not None
        array = tensor.numpy()
        if array.dtype.kind in "OSU":
            return array
        held = tensor_of(array)
        if not held.is_floating_point() or held.numel() <= 1:
            return lowering.constant(held, int(tensor.dtype))
        name = self.place(value.name or "weight", torch.nn.Parameter(held))
        return lowering.attribute(name, Info(int(tensor.dtype), tuple(held.shape)))

    def place(self, name: str, parameter: torch.nn.Parameter) -> str:
        """Put a parameter under the name's path; the dotted name."""
        parts = [re.sub(r"\W", "_", p) for p in re.split(r"[/.]", name) if p]
        owner = self.root
        for part in parts[:-1]:
            if not isinstance(getattr(owner, part, None), torch.nn.Module):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(parts[-1], parameter)
        self.placed[name] = ".".join(parts)
        return self.placed[name]
