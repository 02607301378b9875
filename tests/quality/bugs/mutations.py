"""Ways to spoil a right conversion. A mutation acts on the captured graph, so that the bug is emitted in every dtype,
on the converter while it emits and runs (mutations_rules.py), or on the finished Conversion (mutations_model.py).

An operator that finds nothing to spoil raises LookupError: a mutation that does nothing is a bug nobody can catch.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from isomorph.convert import api
from isomorph.convert.capture import Captured
from isomorph.convert.conversion import Conversion
from isomorph.convert.ir import Graph, Node, Parameter, Sym, TensorType, Value, fresh_names
from isomorph.convert.rules.registry import load_rules
from tests.quality.bugs import models

Fresh = Callable[[str], str]
Change = Callable[[Node, Fresh], Sequence[Node]]
Index = int | str | tuple[int, int]
Shape = Callable[[tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True)
class Mutation:
    """graph: changes a private copy of the capture, in place. patch: is open while the model is emitted and judged.
    edit: changes a Conversion in place; it is applied to each that is emitted."""

    graph: Callable[[Captured], None] | None = None
    patch: Callable[[], contextlib.AbstractContextManager[None]] | None = None
    edit: Callable[[Conversion], None] | None = None


@functools.cache
def captured(model: str) -> tuple[nn.Module, Captured, str]:
    """The net, its capture in both modes, and the mode the capture stands for."""
    load_rules()
    net = models.make(model)
    return net, *api._capture(net, models.example(model), {}, models.dynamic_shapes(model), "both")


@contextlib.contextmanager
def planted(model: str, mutation: Mutation) -> Iterator[tuple[nn.Module, Conversion]]:
    """The net and a conversion of it with the mutation in it, for as long as the context is open."""
    net, found, mode = captured(model)
    if mutation.graph is not None:
        found = dataclasses.replace(
            found, graph=copy.deepcopy(found.graph), tensors=dict(found.tensors), tied=dict(found.tied)
        )
        mutation.graph(found)
        found.graph.verify()
    with mutation.patch() if mutation.patch is not None else contextlib.nullcontext():
        report = {"seconds": {}, "persistent": sorted(api._persistent(net))}
        conversion = api.from_captured(found, mode=mode, report=report)
        conversion.example = (models.example(model), {})
        if mutation.edit is not None:
            _edit_all(conversion, mutation.edit)
        yield net, conversion


def _edit_all(conversion: Conversion, edit: Callable[[Conversion], None]) -> None:
    remake = conversion._remake
    assert remake is not None

    def remade(dtype: str) -> Conversion:
        other = remake(dtype)
        edit(other)
        return other

    edit(conversion)
    conversion._remake = remade


# ------------------------------------------------------------------------------------------------------------ operators
def each(op: str, change: Change, module: str | None = None, nth: int | None = None) -> Mutation:
    """Every node of an op (in a module; the nth of them) becomes other nodes."""

    def graph(found: Captured) -> None:
        fresh, count, nodes = _fresh(found.graph), 0, []
        for node in found.graph.nodes:
            hit = node.op == op and module in (None, node.origin.module_path)
            nodes += change(node, fresh) if hit and nth in (None, count) else [node]
            count += hit
        if count <= (nth or 0):
            raise LookupError(f"no {op} in {module}")
        found.graph.nodes = nodes

    return Mutation(graph)


def argument(op: str, index: Index, value: Any, **where: Any) -> Mutation:
    """Another argument; a function makes it from the old one."""

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        old = _argument(node, index)
        return [_with(node, index, value(old) if callable(value) else value)]

    return each(op, change, **where)


def becomes(op: str, other: str, *args: Any, kwargs: dict[str, Any] | None = None, **where: Any) -> Mutation:
    """Another op on the first operand, with these arguments; without any it keeps its own."""

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        given = (node.args[0], *args) if args or kwargs is not None else node.args
        return [node.replace(op=other, args=given, kwargs=kwargs or {})]

    return each(op, change, **where)


def bypassed(op: str, **where: Any) -> Mutation:
    """The first operand instead of the result."""
    return becomes(op, "aten.alias.default", kwargs={}, **where)


def before(op: str, index: Index, via: str, *args: Any, shape: Shape | None = None, **where: Any) -> Mutation:
    """An operand goes through another op first."""
    kwargs = where.pop("kwargs", {})

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        x = _argument(node, index)
        sizes = x.type.shape if shape is None else shape(x.type.shape)
        moved = Value(fresh("planted"), TensorType(sizes, x.type.dtype))
        made = Node(via, (x, *args), kwargs, (moved,), node.origin)
        return [made, _with(node, index, moved)]

    return each(op, change, **where)


def after(op: str, via: str, *args: Any, train_only: bool = False, **where: Any) -> Mutation:
    """The result goes through another op; in train mode only, if wanted."""
    kwargs = where.pop("kwargs", {})

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        out, *rest = node.outputs
        right, wrong = Value(fresh("right"), out.type), Value(fresh("wrong"), out.type)
        last = Node(via, (right, *args), kwargs, (wrong if train_only else out,), node.origin)
        chosen = Node("isomorph.select_mode", (wrong, right), {}, (out,), node.origin)
        return [node.replace(outputs=(right, *rest)), last, *([chosen] if train_only else [])]

    return each(op, change, **where)


def swapped(op: str, left: int, right: int, **where: Any) -> Mutation:
    """Two arguments exchanged."""

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        a, b = node.args[left], node.args[right]
        return [_with(_with(node, left, b), right, a)]

    return each(op, change, **where)


def skipped(op: str, module: str, nth: int = 0) -> Mutation:
    """Whoever reads the result of an op reads its first operand, whatever the types."""

    def graph(found: Captured) -> None:
        hits = [n for n in found.graph.nodes if n.op == op and n.origin.module_path == module]
        rest = [n for n in found.graph.nodes if n is not hits[nth]]
        found.graph = found.graph.rebuilt(rest, {hits[nth].outputs[0]: hits[nth].args[0]})

    return Mutation(graph)


def retyped(op: str, shape: Shape, mutation: Mutation, **where: Any) -> Mutation:
    """Another mutation, then another shape for the op's result."""

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        out = node.outputs[0]
        out.type = TensorType(shape(out.type.shape), out.type.dtype)
        return [node]

    return both(mutation, each(op, change, **where))


