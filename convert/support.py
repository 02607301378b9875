"""Which ops of a graph have no rule, where they stand, and the error that lists them all."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import UnsupportedError
from .ir import Graph, Origin
from .layout import PERMUTES, RESHAPES
from .merge_modes import SELECT
from .rules.registry import RULES


@dataclass
class Missing:
    """An op without a rule: how often it occurs, and where first of all."""

    op: str
    count: int = 0
    origins: list[Origin] = field(default_factory=list)


def is_supported(op: str) -> bool:
    """Whether the op can be lowered: it has a rule, or the layout handles it."""
    return op in RULES or op in PERMUTES or op in RESHAPES or op == SELECT


def missing(graph: Graph) -> list[Missing]:
    """The ops no rule covers, most frequent first."""
    found: dict[str, Missing] = {}
    for node in graph.every_node():
        if not is_supported(node.op):
            entry = found.setdefault(node.op, Missing(node.op))
            entry.count += 1
            if len(entry.origins) < 5:
                entry.origins.append(node.origin)
    return sorted(found.values(), key=lambda m: (-m.count, m.op))


def require_support(graph: Graph) -> None:
    """UnsupportedError that lists every op without a rule, each with its count, module path and source line."""
    gaps = missing(graph)
    if gaps:
        lines = [f"  {m.op} x{m.count}  first in {m.origins[0]}" for m in gaps]
        noun = "op has" if len(gaps) == 1 else "ops have"
        raise UnsupportedError(
            "\n".join([f"{len(gaps)} {noun} no rule and no decomposition into ops that have:", *lines]), tuple(gaps)
        )
