"""The nodes of one fx graph as ours: schema order, in-place ops made functional, regions inlined, branches closed."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .ir import Arg, Graph, Node, Origin, Sym, TensorType, Value

if TYPE_CHECKING:
    from .fx_to_ir import Converter

DROPPED = frozenset({"device", "layout", "pin_memory", "memory_format", "generator", "non_blocking", "copy"})
IGNORED = re.compile(
    r"^aten\.(_assert_\w+|sym_constrain_range\w*|_functional_assert\w*|sym_size|sym_numel|sym_stride|sym_storage_offset)\b"
)
ITEM_BASE = 65536  # keeps that length positive where the number is not
ITEMS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)
# custom ops that do what an op of torch's own does
SAME_AS = {"transformers.grouped_mm_fallback.default": "aten._grouped_mm.default"}
VIEWS = re.compile(
    r"^aten\.(view|reshape|flatten|unflatten|transpose|permute|t|slice|select|narrow|expand|expand_as|squeeze|unsqueeze|split|"
    r"split_with_sizes|chunk|unbind|alias|detach|diagonal|movedim|view_as|reshape_as|contiguous|to|mT|swapaxes|tensor_split|unfold|real|imag)\."
)


class NotSimple(Exception):
    """An in-place op on a view that lives on: torch's own functionalisation has to take it apart."""


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Body:
    """Converts the nodes of one fx graph; `env` maps fx names to values or literals, `forward` in-place targets to new
    values."""

    def __init__(self, owner: Converter) -> None:
        self.owner = owner
        self.env: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.mutations: dict[str, Value] = {}
        self.owned: dict[Value, str] = {}
        self.current: dict[Value, Value] = {}  # a value that was written to -> what it holds now
        self.base: dict[Value, Value] = {}  # a view -> the value it looks at
        self.statistics: set[Value] = set()  # running statistics of BatchNorm: the op's own business

    def run(self, graph: torch.fx.Graph) -> list[Arg]:
        """Convert all nodes; the flat outputs."""
        position = {n: i for i, n in enumerate(graph.nodes)}
        for node in graph.nodes:
            if node.op == "call_function":
                self._call(node, position)
            elif node.op == "output":
                flat = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
                return [self.argument(a) for a in flat]
        raise AssertionError("an fx graph ends in an output node")

    # ----------------------------------------------------------------------------------------------------- arguments
    def now(self, value: Any) -> Any:
        while isinstance(value, Value) and value in self.current:
            value = self.current[value]
        return value

    def literal(self, value: Any) -> Any:
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.owner.sym(value)
        if isinstance(value, torch.dtype):
            return dtype_name(value)
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return str(value)
        return value

    def argument(self, arg: Any) -> Arg:
        if isinstance(arg, torch.fx.Node):
            value = arg.meta.get("val")
            if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
                return self.owner.sym(value)
            if isinstance(value, (int, float, bool)) and arg.name not in self.env:
                return value
            return self.now(self.env[arg.name])
        if isinstance(arg, (list, tuple)):
            return [self.argument(a) for a in arg]
        return self.literal(arg)

    # --------------------------------------------------------------------------------------------------------- nodes
    def _call(self, node: torch.fx.Node, position: Mapping[torch.fx.Node, int]) -> None:
        target, value = node.target, node.meta.get("val")
        if target is operator.getitem:
            holder = self.argument(node.args[0])
            if isinstance(holder, (list, tuple)):
                self.env[node.name] = holder[node.args[1]]  # type: ignore[index]
        elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            self._number(node, target, value)
        elif isinstance(target, torch._ops.HigherOrderOperator):
            self._region(node, target.name())
        elif isinstance(target, torch._ops.OpOverload):
            self._operation(node, target, position)
        elif value is not None and not isinstance(value, (int, float, bool)):
            raise NotImplementedError(f"fx node {node.format_node()}")

    def _number(self, node: torch.fx.Node, target: Any, value: Any) -> None:
        """Sizes are expressions where they are used, never nodes; but the number that a tensor holds becomes one: the
        length of a tensor that `aten.item` makes."""
        size = self.owner.sym(value) if isinstance(value, torch.SymInt) and target in ITEMS else None
        if isinstance(size, Sym) and size.is_name:
            shaped = Value(self.owner.fresh(node.name), TensorType((Sym(f"{size} + {ITEM_BASE}"),), "bool"))
            item = Node("aten.item.default", (self.argument(node.args[0]),), {}, (shaped,), self.origin(node))
            self.nodes.append(item)

    def _operation(self, node: torch.fx.Node, target: Any, position: Mapping[torch.fx.Node, int]) -> None:
        value = node.meta.get("val")
        name = f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}"
        name = SAME_AS.get(name, name)
        if IGNORED.match(name) or (value is None and not target._schema.returns):
            return
        if name.startswith("aten.as_strided") and not _lies_plain(node.args[0]):
            name += " of a view"  # strides of storage: only known for a tensor that starts its own, contiguously
        args, kwargs = self._bind(target, node, name)
        if self._whole_again(name, node, args):
            return
        if target._schema.is_mutable:
            self._in_place(node, target, name, args, kwargs, position)
            return
        self.env[node.name] = result = self._append(name, args, kwargs, node, value)
        if VIEWS.match(name) and args and isinstance(args[0], Value):
            for v in result if isinstance(result, list) else [result]:
                if isinstance(v, Value):
                    self.base[v] = self.base.get(args[0], args[0])

    def _whole_again(self, name: str, node: torch.fx.Node, args: tuple[Arg, ...]) -> bool:
        """The forms into which torch's functionalisation breaks an op that a layer exists for, put together again."""
        if name == "aten._native_batch_norm_legit_functional.default" and not _uses_statistics(node):
            self._batch_norm(node, args)
            return True
        if name == "aten._native_batch_norm_legit_no_training.default" and not _uses_statistics(node):
            whole = (*args[:5], False, *args[5:], False)
            result = self._append("aten.batch_norm.default", whole, {}, node, node.meta["val"][0])
            self.env[node.name] = [result, None, None]
            return True
        if name == "aten.native_dropout.default" and not _uses_item(node, 1):
            result = self._append("aten.dropout.default", args, {}, node, node.meta["val"][0])
            self.env[node.name] = [result, None]
            return True
        return False

    def _bind(self, target: Any, node: torch.fx.Node, name: str) -> tuple[tuple[Arg, ...], dict[str, Arg]]:
        """Arguments in schema order, defaults filled in, what means nothing here left out."""
        args: list[Arg] = []
        kwargs: dict[str, Arg] = {}
        for i, a in enumerate(target._schema.arguments):
            if a.name in DROPPED:
                continue
            given = (
                node.args[i] if i < len(node.args) and not a.kwarg_only else node.kwargs.get(a.name, a.default_value)
            )
            value = self.argument(given)
            if a.kwarg_only:
                kwargs[a.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def _append(
        self, op: str, args: tuple[Arg, ...], kwargs: Mapping[str, Arg], node: torch.fx.Node, value: Any
    ) -> Any:
        many = isinstance(value, (list, tuple))
        outputs = []
        for i, v in enumerate(value if many else [value]):
            if isinstance(v, torch.Tensor):
                outputs.append(Value(self.owner.fresh(f"{node.name}_{i}" if many else node.name), self.owner.type(v)))
        new = Node(op, args, dict(kwargs), tuple(outputs), self.origin(node))
        self.nodes.append(new)
        if not many:
            return outputs[0] if outputs else None
        it = iter(outputs)
        return [next(it) if isinstance(v, torch.Tensor) else v for v in value]

    def _batch_norm(self, node: torch.fx.Node, args: tuple[Arg, ...]) -> None:
        """torch's functionalised form back to the op that keeps its statistics itself."""
        x, weight, bias, mean, var, training, momentum, eps = args
        value = node.meta["val"]
        result = self._append(
            "aten.batch_norm.default", (x, weight, bias, mean, var, training, momentum, eps, False), {}, node, value[0]
        )
        marks = [Value(self.owner.fresh(f"{node.name}_statistic"), self.owner.type(v)) for v in value[3:]]
        self.statistics.update(marks)
        self.env[node.name] = [result, None, None, *marks]

    # ------------------------------------------------------------------------------------------------ in-place ops
    def _in_place(
        self,
        node: torch.fx.Node,
        target: Any,
        name: str,
        args: tuple[Arg, ...],
        kwargs: Mapping[str, Arg],
        position: Mapping[torch.fx.Node, int],
    ) -> None:
        functional = functional_name(name)
        written = args[0] if args else None
        if functional is None or not isinstance(written, Value):
            raise NotSimple(name)
        root = self.base.get(written, written)
        family = [v for v, b in self.base.items() if b is root and v is not written] + (
            [root] if root is not written else []
        )
        here = position[node]
        by_value = {id(self.now(v)): n for n, v in self.env.items() if isinstance(v, Value)}
        for other in family:
            fx_name = by_value.get(id(self.now(other)))
            if (
                other in self.owned
                or fx_name is None
                or any(u.name == fx_name and position[k] > here for k in position for u in k.all_input_nodes)
            ):
                raise NotSimple(name)
        value = node.meta["val"]
        if functional == "aten.zeros_like.default":
            kwargs = {"dtype": None}
        result = self._append(functional, args, kwargs, node, value)
        self.nodes[-1] = self.nodes[-1].replace(origin=self.nodes[-1].origin.touched("functionalize"))
        self.current[written] = result
        self.env[node.name] = result
        if written in self.owned:
            self.owned[result] = self.owned[written]
            self.mutations[self.owned[written]] = result

    # ---------------------------------------------------------------------------------------------- higher-order ops
    def _submodule(self, node: Any) -> torch.fx.GraphModule:
        return getattr(node.graph.owning_module, node.target)  # type: ignore[no-any-return]

    def _region(self, node: torch.fx.Node, name: str) -> None:
        casts = name == "wrap_with_autocast" and node.args[2] is not False  # its ops would need casts: left unsupported
        if name in ("wrap_with_set_grad_enabled", "wrap_with_autocast") and not casts:
            at = 1 if name == "wrap_with_set_grad_enabled" else 4
            module, operands = self._submodule(node.args[at]), node.args[at + 1 :]
            inner = list(module.graph.nodes)
            holes = [n for n in inner if n.op == "placeholder"]
            saved, written = dict(self.env), dict(self.current)
            for hole, operand in zip(holes, operands, strict=True):
                self.env[hole.name] = self.argument(operand)
            results = self.run(module.graph)
            self.env = {**saved}
            if name == "wrap_with_set_grad_enabled" and node.args[0] is False:
                results = [self._detached(r, node) for r in results]
                for value in [
                    v for v in self.current if v not in written
                ]:  # what was written carries no gradient out either
                    new = self.current[value] = self._detached(self.now(value), node)
                    if value in self.owned:
                        self.owned[new] = self.owned[value]
            self.env[node.name] = results
            return
        if name == "cond":
            predicate, on_true, on_false, given = node.args
            values: list[Arg] = self.argument(given)
            branches = [self._closed(self._submodule(b), values) for b in (on_true, on_false)]
            args: tuple[Arg, ...] = (self.argument(predicate), *branches, values)
            self.env[node.name] = self._append("higher_order.cond", args, {}, node, node.meta["val"])
            return
        if name == "with_effects" and str(node.args[1]) == "aten._linalg_check_errors.default":
            self.env[node.name] = [self.argument(node.args[0]), None]
            return
        self._append(
            f"higher_order.{name}",
            tuple(self.argument(a) for a in node.args if not _is_module(a)),
            {},
            node,
            node.meta["val"],
        )
        last = self.nodes[-1]
        self.env[node.name] = list(last.outputs)

    def _detached(self, value: Any, node: torch.fx.Node) -> Any:
        if not isinstance(value, Value) or not value.type.is_floating:
            return value
        new = Value(self.owner.fresh(f"{value.name}_detached"), value.type)
        self.nodes.append(Node("aten.detach.default", (value,), {}, (new,), self.origin(node)))
        return new

    def _closed(self, module: torch.fx.GraphModule, operands: list[Any]) -> Graph:
        """A branch as a graph of its own: operands become its inputs."""
        body = Body(self.owner)
        inputs = []
        for hole, operand in zip([n for n in module.graph.nodes if n.op == "placeholder"], operands, strict=True):
            if isinstance(operand, Value):
                v = Value(self.owner.fresh(hole.name), operand.type)
                inputs.append(v)
                body.env[hole.name] = v
            else:
                body.env[hole.name] = operand
        outputs = body.run(module.graph)
        return Graph(inputs, outputs, body.nodes)

    # -------------------------------------------------------------------------------------------------------- origin
    def origin(self, node: torch.fx.Node) -> Origin:
        stack = node.meta.get("nn_module_stack") or {}
        scope: list[tuple[str, int]] = []
        classes: list[str] = []
        path = parent = kind = ""
        for key, entry in stack.items():
            if not isinstance(entry, tuple) or key.startswith("_empty"):
                continue
            path, kind = (
                entry[0],
                entry[1] if isinstance(entry[1], str) else f"{entry[1].__module__}.{entry[1].__qualname__}",
            )
            if not path:
                continue
            call = int(key.rpartition("@")[2]) if "@" in key else 0
            name = path.removeprefix(parent + ".") if parent and path.startswith(parent + ".") else path
            scope.append((re.sub(r"@\d+", "", name), call))
            classes.append(kind)
            parent = path
        file, line = "", 0
        for found in re.finditer(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or ""):
            if not found[1].startswith("<") and ("/torch/nn/" not in found[1] or not file):
                file, line = found[1].removeprefix(self.owner.root), int(found[2])
        return Origin(node.name, re.sub(r"@\d+", "", path), kind, file, line, tuple(scope), tuple(classes))


def _lies_plain(node: Any) -> bool:
    """Whether the tensor's elements lie in memory in their own order, from the start of its storage."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_contiguous() and value.storage_offset() == 0


def _is_module(arg: Any) -> bool:
    return isinstance(arg, torch.fx.Node) and arg.op == "get_attr"


def _uses_statistics(node: torch.fx.Node) -> bool:
    """Whether a BatchNorm op's batch statistics are read, which no layer hands out."""
    return _uses_item(node, 1) or _uses_item(node, 2)


def _uses_item(node: torch.fx.Node, index: int) -> bool:
    return any(u.args[1] == index and u.users for u in node.users)


SPECIAL_FUNCTIONAL = {
    "aten.zero_.default": "aten.zeros_like.default",
    "aten.bernoulli_.float": "aten.bernoulli.p",
    "aten.normal_.default": "aten.normal_functional.default",
    "aten.fill_.Scalar": "aten.fill.Scalar",
    "aten.fill_.Tensor": "aten.fill.Tensor",
    "aten.__ior__.Tensor": "aten.bitwise_or.Tensor",
    "aten.__iand__.Tensor": "aten.bitwise_and.Tensor",
    "aten.__ixor__.Tensor": "aten.bitwise_xor.Tensor",
}


def functional_name(name: str) -> str | None:
    """The overload that returns what the in-place one writes: "aten.relu_.default" -> "aten.relu.default"."""
    if name in SPECIAL_FUNCTIONAL:
        return SPECIAL_FUNCTIONAL[name]
    namespace, op, overload = name.split(".")
    if not op.endswith("_") or op.endswith("__"):
        return None
    packet = getattr(getattr(torch.ops, namespace), op[:-1], None)
    found: Callable[..., Any] | None = getattr(packet, overload, None) if packet is not None else None
    return f"{namespace}.{op[:-1]}.{overload}" if found is not None else None
