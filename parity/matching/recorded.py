"""The correspondence of two models by what a conversion recorded. numpy only, pure.

A record is a dictionary of two languages: torch's names, axis order and layout of weights, and the source's (a Keras or
ONNX model). Each runner speaks one of them; where both speak the same one, all is what it is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isomorph.convert.onnx_in.provenance import origin_of
from isomorph.parity.ledger import Ledger
from isomorph.parity.matching.correspondence import Contradiction, Correspondence, InputMatch, OutputMatch
from isomorph.parity.matching.match_ports import kind_of, leaves_of, match_leaves, match_names
from isomorph.parity.matching.pieces import Index, Piece, WeightMatch
from isomorph.parity.runners.base import About, ParameterInfo, PortInfo, Runner
from isomorph.parity.tolerance import Array

__all__ = [
    "PortRecord",
    "Recorded",
    "WeightRecord",
    "compare_held",
    "compare_rates",
    "from_conversion",
    "from_metadata",
    "matched",
    "with_outputs",
]

Permutation = tuple[int, ...] | None
Shape = tuple[int, ...]


@dataclass(frozen=True)
class PortRecord:
    """An input or output: source array = torch array.transpose(permutation); None where the order is the same."""

    name: str
    permutation: Permutation = None


@dataclass(frozen=True)
class WeightRecord:
    """A parameter or buffer under both names. entry: what has `to_keras` (torch's array to the source's) and
    `to_torch`, which move elements only; None where the arrays are the same. part: the (start, stop) of each
    axis of the source's array that the torch one is; None for all of it."""

    torch_name: str
    source_name: str
    entry: Any = None
    part: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Recorded:
    """What a conversion recorded: the inputs and outputs in their order, and the weights."""

    inputs: tuple[PortRecord, ...]
    outputs: tuple[PortRecord, ...]
    weights: tuple[WeightRecord, ...]


def from_conversion(conversion: Any) -> Recorded:
    """The record of a `TorchConversion`: the first part of a weight's location is its name in the source."""
    inputs, outputs = (
        tuple(PortRecord(port.name, port.permutation) for port in ports)
        for ports in (conversion.inputs, conversion.outputs)
    )
    entries = [entry for entry in conversion.weights if entry.kind != "constant" and entry.location]
    weights = (WeightRecord(e.torch_name, e.location[0], e, getattr(e, "part", None)) for e in entries)
    return Recorded(inputs, outputs, tuple(weights))


def from_metadata(properties: Mapping[str, str]) -> Recorded | None:
    """The record in the metadata of an ONNX model that `to_onnx` wrote; None for any other model."""
    origin = origin_of(dict(properties))
    if not origin.source:
        return None
    inputs, outputs = (
        tuple(PortRecord(port.name, port.permutation) for port in side) for side in (origin.inputs, origin.outputs)
    )
    weights = [
        WeightRecord(torch_name, name, variable.transform if variable.torch_names else None)
        for name, variable in origin.variables.items()
        if variable.kind != "constant"
        for torch_name in variable.torch_names or (name,)
    ]
    return Recorded(inputs, outputs, tuple(weights))


def speaks_torch(about: About) -> bool:
    """Whether a runner answers in torch's names and axis order: a module, or a conversion of one."""
    return about.mapped or about.format in ("torch", "exported")


def matched(original: Runner, converted: Runner, record: Recorded) -> Correspondence | None:
    """The correspondence that the record says; None where the record is not of these two models: another number of
    inputs or outputs, or names that they do not have. Nothing is run."""
    about, there = original.about(), converted.about()
    if not len(about.inputs) == len(there.inputs) == len(record.inputs):
        return None
    inverse = speaks_torch(there) and not speaks_torch(about)
    same = speaks_torch(there) == speaks_torch(about)
    found = _weights(original, converted, record)
    if found is None:
        return None
    moves = [None if same else _inverse(p.permutation) if inverse else p.permutation for p in record.inputs]
    inputs, wrong = _inputs(about.inputs, there.inputs, record, moves)
    outs = [None if same else _inverse(p.permutation) if inverse else p.permutation for p in record.outputs]
    return replace(found, inputs=inputs, contradictions=wrong, outputs=_outputs(there, outs))


