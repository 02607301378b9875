"""A Graph as plain JSON data and back, for `GraphLayer`'s config. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from .ir import Arg, ByMode, Graph, Mutation, Node, Origin, Parameter, Sym, TensorType, Value


def to_data(graph: Graph) -> dict[str, Any]:
    """JSON-able data that `from_data` turns into an equal graph. Origins are reduced to their text."""

    def dim(d: Any) -> Any:
        return str(d) if isinstance(d, Sym) else d

    def value(v: Value) -> list[Any]:
        return [v.name, [dim(d) for d in v.type.shape], v.type.dtype]

    def arg(a: Arg) -> Any:
        if isinstance(a, Value):
            return {"v": a.name}
        if isinstance(a, Sym):
            return {"s": a.text}
        if isinstance(a, ByMode):
            return {"m": [arg(a.train), arg(a.eval)]}
        if isinstance(a, Graph):
            return {"g": to_data(a)}
        if isinstance(a, (list, tuple)):
            return [arg(b) for b in a]
        if isinstance(a, complex):
            return {"c": [a.real, a.imag]}
        if isinstance(a, float) and not math.isfinite(a):
            return {"f": repr(a)}
        return a

    return {
        "inputs": [value(v) for v in graph.inputs],
        "parameters": [[p.name, p.kind, p.trainable, value(p.value)] for p in graph.parameters.values()],
        "nodes": [
            {
                "op": n.op,
                "args": [arg(a) for a in n.args],
                "kwargs": {k: arg(a) for k, a in n.kwargs.items()},
                "outputs": [value(v) for v in n.outputs],
                "from": [n.origin.module_path, n.origin.module_class, n.origin.fx_name],
            }
            for n in graph.nodes
        ],
        "outputs": [arg(a) for a in graph.outputs],
        "mutations": [[m.buffer, m.value.name, m.when] for m in graph.mutations],
        "bounds": {k: list(v) for k, v in graph.bounds.items()},
    }


def from_data(data: dict[str, Any]) -> Graph:
    """The graph `to_data` wrote. KeyError or GraphError where the data is damaged."""
    table: dict[str, Value] = {}

    def dim(d: Any) -> Any:
        return Sym(d) if isinstance(d, str) else d

    def value(d: list[Any]) -> Value:
        v = Value(d[0], TensorType(tuple(dim(x) for x in d[1]), d[2]))
        table[v.name] = v
        return v

    def arg(a: Any) -> Arg:
        if isinstance(a, list):
            return [arg(b) for b in a]
        if isinstance(a, dict):
            (key, content), *_ = a.items()
            if key == "v":
                return table[content]
            if key == "s":
                return Sym(content)
            if key == "m":
                return ByMode(arg(content[0]), arg(content[1]))
            if key == "g":
                return from_data(content)
            return complex(*content) if key == "c" else float(content)
        return a

    inputs = [value(v) for v in data["inputs"]]
    parameters = {p[0]: Parameter(p[0], value(p[3]), p[1], p[2]) for p in data["parameters"]}
    nodes = []
    for n in data["nodes"]:
        args, kwargs = tuple(arg(a) for a in n["args"]), {k: arg(a) for k, a in n["kwargs"].items()}
        origin = Origin(fx_name=n["from"][2], module_path=n["from"][0], module_class=n["from"][1])
        nodes.append(Node(n["op"], args, kwargs, tuple(value(v) for v in n["outputs"]), origin))
    outputs = [arg(a) for a in data["outputs"]]
    mutations = [Mutation(b, table[v], when) for b, v, when in data["mutations"]]
    bounds = {k: (v[0], v[1]) for k, v in data["bounds"].items()}
    return Graph(inputs, outputs, nodes, parameters, mutations, bounds).verify()


def retype(graph: Graph, dtypes: dict[str, str]) -> Graph:
    """The graph with dtypes exchanged everywhere: in types and in dtype arguments ("float32" -> "float64")."""
    table: dict[Value, Value] = {}

    def new(v: Value) -> Value:
        if v not in table:
            table[v] = Value(v.name, v.type.with_dtype(dtypes.get(v.type.dtype, v.type.dtype)))
        return table[v]

    def arg(a: Arg) -> Arg:
        if isinstance(a, Value):
            return new(a)
        if isinstance(a, Graph):
            return retype(a, dtypes)
        return dtypes.get(a, a) if isinstance(a, str) else a

    nodes = [n.map_args(arg).replace(outputs=tuple(new(v) for v in n.outputs)) for n in graph.nodes]
    return Graph(
        [new(v) for v in graph.inputs],
        [arg(a) for a in graph.outputs],
        nodes,
        {k: dataclasses.replace(p, value=new(p.value)) for k, p in graph.parameters.items()},
        [dataclasses.replace(m, value=new(m.value)) for m in graph.mutations],
        dict(graph.bounds),
    )
