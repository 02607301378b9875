"""Which nodes are layers of torch, and the module tree they and the remaining initializers make.

before: Conv(x, Transpose(kernel), bias)      after: isomorph.module.Call(x), and `conv1 = nn.Conv2d(...)` in the tree
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch

from . import layers
from .initializers import Held, Initializers, Piece, classify, covers, tell_apart
from .layers.match import Call, Match
from .moved import Resolved, same_layout, shape_of
from .naming import LEAVES, Names, anonymous, numbered, scope_of, split
from .provenance import LAYER, Origin
from .reading import schema_version
from .views import put_views

__all__ = ["Modules"]

STATISTICS = ("running_mean", "running_var")
Found = dict[str, Resolved]  # a layer's state by name


@dataclass
class Modules:
    """model: changed in place. After `build`: `root` holds all state, `initializers` tells the lowering how it is read,
    `made` are the layers by path."""

    model: ir.Model
    origin: Origin
    trainable: str = "auto"
    root: torch.nn.Module = field(default_factory=torch.nn.Module)
    made: dict[str, torch.nn.Module] = field(default_factory=dict)
    names: Names = field(default_factory=Names)

    def build(self) -> None:
        layers.load_layers()
        tell_apart(self.model)
        self.held = classify(self.model, self.origin, self.trainable)
        self.by_torch_name = {
            name: held for held in self.held.values() if held.variable is not None for name in held.variable.torch_names
        }
        self.children: dict[str, set[str]] = {}  # the names that the modules had in torch, by their path
        for name in self.by_torch_name:
            path, _, leaf = name.rpartition(".")
            self.children.setdefault(path, set()).add(leaf)
        self.siblings: dict[tuple[str, ...], set[ir.Value]] = {}
        for value, held in self.held.items():
            self.siblings.setdefault(tuple(split(held.name)[:-1]), set()).add(value)
        self.called: dict[Any, str] = {}
        self.now: dict[ir.Value, ir.Value] = {}  # what stands for a value since a call took its place
        for name in self.by_torch_name:
            self.names.take(name)
        calls = list(self._recognised())
        for call, found in calls:
            if self._settle(call, found):
                self._rewrite(call)
        self.model.graph.sort()
        for held in self.held.values():
            self._place(held)
        self._attach()
        put_views(self.model.graph, self.held)
        _drop_unread(self.model.graph)
        self.initializers = Initializers(self.held)

    # ---------------------------------------------------------------------------------------------------- recognising
    def _recognised(self) -> Iterable[tuple[Call, Found]]:
        gone: set[ir.Node] = set()
        for node in self.model.graph:
            recognise = layers.recogniser(node.domain, node.op_type)
            if recognise is None or node in gone:
                continue
            call = recognise(Match(node, self.held, self.origin, schema_version(node, self.model.opset_imports)))
            found = None if call is None else self._resolved(call)
            if call is not None and found is not None and not gone & set(call.nodes):
                gone |= set(call.nodes)
                yield call, found

    def _resolved(self, call: Call) -> Found | None:
        """Where the layer's state lies; None where it is not just moved, or parts of an initializer would be left."""
        found: Found = {}
        for name, moved in call.weights.items():
            resolved = moved.resolve()
            if resolved is None or resolved.source not in self.held:
                return None
            found[name] = resolved
        for source in {r.source for r in found.values()}:
            if not covers([r.part for r in found.values() if r.source is source], shape_of(source)):
                return None
        return found

    # --------------------------------------------------------------------------------------------------------- naming
    def _settle(self, call: Call, found: Found) -> bool:
        """Give the call its module: an earlier one with the same state, or a new one. False where it can have none."""
        key = self._key(call, found)
        if key in self.called:
            call.name = self.called[key]
            call.module = self.made[call.name]
            return True
        try:
            with torch.device("meta"):
                module = call.layer(**call.options)
        except (OverflowError, RuntimeError, TypeError, ValueError):
            return False  # numbers that torch refuses: the op's own rule says so
        path = self._torch_path(found, module) if self.origin.is_torch and found else self._path(call, found)
        if path is None or (self.origin.is_torch and call.fixed):
            return False
        pieces = self._pieces(found)
        if pieces is None:
            return False
        for name, piece in pieces.items():
            full = f"{path}.{name}"
            if name in STATISTICS and isinstance(piece.tensor, torch.nn.Parameter):
                _assign(module, name, piece.tensor.detach().clone())  # an exporter found it equal to a weight
                self.names.take(full)
                continue
            _assign(module, name, piece.tensor)
            self.names.take(full)
            if full not in piece.names:
                piece.names.append(full)
        for name, array in call.fixed.items():
            if getattr(module, "moves_by_population", False) and (array == (name == "weight")).all():
                module.register_parameter(name, None)  # the source has no such variable
                continue
            _assign(module, name, torch.nn.Parameter(torch.tensor(array), requires_grad=False))
            self.names.take(f"{path}.{name}")
        self._own_counters(module, path)
        self.names.inner.add(path)
        self.names.leaves.discard(path)
        self.made[path] = call.module = module
        call.name = self.called[key] = path
        return True

    def _pieces(self, found: Found) -> dict[str, Piece] | None:
        """What torch holds, by name; None (and nothing is held) where something lies in another layout already."""
        before = {r.source: list(self.held[r.source].pieces) for r in found.values()}
        pieces = {name: self.held[r.source].piece(r.part, r.steps) for name, r in found.items()}
        if any(p is None for p in pieces.values()):
            for source, held in before.items():
                self.held[source].pieces = held
            return None
        return {name: p for name, p in pieces.items() if p is not None}

    def _key(self, call: Call, found: Found) -> Any:
        """Equal for two calls of one layer."""
        state = tuple((name, id(r.source), r.part, r.steps) for name, r in sorted(found.items()))
        own = call.nodes[0].metadata_props.get(LAYER) or id(call) if not state else ""
        fixed = tuple((name, array.tobytes()) for name, array in sorted(call.fixed.items()))
        return call.layer, tuple(sorted((k, str(v)) for k, v in call.options.items())), state, own, fixed

    def _torch_path(self, found: Found, module: torch.nn.Module) -> str | None:
        """The module that bore these weights, if they lie as they did and it had no others that this layer would."""
        for path in self._shared_prefixes(found):
            others = {n for n in self.children.get(path, set()) - set(found) if hasattr(module, n)}
            others -= {"num_batches_tracked"}
            if path not in self.made and path and not others:
                return path
        return None

    def _shared_prefixes(self, found: Found) -> list[str]:
        paths: list[str] | None = None
        for name, r in found.items():
            variable = self.held[r.source].variable
            if variable is None or r.part is not None:
                return []
            if not same_layout(r.steps, variable.transform.inverse.steps, shape_of(r.source)):
                return []
            mine = [n[: -len(name) - 1] for n in variable.torch_names if n.endswith(f".{name}")]
            paths = mine if paths is None else [p for p in paths if p in mine]
        return paths or []

    def _path(self, call: Call, found: Found) -> str:
        """A free path: the name its weights share, else the node's scope, else its kind."""
        if not found:
            return self._free(scope_of(call.nodes[0]) or call.kind)
        names = [self.held[r.source].name for r in found.values()]
        parts = split(names[0])
        scope = scope_of(call.nodes[0]) or call.kind
        if anonymous(names[0]) or not parts:
            return self._free(scope)
        own = parts[-1]
        if own not in LEAVES and not re.search(r"(kernel|weight)$|_l\d+(_reverse)?$", own):
            return self._free(scope if scope != call.kind else ".".join(parts))
        prefix = _shared([split(n)[:-1] for n in names]) or parts[:-1]
        if call.kind in ("lstm", "gru", "rnn"):
            while len(prefix) > 1 and prefix[-1].endswith("cell"):
                prefix = prefix[:-1]
            return self._free(".".join(prefix) or call.kind)
        siblings = self.siblings.get(tuple(prefix), set())
        if siblings - {r.source for r in found.values()} or not prefix:
            stem = own.removesuffix("_kernel").removesuffix("_weight")
            prefix = [*prefix, stem if stem not in LEAVES else call.kind]
        path = ".".join(prefix)
        return self._free(scope if path in self.made and scope not in self.made else path)

    def _free(self, path: str) -> str:
        """A path for a module that is not there yet."""
        return numbered(path, lambda found: found in self.made or not self.names.is_free(found))

    def _own_counters(self, module: torch.nn.Module, path: str) -> None:
        """The buffers that no initializer of the graph says anything of."""
        for name, buffer in list(module._buffers.items()):
            if buffer is None or buffer.device.type != "meta":
                continue
            held = self.by_torch_name.get(f"{path}.{name}")
            if held is not None or not self.origin.is_torch:
                zero = torch.zeros(buffer.shape, dtype=buffer.dtype)
                piece = None if held is None else held.piece(None, ())
                module._buffers[name] = zero if piece is None else piece.tensor
                self.names.take(f"{path}.{name}")
                if piece is not None:
                    piece.names.append(f"{path}.{name}")
            else:
                module._buffers[name] = None

    # ------------------------------------------------------------------------------------------------------- building
    def _place(self, held: Held) -> None:
        """Give an initializer its names: those it had in torch, or one made from its own if no layer owns it."""
        variable = held.variable
        if variable is not None and variable.torch_names:
            piece = held.pieces[0] if held.pieces else held.piece(None, variable.transform.inverse.steps)
            assert piece is not None
            piece.names += [n for n in variable.torch_names if n not in piece.names]
        elif not held.pieces:
            piece = held.piece(None, ())
            assert piece is not None
            piece.names.append(self.names.free(self._own_name(held)))

    def _own_name(self, held: Held) -> str:
        parts = split(held.name)
        if parts and not anonymous(held.name):
            return ".".join(parts)
        node = next((use.node for use in held.value.uses()), None)
        added = node is not None and node.op_type in ("Add", "Sub") and len(shape_of(held.value)) < 2
        leaf = "bias" if added else "weight"
        scope = scope_of(node) if node is not None else ""
        return f"{scope}.{leaf}" if scope else leaf

    def _attach(self) -> None:
        """Build the tree."""
        for path, module in self.made.items():
            _attach_module(self.root, path.split("."), module)
        for held in self.held.values():
            for piece in held.pieces:
                for name in piece.names:
                    parts = name.split(".")
                    owner, last = _submodule(self.root, parts[:-1]), parts[-1]
                    if any(d.get(last) is not None for d in (owner._parameters, owner._buffers)):
                        continue
                    owner._buffers.pop(last, None)  # a layer that would do without it
                    if held.kind == "parameter":
                        owner.register_parameter(last, piece.tensor)  # type: ignore[arg-type]
                    else:
                        owner.register_buffer(last, piece.tensor, held.variable is None or held.variable.persistent)

    def functional(self) -> int:
        """How many nodes of the outer graph are no layers."""
        return sum(node.domain != layers.MODULE and node.op_type != "Constant" for node in self.model.graph)

    def _rewrite(self, call: Call) -> None:
        """One node in the place of the call's."""
        graph = self.model.graph
        inputs = [self.now.get(value, value) for value in call.inputs]
        node = ir.Node(layers.MODULE, layers.CALL, inputs, num_outputs=len(call.outputs), name=call.name)
        node.meta["call"] = call
        for old, new in call.replaced.items():
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            self.now[old] = new
        self.now |= dict(zip(call.outputs, node.outputs, strict=True))
        anchor = next(n for n in reversed(call.nodes) if n.outputs[0] not in call.replaced)
        ir.convenience.replace_nodes_and_values(graph, anchor, call.nodes, [node], call.outputs, node.outputs)


def _assign(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Set a parameter or buffer of a layer, whatever the layer would have there."""
    if isinstance(tensor, torch.nn.Parameter):
        module._buffers.pop(name, None)
        setattr(module, name, tensor)  # a recurrent layer keeps a list of them
    else:
        module._parameters.pop(name, None)
        module._buffers[name] = tensor


def _shared(paths: list[list[str]]) -> list[str]:
    """The parts that all paths begin with."""
    found = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        found.append(parts[0])
    return found


def _submodule(root: torch.nn.Module, path: list[str]) -> torch.nn.Module:
    for part in path:
        if part not in root._modules:
            root.add_module(part, torch.nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


def _attach_module(root: torch.nn.Module, path: list[str], module: torch.nn.Module) -> None:
    """Add a layer; what an earlier layer's path put there moves into it."""
    owner = _submodule(root, path[:-1])
    before = owner._modules.get(path[-1])
    for name, child in before._modules.items() if before is not None else ():
        module.add_module(name, child)
    owner.add_module(path[-1], module)


def _drop_unread(graph: ir.Graph) -> None:
    """Without the nodes whose results nobody reads: what brought weights into an op's layout."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