def _inverse(permutation: Permutation) -> Permutation:
    return None if permutation is None else tuple(int(axis) for axis in np.argsort(permutation))


# --------------------------------------------------------------------------------------------------------------- ports
def _inputs(
    mine: Sequence[PortInfo], theirs: Sequence[PortInfo], record: Recorded, moves: Sequence[Permutation]
) -> tuple[tuple[InputMatch, ...], tuple[Contradiction, ...]]:
    """Inputs by name where the record has all of the original's names, else in order. moves: by the record's order."""
    kinds = [kind_of(port.dtype) for port in mine]
    places, how = match_names([port.name for port in mine], kinds, theirs)
    at = list(range(len(mine))) if None in places or how == "order" else [int(place or 0) for place in places]
    matches, wrong = [], []
    for place, port in enumerate(mine):
        other = theirs[at[place]]
        rank = len(port.dims) if port.dims is not None else len(other.dims or ())
        move = moves[at[place]] or tuple(range(rank))
        if kind_of(other.dtype) != kinds[place]:
            message = f"expected dtype {port.dtype}, got {other.dtype}"
            wrong.append(Contradiction("dtype", f"input {port.name}", message))
        elif len(move) != rank or (other.dims is not None and len(other.dims) != rank):
            message = f"expected {rank} axes, got {len(other.dims or move)}"
            wrong.append(Contradiction("shape", f"input {port.name}", message))
        matches.append(InputMatch(port.name, other.name, place, at[place], move, other.dtype, "record"))
    return tuple(matches), tuple(wrong)


def _outputs(there: About, moves: Sequence[Permutation]) -> tuple[OutputMatch, ...]:
    return tuple(OutputMatch(place, place, move) for place, move in enumerate(moves))


def with_outputs(found: Correspondence, structures: tuple[Any, Any]) -> Correspondence:
    """The correspondence with the outputs in the places that a run of both models shows them in. structures: how the
    outputs nest, the original's first."""
    moves = {match.original: match.permutation for match in found.outputs}
    pairs, _ = match_leaves(*structures)
    if len(pairs) != len(leaves_of(structures[0])):
        return replace(found, structures=structures)
    outputs = tuple(OutputMatch(mine, other, moves.get(mine)) for mine, other in sorted(pairs.items()))
    return replace(found, outputs=outputs, structures=structures)


# ------------------------------------------------------------------------------------------------------------- weights
def _weights(original: Runner, converted: Runner, record: Recorded) -> Correspondence | None:
    infos, held = ({**r.parameters(), **r.buffers()} for r in (original, converted))
    mine, theirs = (speaks_torch(r.about()) for r in (original, converted))
    pieces: dict[str, list[Piece]] = {}
    for weight in record.weights:
        name = weight.torch_name if mine else weight.source_name
        other = weight.torch_name if theirs else weight.source_name
        if name not in infos or other not in held:
            continue
        name, other = infos[name].tied_to or name, held[other].tied_to or other  # a tensor stands under its first name
        if other in {piece.converted for piece in pieces.get(name, ())}:
            continue
        shapes = tuple(infos[name].shape), tuple(held[other].shape)
        piece = _same(name, other, shapes) if mine == theirs else _piece(name, other, shapes, weight, mine)
        if piece is None:
            return None
        pieces.setdefault(name, []).append(piece)
    if infos and record.weights and not pieces:
        return None
    matches = {name: WeightMatch(name, tuple(found), "record") for name, found in pieces.items()}
    taken = {piece.converted for found in pieces.values() for piece in found}
    firsts = set(matches) | {str(infos[n].tied_to) for n in matches if infos[n].tied_to}
    left = [n for n, info in infos.items() if n not in firsts and info.tied_to not in firsts]
    right = [n for n, info in held.items() if n not in taken and info.tied_to not in taken]
    ignored = (*(n for n in left if not _is_float(infos[n])), *(n for n in right if not _is_float(held[n])))
    return Correspondence(
        weights=matches, infos=infos, values=original.state(), buffers=frozenset(original.buffers()),
        unmatched_original=tuple(n for n in left if n not in ignored),
        unmatched_converted=tuple(n for n in right if n not in ignored), ignored=ignored, by_record=True,
    )  # fmt: skip


