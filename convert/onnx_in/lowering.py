"""An ONNX graph becomes a torch.fx graph, node by node. rules/ says what an op means, layers/ what is a layer."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from keyword import iskeyword
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from isomorph.convert.errors import IsomorphError, UnsupportedError, one_line

from . import layers, registry
from .initializers import Initializers
from .naming import numbered
from .operands import DTYPES, Info, Operand, Recorder, Sizes, constant_of, info_of, number, sizes_of, tensor_of
from .program import Program
from .reading import schema_version
from .written import written, written_all

__all__ = ["Body", "Lowering", "Site"]

FOLDED = 1 << 24  # elements of the largest constant that is computed while lowering
ELEMENTS = {torch.float32: 1, torch.int32: 6, torch.int64: 7, torch.bool: 9, torch.float64: 11}  # that Sizes may have
COPIED = 1024  # elements of the largest constant of which a subgraph has its own copy
SIZES = 64  # elements of the largest constant that counts as sizes
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}


@dataclass(frozen=True)
class Site:
    """What a rule may know of its node.

    outputs: for each, whether anybody wants it. inputs, results: what is known of the types. version: of the op.
    """

    node: ir.Node
    version: int
    outputs: tuple[bool, ...]
    inputs: tuple[Info, ...]
    results: tuple[Info, ...]
    lowering: Lowering

    @property
    def recording(self) -> bool:
        """False while a constant is computed."""
        return self.lowering.recording

    def module(self, hint: str, module: torch.nn.Module, args: Sequence[Any]) -> Operand:
        """Record a call of a module that is added under a free name made from `hint`."""
        return self.lowering.call_module(self.lowering.free_name(hint), module, args)


@dataclass(frozen=True)
class Body:
    """A subgraph of If, Loop or Scan: what an attribute that holds a graph gives a rule."""

    graph: ir.Graph
    outer: Lowering

    def lower(self) -> tuple[Program, tuple[Any, ...]]:
        """(module, captured): the module takes the graph's inputs, then the values of the outer graph that it reads; it
        returns a tuple of all outputs."""
        found = self.lower_whole()
        return found.program, found.captured

    def lower_whole(self) -> Lowered:
        """As `lower`, with what is known of its inputs and outputs."""
        inner = Lowering(self.graph, self.outer.opsets, self.outer.initializers, self.outer)
        program = inner.program(as_tuple=True)
        inputs, outputs = [inner.values[v] for v in self.graph.inputs], inner.results
        passed = tuple(next((i for i, x in enumerate(inputs) if x is y), None) for y in outputs)
        captured = tuple(outer for outer, _ in inner.captured.values())
        return Lowered(program, captured, tuple(map(info_of, inputs)), tuple(map(info_of, outputs)), passed)

    def inline(self, *inputs: Any) -> tuple[Any, ...]:
        """The graph's outputs for these inputs, recorded in the outer graph itself."""
        self.outer.values.update(zip(self.graph.inputs, inputs, strict=True))
        self.outer.walk(self.graph)
        return tuple(self.outer.operand(v) for v in self.graph.outputs)


@dataclass(frozen=True)
class Lowered:
    """A lowered subgraph. captured: the outer values that `program` takes after the graph's own inputs. passed: for
    each output, the place of the input that it is, if it is one."""

    program: Program
    captured: tuple[Any, ...]
    inputs: tuple[Info, ...]
    outputs: tuple[Info, ...]
    passed: tuple[int | None, ...]


