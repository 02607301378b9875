"""`TorchConversion`: a torch module together with the map back to the model it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from isomorph.convert.conversion import Port
from isomorph.convert.weights import WeightEntry

__all__ = ["TorchConversion"]


@dataclass
class TorchConversion:
    """What `to_torch` returns.

    inputs, outputs: `Port.permutation` p says source array = torch array.transpose(p).
    weights: `WeightEntry.torch_name` and, in `location[0]`, the initializer's name (the Keras path).
    """

    module: Any
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    weights: tuple[WeightEntry, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
