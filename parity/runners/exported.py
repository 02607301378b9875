"""An exported program (.pt2) as a runner: its module, in the one mode that it was exported in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from isomorph.convert.checkpoint import load_weights
from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all
from isomorph.convert.sources import load_source
from isomorph.parity.runners.base import About, PortInfo, Request, Response
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.runners.torch_runner import Call, TorchRunner, dtype_name, example_leaves, to_numpy

__all__ = ["ExportedRunner", "mode_of", "open_exported"]

FLAGS = ("train", "training", "use_input_stats")  # arguments of ATen ops that say in which mode they compute


class ExportedRunner(TorchRunner):
    """The module of a program. It has one mode, whatever its `training` flags say."""

    def _set_mode(self, training: bool) -> None:
        """Modes are fixed by the export."""

    def respond(self, request: Request) -> Response:
        """See `Runner`. UsageError: the program was exported in the other mode."""
        if request.mode not in self.about().modes:
            raise UsageError(f"the program was exported in {self.about().modes[0]} mode and has no {request.mode} mode")
        return super().respond(request)


def open_exported(spec: ModelSpec) -> Opened:
    """A .pt2 archive. Its own example, or `spec.example`, or `--input` texts give the inputs; dims and their bounds are
    those that it was exported with.

    UsageError: no such archive, one that would run code, or inputs that do not fit it.
    """
    program, module, call = _program(spec)
    ports, sizes = described(program)
    if len(ports) != len(call.examples):
        raise UsageError(f"{spec.target}: the program takes {len(ports)} tensors, the example has {len(call.examples)}")
    for port, tensor in zip(ports, call.examples, strict=True):
        if len(port.dims or ()) != tensor.ndim or port.dtype != dtype_name(tensor.dtype):
            given = f"{dtype_name(tensor.dtype)}{list(tensor.shape)}"
            raise UsageError(f"{spec.target}: input {port.name!r} is {port.dtype}{list(port.dims or ())}, got {given}")
    mode = mode_of(program)
    note = f"the archive holds one mode of the model, {mode}; only that mode is compared"
    about = About("exported", ports, modes=(mode,), sizes=sizes, notes=(note,))
    names = [port.name for port in ports]
    runner = ExportedRunner(module, call, names, device=spec.device, about=about)
    values = {s.name: (float(s.bounds[0]), float(s.bounds[1])) for s in parse_all(spec.inputs) if s.bounds is not None}
    return Opened(runner, tuple(to_numpy(tensor) for tensor in call.examples), values)


def _program(spec: ModelSpec) -> tuple[torch.export.ExportedProgram, torch.nn.Module, Call]:
    if spec.example is None:
        source = load_source(str(spec.target), spec.weights, spec.inputs, spec.seed)
        if source.exported_program is None:
            raise UsageError(f"{spec.target} is no exported program (.pt2)")
        return source.exported_program, source.module, Call(source.args, source.kwargs)
    from isomorph.convert.source_pt2 import load_pt2

    path = Path(str(spec.target))
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    program, _ = load_pt2(path)
    module = program.module()
    if spec.weights is not None:
        load_weights(module, spec.weights)
    return program, module, example_leaves(spec.example)


def described(program: torch.export.ExportedProgram) -> tuple[tuple[PortInfo, ...], dict[str, tuple[int, int | None]]]:
    """The tensor inputs with their dims, symbols by their names in the program, and the bounds of those symbols."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    ports = []
    for name in program.graph_signature.user_inputs:
        value = values.get(name) if isinstance(name, str) else None
        if isinstance(value, torch.Tensor):
            dims = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
            ports.append(PortInfo(str(name), dtype_name(value.dtype), dims))
    used = {d for port in ports for d in port.dims or () if isinstance(d, str)}
    sizes: dict[str, tuple[int, int | None]] = {}
    for symbol, bounds in program.range_constraints.items():
        text = str(symbol)
        if text.isidentifier() and any(text in _words(d) for d in used):
            high = int(bounds.upper) if bounds.upper.is_number and bounds.upper < 2**31 else None
            sizes[text] = max(1, int(bounds.lower)), high
    return tuple(ports), sizes


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def mode_of(program: torch.export.ExportedProgram) -> str:
    """ "train" if an op of the program computes as in train mode, else "eval"."""
    return "train" if any(_trains(node) for node in _calls(program.graph_module)) else "eval"


def _calls(module: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    """The ATen calls of a graph and of the graphs of its branches."""
    for child in module.modules():
        if isinstance(child, torch.fx.GraphModule):
            yield from (node for node in child.graph.nodes if isinstance(node.target, torch._ops.OpOverload))


def _trains(node: torch.fx.Node) -> bool:
    target: Any = node.target
    given: Mapping[str, Any] = {
        **{a.name: a.default_value for a in target._schema.arguments if a.has_default_value()},
        **{a.name: value for a, value in zip(target._schema.arguments, node.args, strict=False)},
        **node.kwargs,
    }
    return any(given.get(flag) is True for flag in FLAGS)