@dataclass
class Lowering:
    """One graph on its way. `values` holds, by identity, what each ONNX value became."""

    source: ir.Graph
    opsets: dict[str, int]
    initializers: Initializers
    outer: Lowering | None = None
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: torch.nn.Module = field(default_factory=torch.nn.Module)
    values: dict[ir.Value, Any] = field(default_factory=dict)
    captured: dict[fx.Node, tuple[Any, Operand]] = field(default_factory=dict)  # of the outer graph: value, placeholder
    constants: int = 0
    recording: bool = True

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.graph, self.constant)
        self.taken: set[str] = set()
        self.results: tuple[Any, ...] = ()
        self.home = "constants"  # the submodule that holds them; a model may have one of that name itself
        while hasattr(self.root, self.home):
            self.home += "_"

    # ------------------------------------------------------------------------------------------------------- the walk
    def program(self, as_tuple: bool = False) -> Program:
        """The module. Raises UnsupportedError with all ops that have no rule at once."""
        require_rules(self.source, self.opsets)
        self.names = [self._argument(v) for v in self.source.inputs]
        for name, value in zip(self.names, self.source.inputs, strict=True):
            self.values[value] = self._named(self.recorder.create_proxy("placeholder", name, (), {}), type_of(value))
        self.walk(self.source)
        results = self.results = tuple(self.operand(v) for v in self.source.outputs)
        self.graph.output(self.recorder.create_arg(results if as_tuple or len(results) != 1 else results[0]))
        self.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
        self._prune()
        return Program(self.root, self.graph)

    def walk(self, graph: ir.Graph) -> None:
        """Record the nodes of this graph, or of a subgraph whose inputs have their values."""
        for node in graph:
            try:
                self._node(node)
            except (IsomorphError, RecursionError):
                raise
            except (AssertionError, AttributeError, NameError) as error:  # a rule is wrong
                raise IsomorphError(f"{describe(node)}: an error in its rule: {one_line(error)}") from error
            except Exception as error:  # a rule met something it was not written for
                raise UnsupportedError(f"{describe(node)}: {one_line(error)}") from error

    def _node(self, node: ir.Node) -> None:
        operands = [None if v is None else self.operand(v, sizes=True) for v in node.inputs]
        results = self._sizes(node, operands)
        if results is None:
            operands = [self.tensor(x) for x in operands]
            results = self._folded(node, operands) or self._layer(node, operands) or self._rule(node, operands)
        for value, result in zip(node.outputs, results, strict=False):
            self.values[value] = self._known(result, value)

    def _sizes(self, node: ir.Node, operands: Sequence[Any]) -> tuple[Any, ...] | None:
        """The node computed on integers that are known by now; None where it is about tensors."""
        found = registry.find_size_rule(node.domain, node.op_type)
        if found is None:
            return None
        if not found.any_input:
            given = [as_sizes(x, found.run_time) for x in operands]
            if any(x is not None and g is None for x, g in zip(operands, given, strict=True)):
                return None
            if all(g is None or g.known for g in given) or not any(isinstance(x, Sizes) for x in operands):
                return None  # a constant is folded by the rule
            operands = given
        attributes = self.attributes(node)
        result = found.function(*operands, **attributes | ({"count": len(node.outputs)} if found.count else {}))
        return None if result is NotImplemented else result if isinstance(result, tuple) else (result,)

    def _folded(self, node: ir.Node, operands: Sequence[Any]) -> tuple[Any, ...] | None:
        """The node computed now, if nothing it reads ever changes."""
        if node.op_type in RANDOM or any(a.type in GRAPHS for a in node.attributes.values()):
            return None
        known = [None if x is None else constant_of(x) for x in operands]
        if any(x is not None and k is None for x, k in zip(operands, known, strict=True)):
            return None
        if sum(k.numel() for k in known if k is not None) > FOLDED or any(elements(v) > FOLDED for v in node.outputs):
            return None
        self.recording = False
        try:
            with torch.no_grad():
                found = self._rule(node, known)
        finally:
            self.recording = True
        if not all(isinstance(f, torch.Tensor) and f.numel() <= FOLDED for f in found if f is not None):
            return None
        return tuple(
            f if f is None else self.constant(f, type_of(v).element) for f, v in zip(found, node.outputs, strict=False)
        )

    def _layer(self, node: ir.Node, operands: Sequence[Any]) -> tuple[Any, ...] | None:
        """The node as a layer of torch that owns its weights, if it is one."""
        make = layers.find(node.domain, node.op_type)
        return None if make is None else make(self.site(node, operands), *operands, **self.attributes(node))

    def _rule(self, node: ir.Node, operands: Sequence[Any]) -> tuple[Any, ...]:
        found = find_rule(node, self.opsets)
        if found is None:
            raise UnsupportedError(f"{describe(node)}: no rule for it")
        attributes = self.attributes(node)
        unknown = set() if found.attributes is None else set(attributes) - found.attributes
        if unknown:
            raise UnsupportedError(f"{describe(node)}: the attribute {sorted(unknown)[0]!r} is not known here")
        if found.site:
            attributes["site"] = self.site(node, operands)
        result = found.function(*operands, **attributes)
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)

    def site(self, node: ir.Node, operands: Sequence[Any]) -> Site:
        wanted = tuple(bool(v.name) and (bool(v.uses()) or v.is_graph_output()) for v in node.outputs)
        version = schema_version(node, self.opsets)
        known = tuple(info_of(x) for x in operands)
        return Site(node, version, wanted, known, tuple(type_of(v) for v in node.outputs), self)

    def attributes(self, node: ir.Node) -> dict[str, Any]:
        """As rules take them: numbers, tuples, strings, tensors; a graph as a `Body`."""
        return {name: self._attribute(a) for name, a in node.attributes.items()}

    def _attribute(self, attribute: ir.Attr) -> Any:
        value = attribute.value
        if attribute.type in GRAPHS:
            return Body(value, self) if isinstance(value, ir.Graph) else tuple(Body(g, self) for g in value)
        if attribute.type == ir.AttributeType.TENSOR:
            array = value.numpy()
            return array if array.dtype.kind in "OSU" else tensor_of(array)
        if attribute.type == ir.AttributeType.FLOAT:
            return written(value)
        if attribute.type == ir.AttributeType.FLOATS:
            return written_all(tuple(value))
        return tuple(value) if isinstance(value, (list, tuple)) else value

    # --------------------------------------------------------------------------------------------------------- values
    def operand(self, value: ir.Value, sizes: bool = False) -> Any:
        """What a value became. A value of an outer graph is captured; Sizes come as tensors, unless `sizes`."""
        if value not in self.values:
            if self.outer is not None:
                self.values[value] = self._capture(value)  # parameters live in the outermost module alone
            elif value.is_initializer():
                self.values[value] = self.initializers.operand(self, value)
            else:
                raise UnsupportedError(f"the value {value.name!r} is read before it is made")
        found = self.values[value]
        return found if sizes else self.tensor(found)

    def _capture(self, value: ir.Value) -> Any:
        assert self.outer is not None
        return self._received(self.outer.operand(value, sizes=True), value.name or "captured")

    def _received(self, found: Any, name: str) -> Any:
        """A value of the outer graph, in this one: what runs comes in through a placeholder, what is known is known."""
        if isinstance(found, list):
            return [self._received(x, name) for x in found]
        sizes = as_sizes(found)
        if sizes is not None:
            row = Sizes.of((self._received(i, "size") for i in sizes.items), sizes.element)
            return Sizes(row.array.reshape(sizes.array.shape), sizes.element)
        if not isinstance(found, fx.Proxy):
            return found
        known = constant_of(found)
        if known is not None and known.numel() <= COPIED:
            return self.constant(known, info_of(found).element)
        if found.node not in self.captured:
            last = next((n for n in reversed(self.graph.nodes) if n.op == "placeholder"), None)
            with self.graph.inserting_after(last) if last is not None else self.graph.inserting_before():
                made: Any = self.recorder.create_proxy("placeholder", self._free_argument(name), (), {})
            made.node.meta["outer"] = found
            info = info_of(found)
            self.captured[found.node] = found, self._named(made, replace(info, constant=None, sizes=None))
        return self.captured[found.node][1]

    def tensor(self, x: Any) -> Any:
        """Sizes as a tensor; everything else as it is."""
        if not isinstance(x, Sizes):
            return x
        info = x.info
        if info.constant is not None:
            return self.constant(info.constant, info.element)
        return self._named(size_tensor(self.recorder, x), info)

    def constant(self, tensor: torch.Tensor, element: int | None = None) -> Operand:
        """A value that never changes: a buffer that is not part of the state dict."""
        holder = getattr(self.root, self.home, None)
        if holder is None:
            holder = torch.nn.Module()
            self.root.add_module(self.home, holder)
        name = f"c{self.constants}"
        self.constants += 1
        holder.register_buffer(name, tensor, persistent=False)
        made: Any = self.recorder.create_proxy("get_attr", f"{self.home}.{name}", (), {})
        return self._named(made, Info(element, tuple(tensor.shape), tensor))

    def attribute(self, name: str, info: Info) -> Operand:
        """What lies under this dotted name of the root."""
        return self._named(self.recorder.create_proxy("get_attr", name, (), {}), info)

    def call_module(self, name: str, module: torch.nn.Module, args: Sequence[Any]) -> Operand:
        """Record a call of the submodule of this dotted name, which is added if it is not there."""
        parent = self.root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        if getattr(parent, last, None) is not module:
            parent.add_module(last, module)
        self.taken.add(name)
        called: Any = self.recorder.create_proxy("call_module", name, tuple(args), {})
        made: Operand = called
        return made

    def free_name(self, hint: str) -> str:
        """A dotted name that no submodule bears, from a hint such as an ONNX node's name."""
        parts = [re.sub(r"\W", "_", p) for p in re.split(r"[/.]", hint) if p] or ["node"]
        parts = [f"{p}_" if iskeyword(p) else p for p in parts]
        base = ".".join(p if not p[:1].isdigit() or len(parts) > 1 else f"_{p}" for p in parts)
        name = numbered(base, lambda name: name in self.taken or self._held(name))
        self.taken.add(name)
        return name

    def _held(self, name: str) -> bool:
        try:
            operator.attrgetter(name)(self.root)
        except AttributeError:
            return False
        return True

    def _named(self, operand: Any, info: Info) -> Operand:
        operand.node.meta["onnx"] = info
        made: Operand = operand
        return made

    def _known(self, result: Any, value: ir.Value) -> Any:
        """Note at the result what shape inference says of the value."""
        if isinstance(result, fx.Proxy) and "onnx" not in result.node.meta:
            result.node.meta["onnx"] = type_of(value)
        elif isinstance(result, torch.Tensor):
            return self.constant(result, type_of(value).element)
        return result

    def _argument(self, value: ir.Value) -> str:
        return self._free_argument(value.name or "x")

    def _free_argument(self, name: str) -> str:
        base = re.sub(r"\W", "_", name.split(":")[0]) or "x"
        base = f"_{base}" if base[0].isdigit() or iskeyword(base) or base in ("self", "torch") else base
        used = {n.target for n in self.graph.nodes if n.op == "placeholder"}
        return numbered(base, used.__contains__)

    def _prune(self) -> None:
        """Drop the constants that nothing reads any more."""
        holder = getattr(self.root, self.home, None)
        if holder is None:
            return
        read = {n.target for n in self.graph.nodes if n.op == "get_attr"}
        for name in list(holder._buffers):
            if f"{self.home}.{name}" not in read:
                delattr(holder, name)
        if not holder._buffers:
            delattr(self.root, self.home)


GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def elements(value: ir.Value) -> int:
    """How many a value is known to have at least, before it is computed: a small file can ask for a large constant."""
    return math.prod(d for d in type_of(value).shape or () if isinstance(d, int))


def type_of(value: ir.Value) -> Info:
    """What the model and shape inference say of a value."""
    shape = None
    if value.shape is not None:
        shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    tensor = isinstance(value.type, ir.TensorType)
    return Info(int(value.dtype) if tensor and value.dtype is not None else None, shape if tensor else None)


def as_sizes(x: Any, run_time: bool = False) -> Sizes | None:
    """An operand as numbers known by now, None if it is none. run_time: also one integer that is known when it runs."""
    found = x if isinstance(x, Sizes) else sizes_of(x)
    if found is not None or x is None:
        return found
    info = info_of(x)
    element = None if info.constant is None else ELEMENTS.get(info.constant.dtype)
    if info.constant is not None and element is not None and info.constant.numel() <= SIZES:
        items = info.constant.reshape(-1).tolist()
        flat = Sizes.of((int(i) if isinstance(i, float) and i.is_integer() else i for i in items), element)
        return Sizes(flat.array.reshape(info.constant.shape), element)
    if run_time and info.element in (6, 7) and info.shape in ((), (1,)):
        return Sizes(Sizes.of((number(x),)).array.reshape(info.shape), info.element)
    return None