def _is_float(info: ParameterInfo) -> bool:
    return info.dtype.startswith(("float", "bfloat", "complex"))


def _same(name: str, other: str, shapes: tuple[Shape, Shape]) -> Piece | None:
    shape, target = shapes
    every: tuple[Index, ...] = (None,) * len(shape)
    return Piece(name, other, shape, every, tuple(range(len(shape))), target, every) if shape == target else None


def _piece(name: str, other: str, shapes: tuple[Shape, Shape], weight: WeightRecord, from_torch: bool) -> Piece | None:
    """Where the one array lies in the other; None where the shapes are not those of the record."""
    shape, target = shapes
    if weight.entry is None and weight.part is None:
        return _same(name, other, shapes)
    source = target if from_torch else shape
    box = tuple(slice(*ends) for ends in weight.part) if weight.part is not None else ...
    numbers = np.arange(math.prod(shape)).reshape(shape)
    places = np.arange(math.prod(source)).reshape(source)[box]
    try:
        order = _moved(numbers if from_torch else places, weight.entry, from_torch)
    except ValueError:  # the record is of arrays of other shapes
        return None
    if order.shape != (places.shape if from_torch else target):
        return None
    if weight.part is None and (permutation := _transposition(shape, order)) is not None:
        return Piece(name, other, shape, (None,) * len(shape), permutation, target, (None,) * len(target))
    filled = places.ravel() if from_torch and weight.part is not None else None
    return Piece(name, other, (math.prod(shape),), (order.ravel(),), (0,), (math.prod(target),), (filled,))


def _moved(numbers: Array, entry: Any, from_torch: bool) -> Array:
    if entry is None:
        return numbers
    return np.asarray(entry.to_keras(numbers) if from_torch else entry.to_torch(numbers))


def _transposition(shape: Shape, order: Array) -> tuple[int, ...] | None:
    """The permutation of axes that an order of elements is, by the step of the numbers along each axis."""
    if len(shape) != order.ndim or not order.size:
        return None
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    free, found = list(range(len(shape))), []
    for axis, size in enumerate(order.shape):
        step = int(np.take(order, 1, axis).flat[0] - order.flat[0]) if size > 1 else None
        fits = [a for a in free if shape[a] == size and (step is None or strides[a] == step)]
        if not fits:
            return None
        found.append(fits[0])
        free.remove(fits[0])
    numbers = np.arange(order.size).reshape(shape)
    return tuple(found) if np.array_equal(numbers.transpose(found), order) else None


def compare_rates(original: Runner, converted: Runner, ledger: Ledger) -> None:
    """The rates of layers that drop or add noise, where both models have one of that path and tell. Draws that cannot
    be replayed are compared as samples, which see large differences only."""
    mine, other = _rates(original), _rates(converted)
    for name in sorted(mine.keys() & other.keys()):
        if not math.isclose(mine[name], other[name], rel_tol=1e-6, abs_tol=1e-9):
            message = f"expected a rate of {mine[name]:.6g}, got {other[name]:.6g}"
            ledger.reject("random", "signature", name, message)


def _rates(runner: Any) -> dict[str, float]:
    return dict(runner.rates()) if hasattr(runner, "rates") else {}


def compare_held(original: Runner, adapted: Runner, found: Correspondence, ledger: Ledger) -> None:
    """Names and values of what both models hold, where one of them is for inference alone and the signature is not
    looked at; every parameter and float buffer of a trainable original must be there."""
    state = adapted.state()
    if original.about().gradients:
        for name in found.unmatched_original:
            ledger.reject("missing", "signature", name, "the converted model has no such parameter")
    for name in found.weights:
        mine, other = found.values[name], state[name]
        if mine.shape != other.shape:
            message = f"expected shape {list(mine.shape)}, got {list(other.shape)}"
            ledger.reject("shape", "signature", name, message)
        elif not np.array_equal(mine, other, equal_nan=mine.dtype.kind == "f"):
            wrong = int(np.sum(mine != other))
            ledger.reject("value", "signature", name, f"holds other values in {wrong} of {mine.size} elements")
