"""Functional models from tensors: naming, and walking what was built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import keras

from .ir import fresh_names


def every_layer(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models nested in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)


def layer_paths(model: Any) -> dict[int, tuple[str, ...]]:
    """Each layer's names from the model inwards, by the layer's id."""
    paths: dict[int, tuple[str, ...]] = {}

    def walk(parent: Any, path: tuple[str, ...]) -> None:
        for layer in parent.layers:
            paths.setdefault(id(layer), (*path, layer.name))
            if isinstance(layer, keras.Model):
                walk(layer, (*path, layer.name))

    walk(model, ())
    return paths


def functional_model(inputs: list[Any], outputs: list[Any], name: str) -> Any:
    """A Functional model of one level. Ops get names by their place, not by Keras' process-wide counter, which could
    meet a
    module's name, and would make the file depend on what was built before."""
    found = _operations(outputs)
    fresh = fresh_names(op.name for op in found if isinstance(op, keras.Layer))
    for op in found:
        if not isinstance(op, keras.Layer):
            op.name = fresh(re.sub(r"_\d+$", "", op.name))
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs if len(outputs) > 1 else outputs[0], name=name)


def _operations(tensors: list[Any]) -> list[Any]:
    """The operations the tensors come from, first those that run first. A layer called twice has two nodes, each with
    its inputs."""
    found: dict[tuple[int, int], Any] = {}
    stack = [(t, False) for t in reversed(tensors)]
    while stack:
        tensor, done = stack.pop()
        op, index, _ = tensor._keras_history
        if (id(op), index) in found:
            continue
        if done:
            found[id(op), index] = op
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in reversed(op._inbound_nodes[index].input_tensors)]
    return list({id(op): op for op in found.values()}.values())