def size_tensor(recorder: Recorder, x: Sizes) -> Any:
    """Sizes as a recorded tensor, on the device of what they are the sizes of."""
    from .rules.moves import device_source
    from .rules.sizes import from_sizes

    source = device_source(*x.items)
    where = {} if source is None else {"device": source.device}
    return recorder.create_proxy("call_function", from_sizes, (list(x.items), x.array.shape, DTYPES[x.element]), where)


def find_rule(node: ir.Node, opsets: dict[str, int]) -> registry.Rule | None:
    return registry.find(node.domain, node.op_type, schema_version(node, opsets))


def require_rules(graph: ir.Graph, opsets: dict[str, int]) -> None:
    """Raise UnsupportedError with every op, here and in subgraphs, that has neither rule nor layer."""
    missing: dict[str, list[str]] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if find_rule(node, opsets) is None and layers.find(node.domain, node.op_type) is None:
            op = f"{node.domain or 'ai.onnx'}.{node.op_type}-{schema_version(node, opsets)}"
            missing.setdefault(op, []).append(node.name or next((v.name or "" for v in node.outputs), ""))
    if missing:
        listed = "; ".join(f"{op} ({len(at)}x, first at {at[0]!r})" for op, at in sorted(missing.items()))
        raise UnsupportedError(f"{len(missing)} ONNX ops have no rule: {listed}", tuple(sorted(missing)))


def describe(node: ir.Node) -> str:
    """A node as an error names it: op, name and what it makes."""
    made = ", ".join(v.name or "" for v in node.outputs)
    return f"{node.domain or 'ai.onnx'}.{node.op_type} {node.name or ''!r} -> {made}"
