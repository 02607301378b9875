"""The model's initializers in torch: which are parameters, buffers or constants, where each lies, and how."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from isomorph.convert.weights import Step, Transform

from .moved import Box, array_of, same_layout, shape_of, simplify
from .naming import anonymous
from .operands import Info, Operand, leaf, tensor_of
from .provenance import Origin, Variable
from .tracing import follows, is_zero

if TYPE_CHECKING:
    from .lowering import Lowering

__all__ = ["Held", "Initializers", "Piece", "classify", "initializers_of", "tell_apart"]

_WHOLLY = """Range QLinearConv QLinearMatMul ConvInteger MatMulInteger MelWeightMatrix Equal Greater GreaterOrEqual Less
LessOrEqual Not And Or Xor IsNaN IsInf STFT DFT HannWindow DynamicQuantizeLinear Bernoulli"""
# Operands that say what an op does, and are no weights: (op, which). None: all of them.
STRUCTURAL: dict[str, frozenset[int] | None] = {
    "Clip": frozenset({1, 2}),
    "Pad": frozenset({2}),
    "Resize": frozenset({1, 2}),
    "Upsample": frozenset({1}),
    "OneHot": frozenset({2}),
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "NonMaxSuppression": frozenset({2, 3, 4}),
    "Trilu": frozenset({1}),
    "CumSum": frozenset({1}),
} | dict.fromkeys(_WHOLLY.split())
STATISTICS = {"BatchNormalization": frozenset({3, 4})}
WEIGHTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "DeformConv"), frozenset({1, 2})),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), frozenset({1, 2, 3, 7})),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), frozenset({1, 2})),
    "PRelu": frozenset({1}),
    "Gather": frozenset({0}),
}
TRAINABLE = ("auto", "all", "none")


@dataclass
class Piece:
    """What torch holds of an initializer. part: which box of it, None for all. steps: from there to torch's array.
    names: where it lies, several where it is tied."""

    part: Box | None
    steps: tuple[Step, ...]
    names: list[str]
    tensor: torch.Tensor


@dataclass
class Held:
    """An initializer that is part of the module's state."""

    value: ir.Value
    name: str
    kind: str
    trainable: bool
    variable: Variable | None = None
    pieces: list[Piece] = field(default_factory=list)

    def piece(self, part: Box | None, steps: tuple[Step, ...]) -> Piece | None:
        """That part in that layout, shared if it lies there already; None where it lies in another one."""
        array = array_of(self.value)
        steps = simplify(steps, array.shape) if part is None else steps
        box = array if part is None else array[tuple(slice(a, b) for a, b in part)]
        for piece in self.pieces:
            if piece.part == part and same_layout(piece.steps, steps, box.shape):
                return piece
        if any(_overlap(p.part, part) for p in self.pieces):
            return None
        held = tensor_of(np.array(Transform(steps).to_keras(box), order="C"))
        tensor = torch.nn.Parameter(held, self.trainable) if self.kind == "parameter" else held
        self.pieces.append(Piece(part, steps, [], tensor))
        return self.pieces[-1]


