"""The correspondence of two models that nobody mapped: inputs, outputs, parameters and buffers. numpy only.

Names first, then order; axis order by what fits, and where several orders fit by what the models answer; parameters by
value (`match_weights`). What was decided by order alone is said, and where it can be, put to the test: both models are
run with other values in the places concerned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from isomorph.parity.matching.confirm import confirm_weights
from isomorph.parity.matching.correspondence import Contradiction, Correspondence, InputMatch, OutputMatch
from isomorph.parity.matching.held import Held
from isomorph.parity.matching.match_ports import kind_of, match_names
from isomorph.parity.matching.match_weights import Weights, match_weights
from isomorph.parity.matching.probe import match_by_running
from isomorph.parity.runners.base import Runner
from isomorph.parity.tolerance import Array

__all__ = ["Contradiction", "Correspondence", "InputMatch", "OutputMatch", "find"]


def find(original: Runner, converted: Runner, example: Sequence[Array] | None) -> Correspondence:
    """The correspondence of two models. Both are as they were afterwards.

    Args:
        original, converted: in their own dtype.
        example: inputs that the original accepts, flat, in its own order. Without one what depends on a run (outputs;
            axis orders of which several fit) is decided by names and order.

    Raises:
        UsageError: no order of the axes makes the example fit the converted model, and the original would accept what
            does; or the converted model's ranks are unknown and it runs under none.
        WorkerError: a worker process died.
    """
    found = _weights(original, converted)
    mine, ports = original.about().inputs, converted.about().inputs
    if len(mine) != len(ports):
        message = f"the original takes {len(mine)} arrays, the converted model {len(ports)}"
        return replace(found, contradictions=(Contradiction("structure", "inputs", message),))
    dtypes = [str(a.dtype) for a in example] if example is not None else [port.dtype for port in mine]
    kinds = [kind_of(dtype) for dtype in dtypes]
    places, how = match_names([port.name for port in mine], kinds, ports)
    notes = list(found.notes)
    matches = []
    for place, at in enumerate(places):
        if at is None:
            message = f"no input of the converted model is {mine[place].name}"
            return replace(found, contradictions=(Contradiction("structure", f"input {mine[place].name}", message),))
        port = ports[at]
        if kind_of(port.dtype) != kinds[place]:
            message = f"expected dtype {dtypes[place]}, got {port.dtype}"
            return replace(found, contradictions=(Contradiction("dtype", f"input {mine[place].name}", message),))
        if kinds[place] == "integer" and port.dtype != mine[place].dtype:
            notes.append(
                f"input {mine[place].name} is {mine[place].dtype}, and is given to {port.name} as {port.dtype}"
            )
        rank = len(example[place].shape) if example is not None else len(mine[place].dims or ())
        by = "name" if how == "name" or len(ports) == 1 else how
        matches.append(InputMatch(mine[place].name, port.name, place, at, tuple(range(rank)), port.dtype, by))
    if how == "order" and len(ports) > 1:
        notes.append(
            "inputs are matched by their order: " + ", ".join(f"{m.original} is {m.converted}" for m in matches)
        )
    found = replace(found, inputs=tuple(matches), notes=tuple(notes))
    found = match_by_running(original, converted, example, found)
    found = confirm_weights(original, converted, example, found)
    return found if converted.about().gradients else _certain(found)


def _certain(found: Correspondence) -> Correspondence:
    """Only matches of equal values. A format for inference alone folds weights into each other: what looks alike there
    by its shape or name is another parameter, and other values must not be put into it."""
    kept = {name: match for name, match in found.weights.items() if match.how not in ("order", "shape", "near")}
    lost = [match for name, match in found.weights.items() if name not in kept]
    there = {piece.converted for match in kept.values() for piece in match.pieces}
    return replace(
        found,
        weights=kept,
        ambiguous=tuple(line for line in found.ambiguous if line.split(" ")[0] in kept),
        unmatched_original=(*found.unmatched_original, *(match.original for match in lost)),
        unmatched_converted=(
            *found.unmatched_converted,
            *dict.fromkeys(p.converted for match in lost for p in match.pieces if p.converted not in there),
        ),
    )


def _weights(original: Runner, converted: Runner) -> Correspondence:
    infos = {**original.parameters(), **original.buffers()}
    state = original.state()
    weights = match_weights(_held(original, state), _held(converted, converted.state()))
    held = {**converted.parameters(), **converted.buffers()}
    counted = [n for n in weights.unmatched_original if not _is_float(infos[n].dtype)]
    states = [n for n in weights.unmatched_converted if not _is_float(held[n].dtype)]
    return Correspondence(
        weights=weights.matches, ambiguous=tuple(weights.ambiguous), notes=_told(weights),
        unmatched_original=tuple(n for n in weights.unmatched_original if n not in counted),
        unmatched_converted=tuple(n for n in weights.unmatched_converted if n not in states),
        ignored=(*counted, *states), infos=infos, values=state, buffers=frozenset(original.buffers()),
    )  # fmt: skip


def _told(weights: Weights) -> tuple[str, ...]:
    """What a user should know about the matches as a whole."""
    by_value = sum(match.how != "shape" for match in weights.matches.values())
    mine = weights.matches or weights.unmatched_original
    other = weights.matches or weights.unmatched_converted  # a format that folds its weights away may have none
    if mine and other and not by_value:
        return ("no parameter of the converted model has the values of one of the original: are its weights loaded?",)
    return ()


def _held(runner: Runner, state: Mapping[str, Array]) -> list[Held]:
    kinds = (("parameter", runner.parameters()), ("buffer", runner.buffers()))
    return [
        Held(name, np.asarray(state[name]), info.dtype, kind, info.tied_to)
        for kind, infos in kinds
        for name, info in infos.items()
        if name in state
    ]


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))
