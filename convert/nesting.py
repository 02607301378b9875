"""How the flat graph is cut into nested pieces: one per torch module call, with inputs, outputs and the owner of each
parameter.

    Run (layer1)  items: [Node conv, Run (0) [...], Node relu]  inputs: [x]  outputs: [y]

A run is a maximal stretch of consecutive nodes of one module call, so cutting there never makes a cycle. A module
called again
with the same piece of graph is the same run (`canonical`): one nested model, called twice. A parameter that several
runs use is owned
by their lowest common ancestor and comes in as an input: Keras cannot reload a layer that two nested models share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .ir import Arg, ByMode, Graph, Node, Sym, TensorType, Value, free_dims
from .layout import RESHAPES

LIMIT = (
    250  # a Functional graph much deeper than this dies of Python's recursion limit; longer levels are cut into parts
)


@dataclass(eq=False)
class Run:
    """One module call as a stretch of nodes. `canonical` is the first equal run of the same parent (itself for the
    first)."""

    name: str
    path: tuple[str, ...]
    cls: str
    parent: Run | None
    items: list[Node | Run] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    canonical: Run | None = None

    def nodes(self) -> Iterator[Node]:
        """All nodes, nested ones too, in order."""
        for item in self.items:
            if isinstance(item, Node):
                yield item
            else:
                yield from item.nodes()

    def ancestors(self) -> list[Run]:
        """The run itself and all that hold it, innermost first."""
        found: list[Run] = []
        run: Run | None = self
        while run is not None:
            found.append(run)
            run = run.parent
        return found


@dataclass
class Plan:
    """The cut graph. `names`: a module name for a node that stands for a whole module. `owner`: the run that owns a
    parameter.
    `uses`: for each parameter the (run, node) pairs that read it, shared runs counted once."""

    root: Run
    carriers: dict[Node, list[Value]]
    names: dict[Node, str]
    owner: dict[Value, Run]
    uses: dict[Value, list[tuple[Run, Node]]]


def plan(graph: Graph, limit: int = LIMIT) -> Plan:
    """Cut `graph` into runs."""
    carriers = {n: c for n in graph.nodes if (c := _carriers(graph, n))}
    root = Run("", (), "", None)
    root.items = _group(graph.nodes, 0, root)
    names: dict[Node, str] = {}
    _collapse(root, names)
    _split(root, limit)
    used_outside = _outputs(root, graph, carriers)
    _canonicalise(root, used_outside, graph.parameter_of().keys())
    mutated = {graph.parameters[m.buffer].value for m in graph.mutations}
    uses: dict[Value, list[tuple[Run, Node]]] = {p.value: [] for p in graph.parameters.values()}
    _collect_uses(root, uses)
    owner = {
        v: root if v in mutated else _common_ancestor([r for r, _ in sites]) if sites else root
        for v, sites in uses.items()
    }
    for run in _all_runs(root):
        run.outputs = used_outside.get(run, [])
    _inputs(root, carriers, owner, graph)
    return Plan(root, carriers, names, owner, uses)


def one_layer_owns(cut: Plan, graph: Graph, node: Node, values: Sequence[Value]) -> bool:
    """Whether one Keras layer can own these tensors of `node`: every reader stands in one run and does the same with
    them,
    nothing else writes or returns them, and all parameters among them train or none does."""
    owned = graph.parameter_of()
    written = {m.buffer for m in graph.mutations}
    returned = {o for o in graph.outputs if isinstance(o, Value)}
    if any(v not in owned or owned[v].name in written or v in returned for v in values):
        return False
    if len({owned[v].trainable for v in values if owned[v].kind == "parameter"}) > 1:
        return False

    def same(a: Arg, b: Arg) -> bool:
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(same(p, q) for p, q in zip(a, b, strict=True))
        if isinstance(a, Value) and isinstance(b, Value) and a not in owned and b not in owned:
            return a.type.rank == b.type.rank
        return a is b or (not isinstance(a, Value) and not isinstance(b, Value) and a == b)

    sites = [site for v in values for site in cut.uses[v]]
    return len({run for run, _ in sites}) <= 1 and all(
        n.op == node.op and same(list(n.args), list(node.args)) for _, n in sites
    )


# ------------------------------------------------------------------------------------------------------ carriers
def needed_dims(node: Node) -> frozenset[str]:
    """Dim names whose values the node needs at call time."""
    names = node.symbols
    if node.op in RESHAPES:
        names |= free_dims([v.type for v in node.outputs])
    for g in node.subgraphs:
        for inner in g.nodes:
            names |= needed_dims(inner)
    return names


def binds(types: list[TensorType]) -> frozenset[str]:
    """Dim names that tensors of these types bind: bare names, and single unknowns of an expression."""
    bound = frozenset(d.text for t in types for d in t.shape if isinstance(d, Sym) and d.is_name)
    for t in types:
        for d in t.shape:
            if isinstance(d, Sym) and len(d.names - bound) == 1 and d.is_polynomial:
                bound |= d.names
    return bound


def _carriers(graph: Graph, node: Node) -> list[Value]:
    """Values that are no operands of the node but carry a size it needs."""
    missing = needed_dims(node) - binds([v.type for v in node.inputs])
    found: list[Value] = []
    for name in sorted(missing):
        if any(name in binds([v.type]) for v in found):
            continue
        for v in _candidates(graph, node):
            if name in binds([v.type]):
                found.append(v)
                break
    return found


def _candidates(graph: Graph, node: Node) -> Iterator[Value]:
    yield from graph.inputs
    for other in graph.nodes:
        if other is node:
            return
        yield from other.outputs


# ------------------------------------------------------------------------------------------------------- cutting
def _group(nodes: list[Node], depth: int, parent: Run) -> list[Node | Run]:
    items: list[Node | Run] = []
    i = 0
    while i < len(nodes):
        scope = nodes[i].origin.scope
        if len(scope) <= depth:
            items.append(nodes[i])
            i += 1
            continue
        key, j = scope[depth], i
        while j < len(nodes) and len(nodes[j].origin.scope) > depth and nodes[j].origin.scope[depth] == key:
            j += 1
        classes = nodes[i].origin.classes
        run = Run(key[0], (*parent.path, key[0]), classes[depth] if depth < len(classes) else "", parent)
        run.items = _group(nodes[i:j], depth + 1, run)
        items.append(run)
        i = j
    return items


def _collapse(run: Run, names: dict[Node, str]) -> None:
    """A module that is one node becomes that node, with the module's name."""
    for i, item in enumerate(run.items):
        if isinstance(item, Run):
            _collapse(item, names)
            if len(item.items) == 1 and isinstance(only := item.items[0], Node):
                names[only] = f"{item.name}.{names[only]}" if only in names else item.name
                run.items[i] = only


