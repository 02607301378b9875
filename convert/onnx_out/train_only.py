"""Layers that act differently in train mode and are not ops of their own in the ONNX model: what is lost in it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from .handlers.tracing import traceable
from .markers import Marks, calls_replaced
from .quiet import quiet
from .trace import Traced

__all__ = ["train_only"]


def train_only(model: Any, traced: Traced) -> list[str]:
    """The paths of layers that draw random numbers or write variables when the model is called in train mode, and were
    not marked. A model that cannot be called in train mode has none that is known: [].

    A layer that merely computes something else in train mode is not found.
    """
    marks, found, stack = traced.marks, dict[str, None](), list[Any]()

    def watched(layer: Any) -> Callable[..., Any]:
        call = layer.call

        @functools.wraps(call)
        def inner(*args: Any, **kwargs: Any) -> Any:
            stack.append(layer)
            try:
                return call(*args, **kwargs)
            finally:
                stack.pop()

        return inner

    def acts() -> None:
        if not any(_is_marked(layer, marks) for layer in stack):
            found[marks.path(stack[-1]) if stack else ""] = None

    def run(arguments: list[Any]) -> list[Any]:
        with keras.StatelessScope([(v, v.value) for v in model.variables]), _watching(acts):
            result = model(*keras.tree.pack_sequence_as(traced.arguments, arguments), training=True)
        return [y for y in keras.tree.flatten(result) if y is not None]

    with contextlib.suppress(Exception), calls_replaced(model, watched), traceable(), quiet():
        tf.function(run, autograph=False).get_concrete_function([port.spec for port in traced.ports])
    return sorted(path for path in found if path)


def _is_marked(layer: Any, marks: Marks) -> bool:
    facts = marks.layers.get(marks.path(layer))
    return facts is not None and not facts.get("recurrent_dropout")


@contextlib.contextmanager
def _watching(acts: Callable[[], None]) -> Iterator[None]:
    """While open, `acts` is called where a seed is used or a variable written."""
    scope, generator = keras.StatelessScope, keras.random.SeedGenerator
    update, draw = scope.add_update, generator.next

    def add_update(self: Any, given: Any) -> None:
        acts()
        update(self, given)

    def following(self: Any, *args: Any, **kwargs: Any) -> Any:
        acts()
        return draw(self, *args, **kwargs)

    scope.add_update, generator.next = add_update, following
    try:
        yield
    finally:
        scope.add_update, generator.next = update, draw
