"""Nodes that are real layers of torch: which function recognises one, by domain and op.

    @layer("Conv")
    def conv(m: Match) -> Call | None: ...

modules.py asks them before the graph is lowered, and puts one node of domain `isomorph.module` in the place of what
they recognise; `find` tells the lowering how to record that node's call.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

__all__ = ["CALL", "MODULE", "VIEW", "find", "layer", "load_layers", "recogniser"]

MODULE = "isomorph.module"  # domain of the nodes that modules.py puts into the graph
CALL, VIEW = "Call", "View"  # a call of a module; a weight in another layout
_LAYERS: dict[tuple[str, str], Callable[..., Any]] = {}


def layer(*ops: str, domain: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function `f(match) -> Call | None` for these ops. Raises ValueError on a second one for the same op."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for op in ops:
            if (domain, op) in _LAYERS:
                raise ValueError(f"two layers for {domain or 'ai.onnx'}.{op}")
            _LAYERS[domain, op] = function
        return function

    return enter


def recogniser(domain: str, op: str) -> Callable[..., Any] | None:
    """Who may recognise a layer at this op."""
    return _LAYERS.get((domain, op))


def load_layers() -> None:
    """Import every file of this folder."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


def find(domain: str, op: str) -> Callable[..., Any] | None:
    """What records this node's call in the lowering: f(site, *operands) -> tuple."""
    return {CALL: _call, VIEW: _view}.get(op) if domain == MODULE else None


def _call(site: Any, *operands: Any) -> tuple[Any, ...]:
    call = site.node.meta["call"]

    def module(*args: Any) -> Any:
        return site.lowering.call_module(call.name, call.module, args)

    if call.around is not None:
        return tuple(call.around(module, *operands))
    return (module(*operands),)


def _view(site: Any, source: Any) -> tuple[Any, ...]:
    held, steps = site.node.meta["view"]
    return (site.lowering.initializers.read(site.lowering, held, held.pieces[0], steps),)
