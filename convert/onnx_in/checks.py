"""What a graph must be before it is lowered: names made once, before they are read; ops that are known; functions that
end. On the protobuf, so that nothing is built from a model that is not one."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx

from isomorph.convert.errors import UnsupportedError, UsageError

from . import proto, registry

__all__ = [
    "KEPT",
    "NEWEST",
    "describe",
    "require_functions",
    "require_numbers",
    "require_ops",
    "require_values",
    "require_versions",
    "standard",
]

MAX_NODES = 1_000_000  # after its functions are inlined
MAX_RANK = 64  # of a tensor
MAX_CALLS = 64  # of functions inside functions
KEPT = "isomorph"  # functions of this domain are ops to us


def standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def opsets_of(imports: Iterable[Any], where: str) -> dict[str, int]:
    """Domain to version. Raises UsageError: one domain at two versions."""
    found: dict[str, int] = {}
    for each in imports:
        domain = standard(each.domain)
        if found.setdefault(domain, each.version) != each.version:
            raise UsageError(
                f"{where}: imports {shown(domain or 'ai.onnx')} at versions {found[domain]} and {each.version}"
            )
        if each.version < 1:
            raise UsageError(f"{where}: imports {shown(domain or 'ai.onnx')} at version {each.version}")
    return found


def require_versions(model: Any, where: str) -> dict[str, int]:
    """The opsets by domain. UnsupportedError: newer than the installed onnx knows. UsageError: none stated."""
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(
            f"{where}: IR version {model.ir_version} is newer than onnx {onnx.__version__} knows ({onnx.IR_VERSION}); "
            "install a newer onnx"
        )
    if model.ir_version < 1:
        raise UsageError(f"{where}: it has no IR version")
    opsets = opsets_of(model.opset_import, where)
    if not opsets and model.ir_version < 3:
        opsets = {"": 1}  # files of that age could not say
    if not opsets:
        raise UsageError(f"{where}: it imports no opset (opset_import is empty)")
    for function in model.functions:
        for domain, version in opsets_of(function.opset_import, where).items():
            _require_known(domain, version, where)
    for domain, version in opsets.items():
        _require_known(domain, version, where)
    return opsets


def _require_known(domain: str, version: int, where: str) -> None:
    newest = NEWEST.get(domain)
    if newest is not None and version > newest:
        raise UnsupportedError(
            f"{where}: opset {version} of {shown(domain or 'ai.onnx')} is newer than onnx {onnx.__version__} knows "
            f"({newest}); install a newer onnx or convert the model to an older opset"
        )


NEWEST: dict[str, int] = {}
for _schema in onnx.defs.get_all_schemas_with_history():
    NEWEST[_schema.domain] = max(NEWEST.get(_schema.domain, 1), _schema.since_version)
NEWEST[""] = max(NEWEST[""], onnx.defs.onnx_opset_version())


def require_ops(model: Any, opsets: dict[str, int], where: str) -> None:
    """UsageError: an op of a domain that is not imported. UnsupportedError: ops that nobody defined, all at once."""
    functions = {_key(f) for f in model.functions}
    missing: dict[str, list[str]] = {}
    bodies = [(opsets, list(proto.body_nodes(model.graph)))]
    bodies += [(opsets_of(f.opset_import, where), list(proto.body_nodes(f))) for f in model.functions]
    for imported, body in bodies:
        for node in body:
            domain = standard(node.domain)
            if _key(node) in functions:
                continue
            if domain not in imported:
                raise UsageError(
                    f"{where}: the opset of {shown(domain or 'ai.onnx')} is not imported: {describe(node)}"
                )
            if not _defined(domain, node.op_type, imported[domain]):
                missing.setdefault(op_name(domain, node.op_type), []).append(node.name or _first_output(node))
    if missing:
        listed = "; ".join(f"{op} ({len(at)}x, first at {at[0]!r})" for op, at in sorted(missing.items()))
        raise UnsupportedError(f"{where}: {len(missing)} ops are not known: {listed}", tuple(sorted(missing)))


def _defined(domain: str, op: str, version: int) -> bool:
    if domain in NEWEST:
        return bool(onnx.defs.has(op, version, domain))
    registry.load_rules()
    return any(rule.domain == domain and rule.op == op for rule in registry.rules())


def require_numbers(model: Any, where: str) -> None:
    """UsageError: an axis that no tensor has, a Split that names another number of outputs than it has. onnx's shape
    inference would reach past the end of its memory."""
    for node in proto.nodes(model):
        for attribute in node.attribute:
            if attribute.name == "axis" and abs(attribute.i) > MAX_RANK:
                raise UsageError(f"{where}: {describe(node)} has no axis {attribute.i}")
            if attribute.name == "num_outputs" and attribute.i != len(node.output):
                raise UsageError(f"{where}: {describe(node)} has {len(node.output)} outputs and says {attribute.i}")


def require_functions(model: Any, where: str) -> None:
    """UsageError: two functions of one name, functions that call each other, calls that do not fit, or too many."""
    bodies: dict[tuple[str, str, str], list[Any]] = {}
    takes: dict[tuple[str, str, str], Any] = {}
    for function in model.functions:
        if _key(function) in bodies:
            raise UsageError(f"{where}: two functions {shown(function.domain)}.{shown(function.name)}")
        bodies[_key(function)] = list(proto.body_nodes(function))
        takes[_key(function)] = function
    for node in proto.nodes(model):
        called = takes.get(_key(node))
        if called is not None:
            if len(node.input) > len(called.input) or len(node.output) > len(called.output):
                raise UsageError(f"{where}: {describe(node)} has more inputs or outputs than the function it calls")
            node.output.extend([""] * (len(called.output) - len(node.output)))
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: list[Any], path: tuple[tuple[str, str, str], ...]) -> int:
        if len(path) > MAX_CALLS:
            raise UsageError(f"{where}: functions call each other more than {MAX_CALLS} deep")
        total = len(nodes)
        for node in nodes:
            key = _key(node)
            if key in path:
                raise UsageError(f"{where}: the function {op_name(key[0], key[1])} calls itself")
            if key in bodies:
                if key not in sizes:
                    sizes[key] = size(bodies[key], (*path, key))
                total += sizes[key]
        return total

    for key, body in bodies.items():
        sizes.setdefault(key, size(body, (key,)))
    total = size(list(proto.body_nodes(model.graph)), ())
    if total > MAX_NODES:
        raise UsageError(f"{where}: {total} nodes once its functions are inlined; at most {MAX_NODES} are taken")


def require_values(model: Any, where: str) -> None:
    """UsageError: a name made twice, read without being made, or made from itself. Puts nodes in topological order."""
    for node in proto.nodes(model):
        if not all(isinstance(name, str) for name in (node.op_type, node.domain, node.name, *node.input, *node.output)):
            raise UsageError(f"{where}: a node has a name that is no text")
    for node in proto.body_nodes(model.graph):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                raise UsageError(f"{where}: {describe(node)} takes {attribute.name!r} from a function, and is in none")
    _order(model.graph, frozenset(), where)
    for function in model.functions:
        _once(function.input, where, f"the function {function.name}")
        _sort(function, set(function.input), frozenset(), where)


def _order(graph: Any, outer: frozenset[str], where: str) -> None:
    at = f"the graph {graph.name!r}"
    inputs = [value.name for value in graph.input]
    held = [tensor.name for tensor in graph.initializer] + [sparse.values.name for sparse in graph.sparse_initializer]
    _once(inputs, where, at)
    _once(held, where, at)
    if "" in (*inputs, *held):
        raise UsageError(f"{where}: {at} has an input or initializer without a name")
    _sort(graph, {*inputs, *held}, outer, where)


def _sort(body: Any, given: set[str], outer: frozenset[str], where: str) -> None:
    """Check the nodes of a graph or function, and their subgraphs; put them in order where they are not."""
    made = [name for node in body.node for name in node.output if name]
    _once([*given, *made], where, f"the graph {body.name!r}")
    local = given.union(made)
    maker = {name: i for i, node in enumerate(body.node) for name in node.output if name}
    needs: list[set[int]] = []
    seen: frozenset[str] | None = None
    for node in body.node:
        reads = {name for name in node.input if name}
        for graph in proto.attached_graphs(node):
            seen = outer | local if seen is None else seen
            _order(graph, seen, where)
            reads |= _reads(graph)
        unknown = sorted(name for name in reads if name not in local and name not in outer)
        if unknown:
            raise UsageError(f"{where}: {describe(node)} reads {unknown[0]!r}, which nothing makes")
        needs.append({maker[name] for name in reads if name in maker})
    outputs = [value if isinstance(value, str) else value.name for value in body.output]
    for name in outputs:
        if name not in local:
            raise UsageError(f"{where}: the output {name!r} of the graph {body.name!r} is made by nothing in it")
    order = _topological(needs)
    if len(order) < len(needs):
        node = body.node[_on_cycle(needs, order)]
        raise UsageError(f"{where}: {describe(node)} is on a cycle: it reads what is made from it")
    if order != list(range(len(order))):
        nodes = [type(n).FromString(n.SerializeToString()) for n in body.node]
        del body.node[:]
        body.node.extend(nodes[i] for i in order)


def _on_cycle(needs: list[set[int]], order: list[int]) -> int:
    """A node on a cycle, when `order` is all that can be ordered."""
    done = set(order)
    at = next(i for i in range(len(needs)) if i not in done)
    passed: set[int] = set()
    while at not in passed:
        passed.add(at)
        at = min(needs[at] - done)
    return at


def _topological(needs: list[set[int]]) -> list[int]:
    """The nodes so that each follows what it needs, otherwise in their own order; those on a cycle are left out."""
    waiting = [len(n) for n in needs]
    users: dict[int, list[int]] = {}
    for i, each in enumerate(needs):
        for need in each:
            users.setdefault(need, []).append(i)
    ready = [i for i, n in enumerate(waiting) if not n]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users.get(i, ()):
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    return order


def _reads(graph: Any) -> set[str]:
    """The names that a subgraph reads of the graphs around it."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {s.values.name for s in graph.sparse_initializer} | {name for node in graph.node for name in node.output}
    found = {name for node in graph.node for name in node.input if name}
    for node in graph.node:
        for inner in proto.attached_graphs(node):
            found |= _reads(inner)
    return found - own


def _once(names: Iterable[str], where: str, at: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{where}: {at} makes {twice[0]!r} twice")


def _key(named: Any) -> tuple[str, str, str]:
    """A function's name, or the op's that a node calls."""
    name = named.op_type if hasattr(named, "op_type") else named.name
    return standard(named.domain), name, getattr(named, "overload", "")


def describe(node: Any) -> str:
    """A node as an error names it: domain, op and name."""
    return f"{op_name(node.domain, node.op_type)} {node.name or _first_output(node)!r}"


def op_name(domain: str, op: str) -> str:
    return f"{shown(standard(domain) or 'ai.onnx')}.{shown(op)}"


def shown(text: str) -> str:
    """A name in one line."""
    return text.encode("unicode_escape").decode()[:80]


def _first_output(node: Any) -> str:
    return next((name for name in node.output if name), "")
