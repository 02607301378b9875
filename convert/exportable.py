"""Where torch.export loses something that a model needs: a size that could be free, a gradient that must not flow."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram


@contextlib.contextmanager
def free_linspace() -> Iterator[None]:
    """While open, torch.linspace takes a free size: its schema says `int steps`, so a coordinate grid would fix the
    image's size."""
    original = torch.linspace

    @functools.wraps(original)
    def linspace(start: Any, end: Any, steps: Any = None, **options: Any) -> Any:
        if not isinstance(steps, torch.SymInt) or isinstance(start, torch.Tensor) or isinstance(end, torch.Tensor):
            return original(start, end, steps, **options)
        options.setdefault("dtype", torch.get_default_dtype())
        count: Any = steps  # arange's annotations know no SymInt
        at = torch.arange(count, **options)
        step = (end - start) / torch.sym_max(steps - 1, 1)
        return torch.where(
            at < steps // 2, start + at * step, end - (count - 1 - at) * step
        )  # from both ends, as torch's kernel does

    torch.linspace = linspace
    try:
        yield
    finally:
        torch.linspace = original


def detached_regions(program: ExportedProgram) -> ExportedProgram:
    """The program with `detach` written out where torch.no_grad() cuts the gradient: decompositions inline such
    regions and
    forget it. Changes the program in place; what it computes stays the same."""
    for module in [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]:
        for region in [n for n in module.graph.nodes if _cuts_gradients(n)]:
            for result in list(region.users):
                _detach(module.graph, result)
            inner = getattr(module, region.args[1].target)
            for write in [
                n
                for n in inner.graph.nodes
                if isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable
            ]:
                for (
                    operand
                ) in write.all_input_nodes:  # what is written must not carry a gradient out by way of the tensor
                    if operand is not write.args[0] and operand is not write.kwargs.get("out"):
                        _detach(inner.graph, operand, write)
            inner.recompile()
        module.recompile()
    return program


def _cuts_gradients(node: torch.fx.Node) -> bool:
    target = node.target
    return (
        isinstance(target, torch._ops.HigherOrderOperator)
        and target.name() == "wrap_with_set_grad_enabled"
        and node.args[0] is False
    )


def _detach(graph: torch.fx.Graph, x: torch.fx.Node, user: torch.fx.Node | None = None) -> None:
    """Put a `detach` between x and `user`, or all its users."""
    value, detach = x.meta.get("val"), torch.ops.aten.detach.default
    if (
        not isinstance(value, torch.Tensor)
        or not value.is_floating_point()
        or x.target is detach
        or all(u.target is detach for u in x.users)
    ):
        return
    with graph.inserting_after(x):
        cut = graph.call_function(detach, (x,))
    cut.meta = dict(x.meta)
    x.replace_all_uses_with(cut, delete_user_cb=lambda u: u is not cut and user in (None, u))
