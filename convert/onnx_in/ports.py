"""The order of axes at the border, and the transposes that a channels-last source leaves inside."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from isomorph.convert.conversion import Port

from .permute import Perm, inverse, perm_of, transposed
from .provenance import Origin, PortOrigin
from .transposes import cancel

__all__ = ["leaves", "nest", "rearranged"]


def rearranged(model: ir.Model, origin: Origin, layout: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """(inputs, outputs) of the module to be; the graph is changed in place.

    With layout "torch", what was torch's gets its own order back, and what is Keras' takes and gives channels first
    where that saves a transpose.
    """
    graph = model.graph
    if layout == "torch" and origin.is_torch:
        _order(graph.inputs, origin.inputs)
        _order(graph.outputs, origin.outputs)
    names = [[v.name for v in side] for side in (graph.inputs, graph.outputs)]
    stated = [{p.name: p.permutation for p in side} for side in (origin.inputs, origin.outputs)]
    permutations: list[list[Perm | None]] = [[None] * len(side) for side in names]
    if layout == "torch":
        for i, name in enumerate(names[0]):
            perm = _wanted(graph.inputs[i], origin, stated[0].get(name or ""))
            permutations[0][i] = perm
            if perm is not None:
                _turn_input(graph, i, perm, not origin.is_torch)
        for i, name in enumerate(names[1]):
            perm = _wanted(graph.outputs[i], origin, stated[1].get(name or ""))
            permutations[1][i] = perm
            if perm is not None:
                _turn_output(graph, i, perm, not origin.is_torch)
    cancel(graph)
    if layout == "torch" and not origin.is_torch:
        _take_back(graph, permutations)
        cancel(graph)
    for side, own in zip((graph.inputs, graph.outputs), names, strict=True):
        for value, name in zip(side, own, strict=True):
            value.name = name
    ports = [
        tuple(_port(v, n or "", p) for v, n, p in zip(side, own, perms, strict=True))
        for side, own, perms in zip((graph.inputs, graph.outputs), names, permutations, strict=True)
    ]
    return ports[0], ports[1]


def _wanted(value: ir.Value, origin: Origin, stated: Perm | None) -> Perm | None:
    """Source array = torch array.transpose(this)."""
    rank = None if value.shape is None else len(value.shape)
    if origin.is_torch:
        return stated if stated is not None and len(stated) == rank and list(stated) != sorted(stated) else None
    if origin.source == "keras" and rank is not None and rank in (3, 4, 5):
        return (0, *range(2, rank), 1)
    return None


def _order(values: list[ir.Value], stated: tuple[PortOrigin, ...]) -> None:
    """Bring graph inputs or outputs into the stated order, if it names all of them."""
    place = {p.name: i for i, p in enumerate(stated)}
    if sorted(place) == sorted(v.name or "" for v in values) and len(place) == len(values):
        found = sorted(values, key=lambda v: place[v.name or ""])
        values.clear()
        values.extend(found)


def _turn_input(graph: ir.Graph, i: int, perm: Perm, trial: bool = False) -> None:
    """A new input in torch's order, and a Transpose to what the graph reads."""
    old = graph.inputs[i]
    assert old.shape is not None
    new = ir.Value(name=old.name, type=old.type, shape=ir.Shape([old.shape[p] for p in inverse(perm)]))
    graph.inputs[i] = new
    back = transposed(new, perm, trial=trial)
    old.replace_all_uses_with(back, replace_graph_outputs=True)


def _turn_output(graph: ir.Graph, i: int, perm: Perm, trial: bool = False) -> None:
    old = graph.outputs[i]
    graph.outputs[i] = transposed(old, inverse(perm), trial=trial)


def _take_back(graph: ir.Graph, permutations: list[list[Perm | None]]) -> None:
    """The inputs and outputs that still need a transpose get their old order back."""
    for i, perm in enumerate(permutations[0]):
        value = graph.inputs[i]
        # nobody reads it, or somebody reads the transpose that was put there: not channels first everywhere
        if perm is not None and (not value.uses() or any(perm_of(u.node) is not None for u in value.uses())):
            permutations[0][i] = None
            _turn_input(graph, i, inverse(perm))
    for i, perm in enumerate(permutations[1]):
        value = graph.outputs[i]
        if perm is not None and perm_of(value.producer()) is not None:
            permutations[1][i] = None
            _turn_output(graph, i, inverse(perm))


def _port(value: ir.Value, name: str, perm: Perm | None) -> Port:
    dims: list[int | str] = []
    for i, d in enumerate(value.shape or ()):
        dims.append(d if isinstance(d, int) else dim_name(d.value or f"{name}_{i}"))
    dtype = value.dtype.name if value.dtype is not None else "object"
    return Port(name, {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype, dtype.lower()), tuple(dims), perm)


# ------------------------------------------------------------------------------------------------- how results nest
def leaves(structure: Any) -> list[int]:
    """The leaf numbers of a structure of dicts, lists and tuples, in the order they stand in."""
    if isinstance(structure, dict):
        return [n for value in structure.values() for n in leaves(value)]
    if isinstance(structure, (list, tuple)):
        return [n for value in structure for n in leaves(value)]
    return [structure] if isinstance(structure, int) else []


def nest(structure: Any, results: Mapping[int, Any]) -> Any:
    """The structure with results in the place of their numbers: lists become tuples, and a dict has its keys in the
    order of their numbers."""
    if isinstance(structure, dict):
        keys = sorted(structure, key=lambda k: min(leaves(structure[k]), default=0))
        return {k: nest(structure[k], results) for k in keys}
    if isinstance(structure, (list, tuple)):
        return tuple(nest(value, results) for value in structure)
    return results.get(structure) if isinstance(structure, int) else None


def dim_name(text: str) -> str:
    """A dim as ports write it: a name or an expression over names. Exporters write others too ("p2o.Dimension.0")."""
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        legal = False
    else:
        legal = re.fullmatch(r"[\w\s+*/()-]+", text) is not None
    return text if legal else re.sub(r"\W+", "_", text).strip("_") or "d"
