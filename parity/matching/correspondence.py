"""What of one model is what of another: the record. numpy only, pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isomorph.parity.matching.pieces import WeightMatch
from isomorph.parity.runners.base import ParameterInfo
from isomorph.parity.tolerance import Array

__all__ = ["Contradiction", "Correspondence", "InputMatch", "OutputMatch"]


@dataclass(frozen=True)
class InputMatch:
    """Input `place` of the original is input `at` of the converted model, which takes
    `array.transpose(permutation).astype(dtype)`. how: "name" or "order"."""

    original: str
    converted: str
    place: int
    at: int
    permutation: tuple[int, ...]
    dtype: str
    how: str


@dataclass(frozen=True)
class OutputMatch:
    """Output `original` is output `converted` of the converted model, which gives `array.transpose(permutation)`; None
    where no order of the axes gives its shape."""

    original: int
    converted: int
    permutation: tuple[int, ...] | None


@dataclass(frozen=True)
class Contradiction:
    """Why two models cannot be asked the same question. kind, name: as in `verdict.Mismatch`."""

    kind: str
    name: str
    message: str


@dataclass(frozen=True)
class Correspondence:
    """What of one model is what of the other.

    inputs: in the original's order. outputs: of a run in eval mode, in the original's order. structures: how the
    outputs of either nest there. weights: by the original's name. ambiguous: what was decided by order alone, or is
    inexact. notes: what else to know. unmatched_original, unmatched_converted: parameters and buffers without a
    counterpart; ignored: integer ones among them (counters of batches, states of generators). contradictions: if there
    are any, nothing can be compared. infos, values: the original's parameters and buffers, and what they held.
    buffers: which of them are buffers. by_record: it is what a conversion recorded, and was not looked for.
    """

    inputs: tuple[InputMatch, ...] = ()
    outputs: tuple[OutputMatch, ...] = ()
    structures: tuple[Any, Any] = (None, None)
    weights: Mapping[str, WeightMatch] = field(default_factory=dict)
    ambiguous: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unmatched_original: tuple[str, ...] = ()
    unmatched_converted: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    infos: Mapping[str, ParameterInfo] = field(default_factory=dict, repr=False)
    values: Mapping[str, Array] = field(default_factory=dict, repr=False)
    buffers: frozenset[str] = frozenset()
    by_record: bool = False

    @property
    def complete(self) -> bool:
        """Whether the converted model has a place for every parameter and float buffer of the original, so that other
        values can be put into both."""
        return not self.unmatched_original and all(m.how not in ("shape", "near") for m in self.weights.values())

    def summary(self) -> dict[str, Any]:
        """JSON-able, for the verdict's coverage."""
        return {
            "inputs": {
                match.original: {"is": match.converted, "permutation": list(match.permutation), "by": match.how}
                for match in self.inputs
            },
            "outputs": [
                {"is": match.converted, "permutation": match.permutation and list(match.permutation)}
                for match in self.outputs
            ],
            "weights": {
                name: {"is": [str(piece) for piece in match.pieces], "by": match.how, "note": match.note}
                for name, match in self.weights.items()
            },
            "ambiguous": list(self.ambiguous),
            "notes": list(self.notes),
            "unmatched_original": list(self.unmatched_original),
            "unmatched_converted": list(self.unmatched_converted),
            "ignored": list(self.ignored),
        }
