"""One level of the Keras model while it is built: its tensors, its layers and the models nested in it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from . import layout
from .assemble import functional_model
from .builder import Dynamic
from .driver import bring, lower
from .functional import Functional
from .graph_layer import static_shape
from .ir import Graph, GraphError, Node, Origin, Value, leaves
from .layers import Buffer, GraphLayer, SelectMode, Weight
from .layout import Perm, Placed
from .merge_modes import SELECT
from .nesting import Run, one_layer_owns
from .random_sites import RandomSite
from .rules.registry import LAYER_FORMS
from .weights import ParamRef, Transform

if TYPE_CHECKING:
    from .emit import Emitter


class Scope:
    """One level of the model while it is built: its tensors, names and layers."""

    def __init__(self, emitter: Emitter, run: Run) -> None:
        self.emitter = emitter
        self.piece = run
        self.env: dict[Value, Placed] = {}
        self.names: set[str] = set()
        self.layers: dict[str, Any] = {}
        self.made: list[Any] = []
        self.moved: dict[tuple[int, Perm, Perm], tuple[Placed, Placed]] = {}
        self.buffers: dict[Value, Any] = {}

    # ----------------------------------------------------------------------------------------------------------- names
    def unique(self, node: Node | None, fallback: str) -> str:
        """A layer name for this scope: the module's where the node stands for one, else from the op."""
        base = self.emitter.plan.names.get(node) if node is not None else None
        if base is None:
            base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", fallback).lower()
        base = re.sub(r"[^A-Za-z0-9_.\-]", "_", base) or "layer"
        name, n = base, 1
        while name in self.names:
            name, n = f"{base}_{n}", n + 1
        self.names.add(name)
        return name

    # --------------------------------------------------------------------------------------------------------- tensors
    @property
    def anchor(self) -> Any:
        return next(p.tensor for v, p in self.env.items() if v not in self.emitter.by_value)

    def fetch(self, value: Value) -> Placed:
        """The value in this scope; a parameter this scope owns becomes a `Weight` layer at its first use."""
        if value in self.env:
            return self.env[value]
        p = self.emitter.by_value[value]
        if any(m.buffer == p.name for m in self.emitter.graph.mutations):
            when = next(m.when for m in self.emitter.graph.mutations if m.buffer == p.name)
            tensor = self.buffer(value, when)(self.anchor)
        else:
            name = self.unique(None, p.name.rpartition(".")[2])
            layer = Weight(p.value.type.shape, p.value.type.dtype, p.trainable, name=name)
            self.emitter.bind(ParamRef(p.name, p.value.type, Transform()), layer, "value")
            tensor = layer(self.anchor)
        self.env[value] = Placed(tensor, value.type, layout.identity(value.type.rank))
        return self.env[value]

    def buffer(self, value: Value, when: str) -> Any:
        if value not in self.buffers:
            p = self.emitter.by_value[value]
            layer = Buffer(
                p.value.type.shape, p.value.type.dtype, when, name=self.unique(None, p.name.rpartition(".")[2])
            )
            self.emitter.bind(ParamRef(p.name, p.value.type), layer, "value")
            self.buffers[value] = layer
        return self.buffers[value]

    def strip(self, dim: Any) -> Any:
        """A tensor of this scope cut down to the one axis whose size is `dim`, the others to one entry; None if there
        is none."""
        if dim is None:
            return None
        for placed in self.env.values():
            for axis, size in enumerate(placed.physical):
                if size == dim and not any(d == 0 for d in placed.physical):
                    return placed.tensor[
                        tuple(slice(None) if a == axis else slice(0, 1) for a in range(len(placed.physical)))
                    ]
        return None

    def table(self, array: np.ndarray) -> Any:
        """A constant the rules computed, as a non-trainable weight."""
        from .ir import TensorType

        name = f"constant.{len(self.emitter.bindings)}"
        type_ = TensorType(tuple(array.shape), str(array.dtype))
        layer = Weight(array.shape, str(array.dtype), trainable=False, name=self.unique(None, "constant"))
        layer.value.assign(array)
        self.emitter.bindings.append((ParamRef(name, type_), layer, "value"))
        return layer(self.anchor)

    def bring(self, x: Placed, perm: Perm) -> Placed:
        key = (id(x.tensor), x.perm, perm)
        if key not in self.moved:
            node = Node("layout", (), {}, (Value("layout", x.type),))
            self.moved[key] = (x, bring(Functional(node, (), self), x, perm, self._count))  # x is kept: ids are reused
        return self.moved[key][1]

    def _count(self, x: Placed, perm: Perm) -> None:
        self.emitter.counts["transposes"] += 1
        self.emitter.counts["transposed elements"] += layout.size_of(x.type.shape)

    # ------------------------------------------------------------------------------------------------------------ nodes
    def run(self) -> None:
        for item in self.piece.items:
            if isinstance(item, Node):
                for value, placed in zip(item.outputs, self.node(item), strict=True):
                    self.env[value] = placed
            else:
                self.nested(item)

    def node(self, node: Node) -> list[Placed]:
        """The node's results, by the best form that holds: a layer, Functional ops, a GraphLayer."""
        if node.op == SELECT:
            return self._select(node)
        reason = ""
        self.made.clear()
        for form in (self._layer_form, self._plain):
            bound, layers, names, env = len(self.emitter.bindings), dict(self.layers), set(self.names), dict(self.env)
            try:
                results = form(node)
                if results is None:
                    continue
                self._check(node, results)
                self.emitter.counts["native"] += 1
                self._sites(node, results)
                return results
            except Dynamic as refused:
                reason = str(refused)
            except GraphError:
                raise
            except Exception as error:  # Keras' symbolic inference refuses what the op allows: compute it at call time
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            del self.emitter.bindings[bound:]  # what the failed form built is not in the model
            self.layers, self.names, self.env = layers, names, env
        self.emitter.counts["interpreted"] += 1
        self.emitter.interpreted.setdefault(node.op, reason)
        self.made.clear()
        results = self._interpreted(node)
        self._sites(node, results)
        return results

    def _check(self, node: Node, results: list[Placed]) -> None:
        for value, placed in zip(node.outputs, results, strict=True):
            if not isinstance(placed.tensor, keras.KerasTensor):
                raise Dynamic("a constant")
            want = static_shape(placed.physical)
            if any(a != b for a, b in zip(want, placed.tensor.shape, strict=True)):
                raise Dynamic(f"Keras infers {placed.tensor.shape} for {value.type}")

    def _make(self, node: Node, perm: Perm) -> Functional:
        return Functional(node, perm, self)

    def _plain(self, node: Node) -> list[Placed]:
        return lower(node, self._make, self.fetch, self._move) or []

    def _move(self, k: Any, x: Placed, perm: Perm) -> Placed:
        return self.bring(x, perm)

    def _layer_form(self, node: Node) -> list[Placed] | None:
        form = LAYER_FORMS.get(node.op)
        if form is None:
            return None
        named = list(inspect.signature(form.build).parameters)[1:]
        owned = self.emitter.by_value
        held = [
            v
            for name, a in zip(named, node.args, strict=False)
            if name in form.params
            for v in leaves(a)
            if isinstance(v, Value)
        ]
        if any(v in self.env for v in held) or not one_layer_owns(self.emitter.plan, self.emitter.graph, node, held):
            return None

        def fetch(value: Value) -> Placed:
            if value not in held:
                return self.fetch(value)
            return Placed(ParamRef(owned[value].name, value.type), value.type, layout.identity(value.type.rank))

        return lower(node, self._make, fetch, self._move, form)

    def _interpreted(self, node: Node) -> list[Placed]:
        operands = list(dict.fromkeys([*node.inputs, *self.emitter.plan.carriers.get(node, [])]))
        if not operands:
            operands = [next(v for v in self.env if v not in self.emitter.by_value)]
        piece = Graph(
            operands, list(node.outputs), [node.replace(origin=Origin(node.origin.fx_name, node.origin.module_path))]
        )
        tensors = [self.bring(self.fetch(v), layout.identity(v.type.rank)).tensor for v in operands]
        only = "train only" in node.origin.passes
        layer = GraphLayer(
            piece, name=self.unique(node, node.op.split(".")[1]), train_only=only, seed=self.emitter.next_seed()
        )
        self.made.append(layer)
        results = layer(*tensors)
        results = results if isinstance(results, (list, tuple)) else [results]
        return [Placed(t, v.type, layout.identity(v.type.rank)) for t, v in zip(results, node.outputs, strict=True)]

    def _select(self, node: Node) -> list[Placed]:
        a, b = (self.fetch(v) for v in node.args)
        b = self.bring(b, a.perm)
        layer = SelectMode(name=self.unique(None, "select_mode"))
        self.emitter.counts["native"] += 1
        return [Placed(layer(a.tensor, b.tensor), node.outputs[0].type, a.perm)]

    def _sites(self, node: Node, results: list[Placed]) -> None:
        numbers = self.emitter.site_numbers.get(node)
        if numbers and self.made:
            perm = (
                results[0].perm if not isinstance(self.made[-1], GraphLayer) else layout.identity(results[0].type.rank)
            )
            self.emitter.sites += [RandomSite(i, self.made[-1], node.op, perm) for i in numbers]

    # --------------------------------------------------------------------------------------------------- nesting
    def nested(self, run: Run) -> None:
        canonical = run.canonical or run
        if canonical not in self.emitter.models:
            self.emitter.models[canonical] = self._build(canonical)
        elif canonical is not run:
            self._repeat_sites(canonical, run)
        model, orders, results = self.emitter.models[canonical]
        tensors = [self.bring(self.fetch(v), perm).tensor for v, perm in zip(run.inputs, orders, strict=True)]
        made = model(tensors if len(tensors) > 1 else tensors[0])
        made = made if isinstance(made, (list, tuple)) else [made]
        for value, (index, perm) in zip(run.outputs, results, strict=True):
            self.env[value] = Placed(made[index], value.type, perm)

    def _build(self, run: Run) -> tuple[Any, list[Perm], list[tuple[Any, Perm]]]:
        inner = Scope(self.emitter, run)
        inputs, orders = [], []
        for i, value in enumerate(run.inputs):
            outer = self.fetch(value)
            tensor = keras.Input(batch_shape=tuple(outer.tensor.shape), dtype=outer.tensor.dtype, name=f"input_{i}")
            inner.env[value] = Placed(tensor, value.type, outer.perm)
            inner.names.add(tensor.name)
            inputs.append(tensor)
            orders.append(outer.perm)
        name = self.unique(None, run.name)
        with keras.name_scope(name):  # so that variable paths tell the modules apart
            inner.run()
        tensors: list[Any] = []
        results: list[tuple[Any, Perm]] = []
        for value in run.outputs:
            placed = inner.env[value]
            tensor = placed.tensor
            if any(tensor is t for t in inputs):
                tensor = keras.layers.Identity(dtype=value.type.dtype, name=inner.unique(None, "identity"))(tensor)
            index = next((i for i, t in enumerate(tensors) if t is tensor), len(tensors))
            if index == len(tensors):
                tensors.append(tensor)
            results.append((index, placed.perm))
        model = functional_model(inputs, tensors, name)
        return model, orders, results

    def _repeat_sites(self, canonical: Run, run: Run) -> None:
        """Random nodes of a module called again: the same layers draw once more."""
        by_site = {s.index: s for s in self.emitter.sites}
        for first, again in zip(canonical.nodes(), run.nodes(), strict=True):
            for i, j in zip(
                self.emitter.site_numbers.get(first, []), self.emitter.site_numbers.get(again, []), strict=True
            ):
                if i in by_site:
                    self.emitter.sites.append(dataclasses.replace(by_site[i], index=j))