def both(*mutations: Mutation) -> Mutation:
    """Several graph mutations, one after the other."""

    def graph(found: Captured) -> None:
        for mutation in mutations:
            assert mutation.graph is not None
            mutation.graph(found)

    return Mutation(graph)


def output_through(index: int, via: str, *args: Any, dtype: str | None = None, shape: Shape | None = None) -> Mutation:
    """One of the model's outputs goes through another op."""

    def graph(found: Captured) -> None:
        x = found.graph.outputs[index]
        sizes = x.type.shape if shape is None else shape(x.type.shape)
        out = Value(_fresh(found.graph)("planted"), TensorType(sizes, dtype or x.type.dtype))
        found.graph.nodes.append(Node(via, (x, *args), {}, (out,)))
        found.graph.outputs[index] = out

    return Mutation(graph)


def output_order(*order: int) -> Mutation:
    """The model's outputs in another order."""

    def graph(found: Captured) -> None:
        found.graph.outputs = [found.graph.outputs[i] for i in order]

    return Mutation(graph)


def baked(dim: str, size: int, op: str, **where: Any) -> Mutation:
    """A size that varies is the example's in the arguments of an op."""

    def change(node: Node, fresh: Fresh) -> Sequence[Node]:
        return [node.map_args(lambda a: size if isinstance(a, Sym) and a.text == dim else a)]

    return each(op, change, **where)


def trained(name: str, trainable: bool) -> Mutation:
    """A parameter is trained, or is not."""

    def graph(found: Captured) -> None:
        known = found.graph.parameters[name]
        if known.trainable == trainable:
            raise LookupError(f"{name} is so already")
        found.graph.parameters[name] = dataclasses.replace(known, trainable=trainable)

    return Mutation(graph)


def untied(name: str, op: str, index: int, module: str) -> Mutation:
    """A tied weight becomes a parameter of its own, used in one module."""

    def graph(found: Captured) -> None:
        first = found.tied.pop(name)
        known = found.graph.parameters[first]
        own = Value(_fresh(found.graph)("own"), known.value.type)
        found.graph.parameters[name] = Parameter(name, own, known.kind, known.trainable)
        found.tensors[name] = found.tensors[first].detach().clone()
        change = argument(op, index, own, module=module).graph
        assert change is not None
        change(found)

    return Mutation(graph)


def not_updated(buffer: str) -> Mutation:
    """A buffer that the model updates stays as it is."""

    def graph(found: Captured) -> None:
        kept = [m for m in found.graph.mutations if m.buffer != buffer]
        if len(kept) == len(found.graph.mutations):
            raise LookupError(f"{buffer} is not updated")
        found.graph.mutations = kept

    return Mutation(graph)


def _fresh(graph: Graph) -> Fresh:
    return fresh_names(v.name for v in graph.values())


def _argument(node: Node, index: Index) -> Any:
    if isinstance(index, tuple):
        return node.args[index[0]][index[1]]
    return node.kwargs[index] if isinstance(index, str) else node.args[index]


def _with(node: Node, index: Index, value: Any) -> Node:
    """The node with another argument."""
    if isinstance(index, str):
        return node.replace(kwargs={**node.kwargs, index: value})
    first = index[0] if isinstance(index, tuple) else index
    if isinstance(index, tuple):
        inner = list(node.args[first])
        inner[index[1]] = value
        value = inner
    return node.replace(args=(*node.args[:first], value, *node.args[first + 1 :]))
