"""While a model is traced: which layer each part of the graph comes from, and markers in the place of the layers that
must survive as one op.

A marker is TensorFlow's `PyFuncStateless`: any number of tensors in and out, and a text that nothing runs. The text is
JSON: {"op", "domain", "attributes", "absent", "shapes", "call"}. Whatever must be arranged for the ONNX op (axes, the
order of gates) is arranged by TensorFlow ops before and behind it: native.py has only to put the op in its place.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

__all__ = ["DOMAIN", "MARKER", "Marks", "layer_paths", "marked"]

MARKER = "PyFuncStateless"
DOMAIN = "isomorph"  # of the model-local functions: what acts in train mode alone and is no ONNX op
Output = tuple[Sequence[int | None], Any]  # shape and dtype


class Marks:
    """What is known of a model's layers, and what was marked in it.

    opset: that the model is written in. paths: a layer's path by its id. scopes: TensorFlow's name scope to the path of
    the layer that opened it, and a marker to its layer's. layers: what provenance says of marked layers, by path.
    kinds: ops of the markers, each call. marking: the path of the layer that marks itself now.
    """

    def __init__(self, model: Any, opset: int) -> None:
        self.opset = opset
        self.paths = {key: "/".join(path) for key, path in layer_paths(model).items()}
        self.scopes: dict[str, str] = {}
        self.layers: dict[str, dict[str, Any]] = {}
        self.kinds: list[str] = []
        self.marking: str | None = None

    def layer_of(self, node: str) -> str | None:
        """The path of the layer whose call made the node, the innermost one."""
        if node in self.scopes:  # a marker
            return self.scopes[node]
        scope = node
        while scope := scope.rpartition("/")[0]:
            if scope in self.scopes:
                return self.scopes[scope] or None
        return None

    def keep(self, layer: Any, **facts: Any) -> None:
        """The layer was marked; facts go into the provenance."""
        self.layers[self.path(layer)] = {"class": type(layer).__name__, **facts}

    def path(self, layer: Any) -> str:
        """Where the layer is in the model."""
        return self.paths.get(id(layer), str(layer.name))

    def mark(
        self,
        op: str,
        inputs: Sequence[Any],
        outputs: Sequence[Output],
        attributes: dict[str, Any] | None = None,
        domain: str = "",
    ) -> list[Any]:
        """A marker of one ONNX op; None among the inputs is an input that is left out."""
        given = [x for x in inputs if x is not None]
        shapes = [[-1 if d is None else int(d) for d in shape] for shape, _ in outputs]
        token = {
            "op": op,
            "domain": domain,
            "attributes": attributes or {},
            "absent": [i for i, x in enumerate(inputs) if x is None],
            "shapes": shapes,
            "call": len(self.kinds),  # so that two calls of one layer on one tensor stay two ops
        }
        self.kinds.append(f"{domain}.{op}" if domain else op)
        kinds = [tf.as_dtype(dtype) for _, dtype in outputs]
        made = tf.raw_ops.PyFuncStateless(input=given, token=json.dumps(token, sort_keys=True), Tout=kinds)
        if self.marking is not None:  # a wrapper may have called the layer within its own scope
            self.scopes[made[0].op.name] = self.marking
        return [tf.ensure_shape(y, tuple(shape)) for y, (shape, _) in zip(made, outputs, strict=True)]


def layer_paths(model: Any) -> dict[int, tuple[str, ...]]:
    """Each layer's names from the model inwards, by the layer's id; sublayers of any layer included."""
    paths: dict[int, tuple[str, ...]] = {id(model): ()}
    queue = [model]
    for layer in queue:
        for child in layer._layers:
            if id(child) not in paths:
                paths[id(child)] = (*paths[id(layer)], child.name)
                queue.append(child)
    return paths


@contextlib.contextmanager
def marked(model: Any, marks: Marks) -> Iterator[None]:
    """While open, every layer's call tells `marks` its name scope, and the layers to be kept whole mark themselves."""
    from .marked_layers import marking
    from .plain_ops import plain_ops

    def wrapped(layer: Any) -> Callable[..., Any]:
        mark = marking(layer)
        return _recorded(layer, layer.call if mark is None else _kept(layer, layer.call, mark, marks), marks)

    with calls_replaced(model, wrapped), _one_grouped_convolution(), plain_ops(marks):
        yield


@contextlib.contextmanager
def _one_grouped_convolution() -> Iterator[None]:
    """While open, isomorph's grouped convolutions are Keras' own: one op, which ONNX has."""
    from isomorph.convert.nn_layers import _Grouped

    split = _Grouped.convolution_op

    def whole(self: Any, inputs: Any, kernel: Any) -> Any:
        return super(_Grouped, self).convolution_op(inputs, kernel)

    _Grouped.convolution_op = whole  # type: ignore[method-assign]
    try:
        yield
    finally:
        _Grouped.convolution_op = split  # type: ignore[method-assign]


@contextlib.contextmanager
def calls_replaced(model: Any, make: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make(layer)` is each layer's `call`."""
    layers = list({id(x): x for x in [model, *model._flatten_layers(include_self=False, recursive=True)]}.values())
    before = [layer.__dict__.get("call") for layer in layers]
    try:
        for layer in layers:
            layer.__dict__["call"] = make(layer)
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.__dict__.pop("call", None)
            if own is not None:
                layer.__dict__["call"] = own


def _recorded(layer: Any, call: Callable[..., Any], marks: Marks) -> Callable[..., Any]:
    path = marks.path(layer)

    @functools.wraps(call)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        marks.scopes.setdefault(tf.get_current_name_scope(), path)
        return call(*args, **kwargs)

    return recorded


def _kept(layer: Any, call: Callable[..., Any], mark: Callable[..., Any], marks: Marks) -> Callable[..., Any]:
    """The marker where the layer can be one in this call, else what the layer computes."""

    @functools.wraps(call)
    def kept(*args: Any, **kwargs: Any) -> Any:
        marks.marking = marks.path(layer)
        made = mark(layer, marks, *args, **kwargs)
        return call(*args, **kwargs) if made is None else made

    return kept
