"""An exported program as our `Graph`: its inputs, what it owns, sizes as `Sym`, the nodes `fx_body` makes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from .fx_body import Body, NotSimple, dtype_name
from .ir import Arg, Graph, Mutation, Parameter, Sym, TensorType, Value, fresh_names


class Converter:
    """Converts one program. `graph()` returns None where in-place ops need torch's functionalisation first."""

    def __init__(
        self,
        program: ExportedProgram,
        tensors: Mapping[str, torch.Tensor],
        tied: Mapping[str, str],
        dim_names: Mapping[str, Mapping[int, str]],
        trainable: Mapping[str, bool],
        unify: bool = False,
    ) -> None:
        self.program = program
        self.tensors = tensors
        self.tied = tied
        self.trainable = trainable
        self.unify = unify
        self.names = self._dim_names(dim_names)
        self.fresh = fresh_names(())
        self.root = os.getcwd() + os.sep

    # ---------------------------------------------------------------------------------------------------------- dims
    def _dim_names(self, wanted: Mapping[str, Mapping[int, str]]) -> dict[str, str]:
        """torch's symbols -> dim names: the user's where given, else d0, d1, ... in order of appearance."""
        names: dict[str, str] = {}
        count = 0
        given = {n for axes in wanted.values() for n in axes.values()}
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                continue
            for axis, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    expr = size.node.expr
                    for symbol in sorted(expr.free_symbols, key=str):
                        want = wanted.get(node.name, {}).get(axis) if expr == symbol else None
                        if str(symbol) in names:
                            continue
                        if want is None or (want in names.values() and not self.unify):
                            base = want or f"d{count}"
                            while base in names.values() or (want is None and base in given):
                                count += 1
                                base = f"{want}{count}" if want else f"d{count}"
                            want = base
                        names[str(symbol)] = want
        return names

    def sym(self, value: Any) -> Any:
        """A torch SymInt/SymFloat/SymBool as a Sym, a plain number where torch knows it."""
        expr = getattr(value.node, "expr", None)
        if expr is None:
            return value
        if not expr.free_symbols:
            if isinstance(value, torch.SymBool):
                return bool(expr)
            return float(expr) if isinstance(value, torch.SymFloat) else int(expr)
        from torch.utils._sympy.printers import PythonPrinter

        text = PythonPrinter().doprint(expr)
        text = (
            re.sub(r"\bmath\.(ceil|floor|sqrt)\b", r"\1", text)
            .replace("math.trunc", "int")
            .replace("torch.sym_float(", "float(")
            .replace("max(", "Max(")
            .replace("min(", "Min(")
        )
        text = re.sub(r"\b[suz]f?\d+\b", lambda m: self.names.get(m[0], m[0]), text)
        return Sym(text)

    def dim(self, size: Any) -> Any:
        return self.sym(size) if isinstance(size, torch.SymInt) else int(size)

    def type(self, value: torch.Tensor) -> TensorType:
        return TensorType(tuple(self.dim(d) for d in value.shape), dtype_name(value.dtype))

    def bounds(self) -> dict[str, tuple[int, int | None]]:
        found: dict[str, tuple[int, int | None]] = {}
        for symbol, interval in self.program.range_constraints.items():
            name = self.names.get(str(symbol))
            if name is not None:
                low, high = _bound(interval.lower), _bound(interval.upper)
                low = 1 if low == 2 else low  # torch.export never traces a size of one; what it traced holds there too
                before = found.get(name, (0, None))
                high = before[1] if high is None else high if before[1] is None else min(high, before[1])
                found[name] = (max(low or 0, before[0]), high)
        return found

    # --------------------------------------------------------------------------------------------------------- graph
    def graph(self) -> Graph | None:
        """The program as a verified Graph, or None (see the class)."""
        try:
            return self._graph()
        except NotSimple:
            return None

    def _graph(self) -> Graph:
        signature = self.program.graph_signature
        body = Body(self)
        inputs: list[Value] = []
        parameters: dict[str, Parameter] = {}
        specs = {str(s.arg.name): s for s in signature.input_specs if hasattr(s.arg, "name")}
        kinds = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer", InputKind.CONSTANT_TENSOR: "constant"}
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                value = node.meta.get("val")
                if isinstance(value, torch.Tensor):
                    v = Value(self.fresh(node.name), self.type(value))
                    inputs.append(v)
                    body.env[node.name] = v
                else:
                    body.env[node.name] = body.literal(value)
            elif spec.kind in kinds:
                name = self.tied.get(str(spec.target), str(spec.target))
                if name not in parameters:
                    kind = kinds[spec.kind]
                    v = Value(self.fresh(node.name), self.type(node.meta["val"]))
                    parameters[name] = Parameter(name, v, kind, kind == "parameter" and self.trainable.get(name, True))
                body.env[node.name] = parameters[name].value
                body.owned[parameters[name].value] = name
            else:
                body.env[node.name] = None
        result = body.run(self.program.graph)
        outputs: list[Arg] = []
        mutations = dict(body.mutations)
        for spec, value in zip(signature.output_specs, result, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                outputs.append(value)
            elif spec.kind is OutputKind.BUFFER_MUTATION and isinstance(value, Value) and value not in body.statistics:
                target = str(spec.target)
                mutations[self.tied.get(target, target)] = value
        graph = Graph(
            inputs, outputs, body.nodes, parameters, [Mutation(b, v) for b, v in mutations.items()], self.bounds()
        )
        return graph.verify()


def _bound(value: Any) -> int | None:
    """A bound of a dim as int; None where torch knows none."""
    return int(str(value)) if re.fullmatch(r"-?\d+", str(value)) and int(str(value)) < 2**31 else None
