"""The graph that every part of the converter speaks of: types, verifier, printer and text form. Standard library only.

Ops are ATen overloads by name ("aten.leaky_relu.default"); their arguments stand in the order of the ATen schema,
every default filled in. Values are torch-ordered (NCHW); physical order is decided by `layout.py` and kept beside the
graph, never in it.

    Graph  inputs: [Value]   parameters: {name: Parameter}   nodes: [Node]   outputs: [Value]   mutations: [Mutation]
    Node   op, args (Value | literal | Sym | ByMode | Graph | lists of these), kwargs, outputs, origin
    Value  name, type; compared by identity
    TensorType  shape of int | Sym, dtype as torch names it ("float32")
"""

from __future__ import annotations

import ast
import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "CALLS",
    "ByMode",
    "Graph",
    "GraphError",
    "Mutation",
    "Node",
    "Origin",
    "Parameter",
    "Sym",
    "TensorType",
    "Value",
    "by_mode",
]


class GraphError(Exception):
    """A graph is malformed: a use before definition, two definitions, a wrong arity."""


# ------------------------------------------------------------------------------------------------------ dims and types
@dataclass(frozen=True)
class Sym:
    """A symbolic integer or float: Python expression text over dim names, such as "b", "2*s" or "(h - 1)//2"."""

    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    @property
    def names(self) -> frozenset[str]:
        """The dim names that the expression uses."""
        return (
            frozenset(n.id for n in ast.walk(ast.parse(self.text, mode="eval")) if isinstance(n, ast.Name))
            - CALLS.keys()
        )

    @property
    def is_name(self) -> bool:
        """Whether it is one bare dim name."""
        return self.text.isidentifier()

    @property
    def is_polynomial(self) -> bool:
        """Whether it is made of sums and products alone, so that a single unknown in it may be solved for."""
        parts = (
            ast.Expression,
            ast.BinOp,
            ast.UnaryOp,
            ast.Name,
            ast.Constant,
            ast.Add,
            ast.Sub,
            ast.Mult,
            ast.USub,
            ast.Load,
        )
        return all(isinstance(n, parts) for n in ast.walk(ast.parse(self.text, mode="eval")))

    def evaluate(self, env: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]] | None = None) -> Any:
        """The value under `env` (name -> int or a backend's scalar tensor; an expression that was met as a size may
        stand
        there whole). KeyError names a missing dim.

        `calls` gives the grammar's functions (Max, ceil, ...) another meaning: Python's own do not take scalar tensors.
        """
        if self.text in env:
            return env[self.text]
        return _evaluate(ast.parse(self.text, mode="eval").body, env, {**CALLS, **(calls or {})})

    def rename(self, names: Mapping[str, str]) -> Sym:
        """The same expression with its dim names replaced."""
        tree = ast.parse(self.text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = names.get(node.id, node.id)
        return Sym(ast.unparse(tree))


Dim = int | Sym

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
CALLS: dict[str, Callable[..., Any]] = {
    "Max": max,
    "Min": min,
    "abs": abs,
    "int": int,
    "float": float,
    "ceil": lambda x: -int(-x // 1),
    "floor": lambda x: int(x // 1),
    "sqrt": lambda x: x**0.5,
    "where": lambda c, a, b: a if c else b,
}


def _evaluate(node: ast.expr, env: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return env[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, env, calls)
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_evaluate(node.left, env, calls), _evaluate(node.right, env, calls))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _COMPARE[type(node.ops[0])](_evaluate(node.left, env, calls), _evaluate(node.comparators[0], env, calls))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return calls[node.func.id](*(_evaluate(a, env, calls) for a in node.args))
    raise GraphError(f"symbolic dim: {ast.unparse(node)!r} is outside the dim grammar")


@dataclass(frozen=True)
class TensorType:
    """Shape (ints and `Sym`s, torch order) and dtype (torch's name without the prefix)."""

    shape: tuple[Dim, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def is_floating(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(self.shape, dtype)


@dataclass(frozen=True)
class ByMode:
    """An argument whose value differs between train and eval mode: `dropout(x, p, ByMode(True, False))`."""

    train: Any
    eval: Any

    def __str__(self) -> str:
        return f"<{self.train} | {self.eval}>"

    def pick(self, training: bool) -> Any:
        return self.train if training else self.eval


def by_mode(arg: Any, training: bool) -> Any:
    """`arg` itself, or what a `ByMode` holds for the mode."""
    return arg.pick(training) if isinstance(arg, ByMode) else arg


# ---------------------------------------------------------------------------------------------------------------- nodes
@dataclass(frozen=True)
class Origin:
    """Where a node came from: the fx name, the torch module that ran it, the source line, and the passes that touched
    it.

    `scope` holds one entry per enclosing module call, outermost first: (attribute name in its parent, call number).
    """

    fx_name: str = ""
    module_path: str = ""
    module_class: str = ""
    file: str = ""
    line: int = 0
    scope: tuple[tuple[str, int], ...] = ()
    classes: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()

    def touched(self, by: str) -> Origin:
        return dataclasses.replace(self, passes=(*self.passes, by))

    def __str__(self) -> str:
        where = f"{self.module_path or '(root)'}"
        if self.module_class:
            where += f" ({self.module_class.rpartition('.')[2]})"
        return where + (f" at {self.file}:{self.line}" if self.file else "")


@dataclass(eq=False)
class Value:
    """One tensor of the graph. Compared by identity; the name is for people and for the text form."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.name}"

    __repr__ = __str__


STATISTICS = frozenset(
    {"aten.batch_norm.default", "aten.instance_norm.default"}
)  # args[3]: running mean, args[5]: whether it moves
Arg = Any  # Value | Sym | ByMode | Graph | int | float | bool | str | None | complex | list[Arg] | tuple[Arg, ...]


def leaves(arg: Arg) -> Iterator[Arg]:
    """The leaves of nested argument lists, in order."""
    if isinstance(arg, (list, tuple)):
        for a in arg:
            yield from leaves(a)
    else:
        yield arg


def map_leaves(function: Callable[[Arg], Arg], arg: Arg) -> Arg:
    """`arg` with every leaf replaced; lists and tuples become lists."""
    if isinstance(arg, (list, tuple)):
        return [map_leaves(function, a) for a in arg]
    return function(arg)


@dataclass(frozen=True, eq=False)
class Node:
    """One op: `outputs = op(*args, **kwargs)`, args in the order of the ATen schema with defaults filled in.

    Subgraphs among the args are closed: what they use comes in as operands.
    """

    op: str
    args: tuple[Arg, ...]
    kwargs: Mapping[str, Arg]
    outputs: tuple[Value, ...]
    origin: Origin = Origin()

    @property
    def all_leaves(self) -> list[Arg]:
        return [*leaves(self.args), *leaves(list(self.kwargs.values()))]

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The tensor operands, in order, with repeats."""
        return tuple(a for a in self.all_leaves if isinstance(a, Value))

    @property
    def symbols(self) -> frozenset[str]:
        """The dim names its arguments use (not those of its operands' types)."""
        names: frozenset[str] = frozenset()
        for a in self.all_leaves:
            names |= a.names if isinstance(a, Sym) else frozenset()
        return names

    @property
    def updates_statistics(self) -> bool:
        """Whether it is a normalisation that moves its own running statistics in some mode: it acts also where nobody
        reads it."""
        if self.op not in STATISTICS or not isinstance(self.args[3], Value):
            return False
        return bool(by_mode(self.args[5], True) or by_mode(self.args[5], False))

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        return tuple(a for a in self.all_leaves if isinstance(a, Graph))

    def replace(self, **changes: Any) -> Node:
        return dataclasses.replace(self, **changes)

    def map_args(self, function: Callable[[Arg], Arg]) -> Node:
        """The node with every leaf of its arguments replaced."""
        args = tuple(map_leaves(function, list(self.args)))
        return self.replace(args=args, kwargs={k: map_leaves(function, v) for k, v in self.kwargs.items()})

    def __str__(self) -> str:
        out = ", ".join(f"{v}: {v.type}" for v in self.outputs)
        args = [_show(a) for a in self.args] + [f"{k}={_show(v)}" for k, v in self.kwargs.items()]
        return f"{out} = {self.op}({', '.join(args)})"


def _show(arg: Arg) -> str:
    if isinstance(arg, (list, tuple)):
        return f"[{', '.join(map(_show, arg))}]"
    if isinstance(arg, Graph):
        return "{" + "; ".join(str(arg).splitlines()) + "}"
    return repr(arg) if isinstance(arg, (str, float)) else str(arg)


@dataclass(frozen=True)
class Parameter:
    """A tensor the model owns: kind is "parameter", "buffer" or "constant"."""

    name: str
    value: Value
    kind: str
    trainable: bool = False

    def __str__(self) -> str:
        note = ", trainable" if self.trainable else ""
        return f"{self.value}: {self.value.type}  # {self.kind} {self.name}{note}"


@dataclass(frozen=True)
class Mutation:
    """After a call, the buffer holds `value`. `when` is "train", "eval" or "always"."""

    buffer: str
    value: Value
    when: str = "always"


@dataclass
class Graph:
    """A straight-line program over tensors, in execution order. `bounds` gives each dim name its (least, greatest)."""

    inputs: list[Value]
    outputs: list[Arg]
    nodes: list[Node]
    parameters: dict[str, Parameter] = field(default_factory=dict)
    mutations: list[Mutation] = field(default_factory=list)
    bounds: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------------ questions
    def values(self) -> Iterator[Value]:
        yield from self.inputs
        yield from (p.value for p in self.parameters.values())
        for node in self.nodes:
            yield from node.outputs

    def results(self) -> list[Value]:
        """Everything that must be computed: outputs that are tensors, new buffer values, and what acts though nobody
        reads it."""
        return [o for o in self.outputs if isinstance(o, Value)] + [m.value for m in self.mutations] + self.effects()

    def effects(self) -> list[Value]:
        """Results of normalisations whose statistics move, and which nobody reads."""
        acting = [n for n in self.nodes if n.updates_statistics]
        if not acting:
            return []
        read = (
            {v for n in self.nodes for v in n.inputs}
            | {o for o in self.outputs if isinstance(o, Value)}
            | {m.value for m in self.mutations}
        )
        return [n.outputs[0] for n in acting if n.outputs[0] not in read]

    def users(self) -> dict[Value, list[Node]]:
        found: dict[Value, list[Node]] = {v: [] for v in self.values()}
        for node in self.nodes:
            for v in dict.fromkeys(node.inputs):
                found[v].append(node)
        return found

    def every_node(self) -> Iterator[Node]:
        """The nodes of the graph and of its subgraphs."""
        for node in self.nodes:
            yield node
            for g in node.subgraphs:
                yield from g.every_node()

    def producers(self) -> dict[Value, Node]:
        return {v: n for n in self.nodes for v in n.outputs}

    def parameter_of(self) -> dict[Value, Parameter]:
        return {p.value: p for p in self.parameters.values()}

    # -------------------------------------------------------------------------------------------------------- rewriting
    def rebuilt(self, nodes: Iterable[Node], replaced: Mapping[Value, Arg] | None = None, **changes: Any) -> Graph:
        """The graph with other nodes, and with values replaced throughout (chains are followed)."""
        table = dict(replaced or {})

        def resolve(a: Arg) -> Arg:
            while isinstance(a, Value) and a in table:
                a = table[a]
            return a

        new = [n.map_args(resolve) if table else n for n in nodes]
        outputs = [resolve(o) for o in self.outputs]
        mutations = [dataclasses.replace(m, value=resolve(m.value)) for m in self.mutations]
        fields = {"nodes": new, "outputs": outputs, "mutations": mutations, **changes}
        return dataclasses.replace(self, **fields)

    # --------------------------------------------------------------------------------------------------- verify and
    # show
    def verify(self) -> Graph:
        """Raise GraphError unless every value is defined once, before its uses, and every name is unique."""
        defined: set[Value] = set()
        names: set[str] = set()

        def define(v: Value, where: str) -> None:
            if v in defined or v.name in names:
                raise GraphError(f"{where}: {v} is defined twice")
            defined.add(v)
            names.add(v.name)

        for v in self.inputs:
            define(v, "inputs")
        for key, p in self.parameters.items():
            if key != p.name:
                raise GraphError(f"parameter {p.name!r} is filed under {key!r}")
            define(p.value, f"parameter {p.name}")
        for i, node in enumerate(self.nodes):
            for v in node.inputs:
                if v not in defined:
                    raise GraphError(f"{v} is used before it is defined\n{self.neighbourhood(i)}")
            for g in node.subgraphs:
                g.verify()
            for v in node.outputs:
                define(v, f"{node}\n  from {node.origin}")
        for v in self.results():
            if v not in defined:
                raise GraphError(f"result {v} is never defined")
        for m in self.mutations:
            if m.buffer not in self.parameters:
                raise GraphError(f"mutation of {m.buffer!r}, which the graph does not own")
        return self

    def neighbourhood(self, index: int, around: int = 3) -> str:
        """The node at `index` with its neighbours and its origin, as text for an error."""
        lines = []
        for i in range(max(0, index - around), min(len(self.nodes), index + around + 1)):
            lines.append(f"{'->' if i == index else '  '} {self.nodes[i]}")
            if i == index:
                lines.append(f"     from {self.nodes[i].origin}")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = [f"graph({', '.join(f'{v}: {v.type}' for v in self.inputs)})"]
        if self.bounds:
            lines.append(
                "  where "
                + ", ".join(f"{k} in [{lo}, {'inf' if hi is None else hi}]" for k, (lo, hi) in self.bounds.items())
            )
        lines += [f"  own {p}" for p in self.parameters.values()]
        lines += [f"  {n}" for n in self.nodes]
        lines += [f"  mutate {m.buffer} <- {m.value} ({m.when})" for m in self.mutations]
        return "\n".join([*lines, f"  return {_show(self.outputs)}"])


def fresh_names(taken: Iterable[str]) -> Callable[[str], str]:
    """A function that makes a name unique among `taken` and all it made before."""
    used = set(taken)

    def fresh(base: str) -> str:
        name, n = base, 1
        while name in used:
            name, n = f"{base}_{n}", n + 1
        used.add(name)
        return name

    return fresh


def free_dims(types: Sequence[TensorType]) -> frozenset[str]:
    """All dim names the types use."""
    names: frozenset[str] = frozenset()
    for t in types:
        for d in t.shape:
            names |= d.names if isinstance(d, Sym) else frozenset()
    return names
