"""Graph -> nested keras.Model: real layers and keras.ops, one nested Functional model per torch module, weights
included."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from . import layout
from .assemble import every_layer, functional_model
from .errors import UnsupportedError
from .graph_layer import static_shape
from .ir import Graph, GraphError, Node, Value
from .layers import Holder, Together
from .layout import Perm, Placed
from .nesting import Plan, Run, plan
from .random_sites import RandomSite, draws_of
from .scope import Scope
from .way_home import Orders
from .weights import ParamRef, numpy_of


@dataclass
class Emitted:
    """What `emit` made. `bindings`: (reference, layer, attribute) for each variable filled from a torch tensor."""

    model: Any
    inputs: list[Placed]
    outputs: list[Placed]
    bindings: list[tuple[ParamRef, Any, str]]
    sites: list[RandomSite]
    counts: Counter[str] = field(default_factory=Counter)
    interpreted: dict[str, str] = field(default_factory=dict)


class Emitter:
    """One emission. `tensors` are torch's arrays by name. `orders`: the axis orders of inputs and outputs, where the
    source knows them."""

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Any],
        keras_layout: bool,
        batchnorm: str,
        orders: Orders | None = None,
    ) -> None:
        self.graph = graph
        self.tensors = tensors
        self.keras_layout = keras_layout
        self.batchnorm = batchnorm
        self.orders = orders
        self.plan: Plan = plan(graph)
        self.by_value = graph.parameter_of()
        self.bindings: list[tuple[ParamRef, Any, str]] = []
        self.counts: Counter[str] = Counter()
        self.interpreted: dict[str, str] = {}
        self.sites: list[RandomSite] = []
        self.site_numbers = self._number_sites()
        self.models: dict[Run, tuple[Any, list[Perm], list[tuple[Any, Perm]]]] = {}

    def next_seed(self) -> int:
        """Seeds by number: the same module gives the same file."""
        self.counts["seeds"] += 1
        return self.counts["seeds"]

    def _number_sites(self) -> dict[Node, list[int]]:
        numbers: dict[Node, list[int]] = {}
        count = 0
        for node in self.graph.nodes:
            n = 0 if "eval only" in node.origin.passes else draws_of(node)
            if n:
                numbers[node] = list(range(count, count + n))
                count += n
        return numbers

    # ------------------------------------------------------------------------------------------------------ parameters
    def reference(self, name: str) -> ParamRef | None:
        """A parameter, buffer or constant the graph or the module owns, by torch name."""
        p = self.graph.parameters.get(name)
        return None if p is None else ParamRef(p.name, p.value.type)

    def trainable(self, name: str) -> bool:
        return self.graph.parameters[name].trainable

    def bind(self, ref: ParamRef, layer: Any, attribute: str) -> None:
        """Enter the variable in the map and fill it."""
        from .weights import variable_at

        variable = variable_at(layer, (attribute,))
        array = ref.transform.to_keras(numpy_of(self.tensors[ref.name]))
        if tuple(variable.shape) != array.shape:
            raise GraphError(f"{ref.name} {array.shape} does not fit {layer.name}.{attribute} {tuple(variable.shape)}")
        variable.assign(array.astype(ref.type.dtype) if array.dtype.name != ref.type.dtype else array)
        self.bindings.append((ref, layer, attribute))

    # ------------------------------------------------------------------------------------------------------------ model
    def emit(self) -> Emitted:
        if not self.graph.inputs:
            raise UnsupportedError("the model has no tensor input: a Keras model needs at least one")
        root = Scope(self, self.plan.root)
        inputs = [self._input(v, order) for v, order in zip(self.graph.inputs, self._orders(0), strict=True)]
        for placed, value in zip(inputs, self.graph.inputs, strict=True):
            root.env[value] = placed
            root.names.add(placed.tensor.name)
        root.run()
        results = [o for o in self.graph.outputs if isinstance(o, Value)]
        outputs = [self._output(root, o, order) for o, order in zip(results, self._orders(1), strict=True)]
        if not outputs:
            raise UnsupportedError("the model returns no tensor: there is nothing to convert")
        outputs = self._updates(root, outputs)
        model = self._model(inputs, outputs)
        held = self._unread(root, outputs, model)
        if held is not outputs:
            outputs, model = held, self._model(inputs, held)
        return Emitted(model, inputs, outputs, self.bindings, self.sites, self.counts, self.interpreted)

    def _model(self, inputs: list[Placed], outputs: list[Placed]) -> Any:
        return functional_model([p.tensor for p in inputs], [p.tensor for p in outputs], "model")

    def _orders(self, side: int) -> list[Perm | None]:
        """The axis order that each input (0) or output (1) is to have; None: as `keras_layout` says."""
        values = (self.graph.inputs, [o for o in self.graph.outputs if isinstance(o, Value)])[side]
        known = self.orders[side] if self.orders is not None else ()
        if len(known) != len(values):
            return [None] * len(values)
        return [layout.identity(v.type.rank) if p is None else tuple(p) for v, p in zip(values, known, strict=True)]

    def _input(self, value: Value, order: Perm | None) -> Placed:
        perm = order or (
            layout.channels_last(value.type.rank)
            if self.keras_layout and layout.feeds_spatial(self.graph, value)
            else layout.identity(value.type.rank)
        )
        shape = tuple(value.type.shape[a] for a in perm)
        return Placed(
            keras.Input(batch_shape=static_shape(shape), dtype=value.type.dtype, name=value.name), value.type, perm
        )

    def _output(self, root: Scope, value: Value, order: Perm | None) -> Placed:
        x = root.fetch(value)
        keep = self.keras_layout and x.type.rank > 2 and x.perm == layout.channels_last(x.type.rank)
        if order is not None:
            x = root.bring(x, order)
        elif not keep:
            x = root.bring(x, layout.identity(x.type.rank))
        if any(x.tensor is v.tensor for v in root.env.values() if v.type is x.type) and value in self.graph.inputs:
            x = dataclasses.replace(
                x, tensor=keras.layers.Identity(dtype=value.type.dtype, name=root.unique(None, "identity"))(x.tensor)
            )
        return x

    def _updates(self, root: Scope, outputs: list[Placed]) -> list[Placed]:
        """Hang the buffer updates, and normalisations nobody reads, on the first output, so that Keras keeps them."""
        for m in self.graph.mutations:
            buffer = root.buffer(self.graph.parameters[m.buffer].value, m.when)
            new = root.bring(root.fetch(m.value), layout.identity(m.value.type.rank)).tensor
            outputs[0] = dataclasses.replace(outputs[0], tensor=buffer(outputs[0].tensor, new))
        for v in self.graph.effects():
            layer = Together(name=root.unique(None, "together"))
            outputs[0] = dataclasses.replace(outputs[0], tensor=layer(outputs[0].tensor, root.fetch(v).tensor))
        return outputs

    def _unread(self, root: Scope, outputs: list[Placed], model: Any) -> list[Placed]:
        """A place for parameters and buffers that no result depends on: a state dict comes home whole."""
        reached = {id(layer) for layer in every_layer(model)}
        self.bindings = [b for b in self.bindings if id(b[1]) in reached]
        bound = {ref.name for ref, _, _ in self.bindings}
        left = [p for p in self.graph.parameters.values() if p.kind != "constant" and p.name not in bound]
        if not left:
            return outputs
        entries = [(p.name, p.value.type.shape, p.value.type.dtype, p.trainable) for p in left]
        layer = Holder(entries, name=root.unique(None, "unread"))
        for i, p in enumerate(left):
            self.bind(ParamRef(p.name, p.value.type), layer, f"values.{i}")
        return [dataclasses.replace(outputs[0], tensor=layer(outputs[0].tensor)), *outputs[1:]]


def emit(
    graph: Graph,
    tensors: Mapping[str, Any],
    keras_layout: bool = True,
    batchnorm: str = "torch",
    orders: Orders | None = None,
) -> Emitted:
    """Build the Keras model. UnsupportedError where the graph has nothing to build; GraphError for a rule's own
    fault."""
    return Emitter(graph, tensors, keras_layout, batchnorm, orders).emit()