def _split(run: Run, limit: int) -> None:
    for item in run.items:
        if isinstance(item, Run):
            _split(item, limit)
    if len(run.items) <= limit:
        return
    parts: list[Node | Run] = []
    size = max(limit // 2, -(-len(run.items) // limit))
    for number, start in enumerate(range(0, len(run.items), size)):
        part = Run(f"part_{number}", (*run.path, f"part_{number}"), "", run, run.items[start : start + size])
        for item in part.items:
            if isinstance(item, Run):
                item.parent = part
        parts.append(part)
    run.items = parts
    _split(run, limit)


def _all_runs(run: Run) -> Iterator[Run]:
    yield run
    for item in run.items:
        if isinstance(item, Run):
            yield from _all_runs(item)


def _outputs(root: Run, graph: Graph, carriers: dict[Node, list[Value]]) -> dict[Run, list[Value]]:
    """For each run the values made in it that are read outside of it, in order."""
    inside: dict[Node, set[Run]] = {}
    for run in _all_runs(root):
        for node in run.nodes():
            inside.setdefault(node, set()).add(run)
    users = graph.users()
    for node, carried in carriers.items():  # read too, for their sizes
        for v in carried:
            users[v].append(node)
    results = set(graph.results())
    found: dict[Run, list[Value]] = {}
    for run in _all_runs(root):
        values = [v for n in run.nodes() for v in n.outputs]
        found[run] = [v for v in values if v in results or any(run not in inside[u] for u in users[v])]
    return found


# ------------------------------------------------------------------------------------------------------- sharing,
# owners
def _signature(run: Run, outputs: dict[Run, list[Value]], owned: frozenset[Value]) -> str:
    """Equal for runs that do the same with the same parameters."""
    numbers: dict[Value, str] = {}

    def show(a: Arg) -> str:
        if isinstance(a, Value):
            if a in owned:
                return f"@{a.name}"
            return numbers.setdefault(a, f"in{len(numbers)}:{a.type}")
        if isinstance(a, (list, tuple)):
            return f"[{','.join(map(show, a))}]"
        if isinstance(a, (Graph, ByMode)):
            return str(a)
        return repr(a)

    lines = []
    for node in run.nodes():
        arguments = [show(a) for a in node.args] + [f"{k}={show(a)}" for k, a in node.kwargs.items()]
        for v in node.outputs:
            numbers[v] = f"v{len(numbers)}:{v.type}"
        place = [name for name, _ in node.origin.scope[len(run.path) :]]
        lines.append(f"{[numbers[v] for v in node.outputs]} {node.op} {arguments} {place}")
    return "\n".join([*lines, str([numbers[v] for v in outputs[run]])])


def _canonicalise(run: Run, outputs: dict[Run, list[Value]], owned: object) -> None:
    values = frozenset(owned)  # type: ignore[call-overload]
    counts: dict[str, int] = {}
    for item in run.items:
        if isinstance(item, Run):
            counts[item.name] = counts.get(item.name, 0) + 1
    seen: dict[tuple[str, str], Run] = {}
    for item in run.items:
        if not isinstance(item, Run):
            continue
        first = item
        if counts[item.name] > 1:
            first = seen.setdefault((item.name, _signature(item, outputs, values)), item)
        item.canonical = first
        if first is item:
            _canonicalise(item, outputs, values)


def _collect_uses(run: Run, uses: dict[Value, list[tuple[Run, Node]]]) -> None:
    for item in run.items:
        if isinstance(item, Node):
            for v in dict.fromkeys(item.inputs):
                if v in uses:
                    uses[v].append((run, item))
        elif item.canonical is item:
            _collect_uses(item, uses)


def _common_ancestor(runs: list[Run]) -> Run:
    first, *rest = runs
    for candidate in first.ancestors():
        if all(candidate in r.ancestors() for r in rest):
            return candidate
    raise AssertionError("all runs share the root")


def _inputs(run: Run, carriers: dict[Node, list[Value]], owner: dict[Value, Run], graph: Graph) -> list[Value]:
    """Fill `inputs` of every run, innermost first; returns what `run` needs from outside."""
    made: set[Value] = {v for n in run.nodes() for v in n.outputs}
    needed: dict[Value, None] = {}
    canonical = run.canonical or run

    def need(v: Value) -> None:
        if v not in made and not (v in owner and owner[v] is canonical):
            needed[v] = None

    for item in run.items:
        if isinstance(item, Node):
            for v in [*item.inputs, *carriers.get(item, [])]:
                need(v)
        else:
            for v in _inputs(item, carriers, owner, graph):
                need(v)
    if run.canonical is not None and run.canonical is not run:  # owned inside its twin: not asked of the parent
        inside = set(_all_runs(run.canonical))
        for v in list(needed):
            if v in owner and owner[v] in inside:
                del needed[v]
    if not any(v not in owner for v in needed) and graph.inputs and run.parent is not None:
        needed = {graph.inputs[0]: None, **needed}  # something has to anchor its weights
    run.inputs = list(needed)
    return run.inputs