def _overlap(a: Box | None, b: Box | None) -> bool:
    if a is None or b is None:
        return True
    return all(max(p[0], q[0]) < min(p[1], q[1]) for p, q in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------------------ what is state
def initializers_of(model: ir.Model) -> Iterator[tuple[str, ir.Value]]:
    """Those of the graph and of the graphs inside it, each with a name of its own."""
    taken: set[str] = set()
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            name = full = value.name or "weight"
            while full in taken:  # two branches may use one name
                name = full = f"{graph.name or 'graph'}/{name}"
            taken.add(full)
            yield full, value


def tell_apart(model: ir.Model) -> None:
    """Weights that torch's exporter found equal, and wrote as one and Identities that bear the others' names, are
    initializers of their own again."""
    if model.producer_name != "pytorch":
        return
    for node in list(model.graph):
        source, result = (node.inputs[0], node.outputs[0]) if node.op_type == "Identity" else (None, None)
        if source is None or result is None or not source.is_initializer() or result.is_graph_output():
            continue
        name = result.name or ""
        if anonymous(name) or "/" in name or name in model.graph.initializers:
            continue
        own = ir.Value(name=name, type=source.type, shape=source.shape, const_value=source.const_value)
        result.replace_all_uses_with(own)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(own)


def classify(model: ir.Model, origin: Origin, trainable: str) -> dict[ir.Value, Held]:
    """The initializers that are state. trainable: "auto", "all" (every floating one that is no structural operand), or
    "none" (the same as "auto", and none has a gradient)."""
    found: dict[ir.Value, Held] = {}
    signature = _signature(model.graph)
    for name, value in initializers_of(model):
        variable = origin.variables.get(name)
        if variable is not None:
            if variable.kind != "constant" and (variable.torch_names or not origin.is_torch):
                found[value] = Held(value, name, variable.kind, variable.trainable and trainable != "none", variable)
        elif not origin.source:
            kind = _kind(value, trainable == "all", signature)
            if kind is not None:
                found[value] = Held(value, name, kind, kind == "parameter" and trainable != "none")
        if value in found and trainable == "all" and found[value].kind == "parameter":
            found[value].trainable = True
    return found


def _signature(graph: ir.Graph) -> dict[str, str]:
    """What torch's exporter says of its initializers: "PARAMETER" or "BUFFER" by name; empty where it says nothing."""
    text = graph.metadata_props.get("pkg.torch.export.ExportedProgram.graph_signature", "")
    return {name: kind for kind, name in re.findall(r"^\w+: (PARAMETER|BUFFER) target='([^']+)'", text, re.M)}


def _kind(value: ir.Value, every: bool, signature: dict[str, str]) -> str | None:
    """What an initializer is of which no provenance says anything; None for a constant."""
    tensor = value.const_value
    if tensor is None or tensor.dtype not in FLOATING or not tensor.size:
        return None
    uses = list(uses_of(value))
    if uses and all(i in STATISTICS.get(node.op_type, ()) for node, i in uses):
        return "buffer"
    if uses and all(_is_structural(node, i) for node, i in uses):
        return None
    weight = any(i in WEIGHTS.get(node.op_type, ()) for node, i in uses)
    if signature and not weight and not every:
        stated = signature.get(value.name or "")
        sources = re.findall(r"'([^']+)'", value.metadata_props.get("pkg.onnxscript.optimizer.folded_from", ""))
        folded = any(signature.get(source) == "PARAMETER" for source in sources)
        return "buffer" if stated == "BUFFER" else "parameter" if stated or folded else None
    if _literal(value.name or "") and not weight and not every:
        return None
    if tensor.size == 1 and not every and not weight and (anonymous(value.name or "") or _operand(value.name or "")):
        return None
    return "parameter"


FLOATING = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _operand(name: str) -> bool:
    """Whether a name is that of an operand and not of a weight: TensorFlow's "add/y:0"."""
    return re.search(r"(^|/)[xy](:\d+)?$", name) is not None


def _literal(name: str) -> bool:
    """Whether a name is that of a tensor written in the code: TorchScript's "/block/Constant_1_output_0"."""
    return re.search(r"(^|/)Constant(_\d+)?_output_\d+$", name) is not None


def _is_structural(node: ir.Node, i: int) -> bool:
    if node.domain:
        return False
    if node.op_type in ("LSTM", "GRU", "RNN") and i in (5, 6):
        value = node.inputs[i]  # first states of zeros are what is meant where there are none
        return value is not None and anonymous(value.name or "") and is_zero(value)
    if node.op_type not in STRUCTURAL:
        return False
    which = STRUCTURAL[node.op_type]
    return which is None or i in which


def uses_of(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """The nodes that read a value, or what it is moved to, and as which input."""
    for use in value.uses():
        if follows(use.node, use.idx) or (use.node.op_type == "Expand" and use.idx == 0):
            for output in use.node.outputs:
                yield from uses_of(output)
        else:
            yield use.node, use.idx


# -------------------------------------------------------------------------------------------------- how it is read
@dataclass
class Initializers:
    """How the graph reads them: `held` ones are attributes of the module, the others constants."""

    held: dict[ir.Value, Held] = field(default_factory=dict)

    def operand(self, lowering: Lowering, value: ir.Value) -> Operand | Any:
        """The initializer as the graph reads it, in its own layout. Strings are numpy arrays."""
        tensor = value.const_value
        assert tensor is not None
        if value not in self.held:
            array = tensor.numpy()
            return array if array.dtype.kind in "OSU" else lowering.constant(tensor_of(array), int(tensor.dtype))
        held = self.held[value]
        pieces = [self.read(lowering, held, piece) for piece in held.pieces]
        made: Any = pieces[0] if len(pieces) == 1 else _joined([p.part for p in held.pieces], pieces)
        made.node.meta["onnx"] = Info(int(tensor.dtype), shape_of(value))
        return made

    def read(self, lowering: Lowering, held: Held, piece: Piece, steps: tuple[Step, ...] = ()) -> Any:
        """A piece in the source's layout, or what further steps make of that."""
        element, shape = int(held.value.dtype or 1), tuple(piece.tensor.shape)
        made: Any = lowering.attribute(piece.names[0], Info(element, shape))
        whole = simplify((*Transform(piece.steps).inverse.steps, *steps), shape)
        for kind, argument, _ in whole:
            if kind == "transpose":
                made = made.permute(*argument)
            elif kind == "reshape":
                made = made.reshape(argument)
            else:
                made = reordered(made, argument[0], argument[1:])
        if whole:
            made.node.meta["onnx"] = Info(
                element, Transform(whole).to_keras(np.broadcast_to(np.zeros((), bool), shape)).shape
            )
        return made


@leaf
def reordered(x: torch.Tensor, axis: int, order: tuple[int, ...]) -> torch.Tensor:
    """An axis cut into equal blocks, and put together in this order."""
    blocks = x.chunk(len(order), axis)
    return torch.cat([blocks[i] for i in order], axis)


def _joined(parts: list[Box | None], pieces: list[Any]) -> Any:
    """The whole from boxes that lie side by side along one axis, or several."""
    known = [p for p in parts if p is not None]
    axis = next((a for a in range(len(known[0])) if len({p[a] for p in known}) > 1), None)
    if axis is None:
        return pieces[0]
    rows: dict[tuple[int, int], list[int]] = {}
    for i, part in enumerate(known):
        rows.setdefault(part[axis], []).append(i)
    joined = [
        _joined([known[i] for i in rows[k]], [pieces[i] for i in rows[k]]) if len(rows[k]) > 1 else pieces[rows[k][0]]
        for k in sorted(rows)
    ]
    return torch.cat(joined, axis)


def covers(parts: list[Box | None], shape: tuple[int, ...]) -> bool:
    """Whether boxes that do not overlap are all of an array."""
    return None in parts or sum(math.prod(b - a for a, b in p) for p in parts if p is not None) == math.prod(shape)
