"""The layer that runs a piece of the graph at call time, with the same rules that build Functional nodes.

It stands where a Functional graph cannot: arithmetic on several unknown sizes, control flow, random tensors, an op
whose symbolic
shape inference in Keras is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from .interpret import interpret
from .ir import Graph, Node, Sym, Value
from .ir_json import from_data, to_data
from .rules.registry import RULES, load_rules


def static_shape(shape: Sequence[Any]) -> tuple[int | None, ...]:
    """Keras' form of a shape: None for a size that is only known at call time."""
    return tuple(None if isinstance(d, Sym) else d for d in shape)


@keras.saving.register_keras_serializable(package="isomorph")
class GraphLayer(keras.layers.Layer):  # type: ignore[misc]  # keras has no annotations
    """Interprets `graph` (torch axis order; parameters come in as inputs). One input tensor per `graph.inputs` entry,
    one output per graph output that is a tensor; sizes are read from the inputs at call time."""

    def __init__(
        self, graph: Graph | dict[str, Any], seed: int | None = None, train_only: bool = False, **config: Any
    ) -> None:
        config.setdefault("autocast", False)
        super().__init__(**config)
        self.graph = from_data(graph) if isinstance(graph, dict) else graph
        load_rules()
        self.random = any(RULES[n.op].random for n in self.graph.nodes if n.op in RULES)
        self.train_only = train_only
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if self.random else None
        self.replay: list[np.ndarray] | None = None
        self.drawn: list[Any] | None = None  # where what was drawn is kept, while somebody wants it
        self.built = True

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "graph": to_data(self.graph), "seed": self.seed, "train_only": self.train_only}

    def compute_output_spec(self, *inputs: Any, training: bool | None = None) -> Any:
        specs = [
            keras.KerasTensor(static_shape(v.type.shape), v.type.dtype)
            for v in self.graph.outputs
            if isinstance(v, Value)
        ]
        return specs[0] if len(specs) == 1 else specs

    def _draw(self, node: Node, make: Any) -> Any:
        if self.replay is not None:
            return ops.convert_to_tensor(self.replay.pop(0))
        made = make(self.seed_generator)
        if self.drawn is not None:
            self.drawn.append(made)
        return made

    def call(self, *inputs: Any, training: bool | None = None) -> Any:
        idle = self.train_only and not training  # nobody reads the result: do not advance the generator
        draw = (lambda node, make: make(0)) if idle else self._draw
        results = interpret(self.graph, inputs, {}, bool(training), draw if self.random else None)
        tensors = [r for r, v in zip(results, self.graph.outputs, strict=True) if isinstance(v, Value)]
        return tensors[0] if len(tensors) == 1 else tensors
