"""Whether the values of a graph have types that its ops take. onnx.checker does not look at this."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping
from typing import Any

import onnx
from onnx import TensorProto

from isomorph.convert.errors import UsageError

from . import proto
from .checks import describe, standard

__all__ = ["UNKNOWN", "require_types", "type_name"]


def require_types(model: Any, opsets: dict[str, int], where: str) -> None:
    """Raise UsageError where an op is given a type that it does not take, or two where it takes one. Looks at what is
    known after shape inference; at a function's body only when it is inlined."""
    _graph(model.graph, {}, opsets, where)


def _graph(graph: Any, outer: MutableMapping[str, str], opsets: dict[str, int], where: str) -> None:
    known = ChainMap({}, outer)
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.WhichOneof("value") is not None:
            known[value.name] = type_name(value.type)
    for tensor in graph.initializer:
        known[tensor.name] = f"tensor({_element(tensor.data_type)})"
    for node in graph.node:
        domain = standard(node.domain)
        version = opsets.get(domain, 0)
        if version and onnx.defs.has(node.op_type, version, domain):
            _node(node, onnx.defs.get_schema(node.op_type, version, domain), known, where)
        for inner in proto.attached_graphs(node):
            _graph(inner, known, opsets, where)


def _node(node: Any, schema: Any, known: MutableMapping[str, str], where: str) -> None:
    allowed = {constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in schema.type_constraints}
    bound: dict[str, tuple[str, str]] = {}
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for position, name in enumerate(names):
            found = known.get(name, "") if name else ""
            if not found or "()" in found or not formals:
                continue
            formal = formals[min(position, len(formals) - 1)]
            variable = formal.type_str
            if found not in allowed.get(variable, {variable}):
                raise UsageError(f"{where}: {describe(node)} does not take {name!r}, a {found}, as {formal.name!r}")
            if variable not in allowed or not formal.is_homogeneous:
                continue
            other, first = bound.setdefault(variable, (found, name))
            if other != found:
                raise UsageError(
                    f"{where}: {describe(node)}: {first!r} is a {other} and {name!r} a {found}; they must agree"
                )


def type_name(type_: Any) -> str:
    """A type as the schemas write it: "tensor(float)", "seq(tensor(int64))"; "()" in it where it is not known."""
    kind = type_.WhichOneof("value")
    if kind == "tensor_type":
        return f"tensor({_element(type_.tensor_type.elem_type)})"
    if kind == "sparse_tensor_type":
        return f"sparse_tensor({_element(type_.sparse_tensor_type.elem_type)})"
    if kind in ("sequence_type", "optional_type"):
        return f"{'seq' if kind == 'sequence_type' else 'optional'}({type_name(getattr(type_, kind).elem_type)})"
    if kind == "map_type":
        key = _element(type_.map_type.key_type)
        value = type_name(type_.map_type.value_type).removeprefix("tensor(").removesuffix(")")
        return f"map({key}, {value})"  # the schemas write a map of numbers: map(string, float)
    return "()"


def _element(number: int) -> str:
    return ELEMENTS.get(number, UNKNOWN if number else "")


UNKNOWN = "unknown"  # an element type that does not exist
ELEMENTS: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items() if number}
