"""A Keras model seen from inside: every call of every layer and nested model, and the operations between them.

On every backend: layers, nested models and the operations of Functional graphs. On the TensorFlow backend also every
TensorFlow op that is run eagerly, whoever runs it, and gradients.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from isomorph.parity.explaining.flow import TracedCall
from isomorph.parity.runners.base import Request
from isomorph.parity.runners.keras_runner import KerasRunner, tensor
from isomorph.parity.tolerance import Array

__all__ = ["call_keras_alone", "trace_keras"]

OPERATION_BYTES = 1 << 30  # what the arrays of ops may take; beyond it layers alone are recorded
NO_VALUES = ("Identity", "ReadVariableOp", "Shape")  # what moves or describes values
WHOLE = (keras.layers.RNN, keras.layers.Bidirectional)  # their steps are not calls of their own


@dataclass
class _Seen:
    """One call. tensors are the backend's."""

    operation: Any
    path: str
    kind: str
    call: int
    function: bool
    inputs: list[Any]
    outputs: list[Any]
    arguments: Any = None


@dataclass
class _Frame:
    path: str
    whole: bool


def trace_keras(runner: KerasRunner, request: Request) -> tuple[TracedCall, ...]:
    """One run of the converted model, in order of completion, arrays in Keras' own axis order.

    path: layer names from the model inwards, joined by dots, "" for the model itself; for a TensorFlow op
    that of the layer it runs in. Gradients on the TensorFlow backend, if the request asks for them. Raises what the
    model raises.
    """
    tracer = _Tracer(runner, request)
    with runner.running(request):
        calls = tracer.run()
    _LAST[runner] = tracer
    return calls


def call_keras_alone(runner: KerasRunner, index: int, inputs: Sequence[Array]) -> tuple[Array, ...] | None:
    """Call number `index` of the runner's last trace again, alone, on these inputs (its own axis order): its outputs.
    None where it is no layer's, or refuses."""
    tracer = _LAST.get(runner)
    return None if tracer is None else tracer.again(index, inputs)


_LAST: weakref.WeakKeyDictionary[KerasRunner, _Tracer] = weakref.WeakKeyDictionary()


class _Tracer:
    def __init__(self, runner: KerasRunner, request: Request) -> None:
        self._runner = weakref.proxy(runner)
        self._request = request
        self._gradients = request.backward and keras.backend.backend() == "tensorflow"
        self._seen: list[_Seen] = []
        self._stack: list[_Frame] = []
        self._counts: dict[str, int] = {}
        self._watch: Callable[[Any], None] = lambda _: None
        self._bytes = 0
        self._thread = threading.get_ident()

    def run(self) -> tuple[TracedCall, ...]:
        """The calls of one run."""
        runner, request = self._runner, self._request
        arrays = [port.to_keras(a) for port, a in zip(runner.conversion.inputs, request.inputs, strict=True)]
        tensors = [tensor(a, port.dtype) for a, port in zip(arrays, runner.conversion.inputs, strict=True)]
        if not self._gradients:
            with self._recording():
                runner.call(tensors, request)
            return self._calls({})
        import tensorflow as tf

        with tf.GradientTape() as tape:
            self._watch = tape.watch
            with self._recording():
                outputs = runner.flatten(runner.call(tensors, request))
        cotangents = runner._cotangents(request, outputs, runner._nesting(len(outputs), request))
        pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if c is not None]
        sources = {id(t): t for seen in self._seen for t in (*seen.inputs, *seen.outputs) if _is_float(t)}
        gradients: list[Any] = [None] * len(sources)
        if pairs and sources:
            gradients = tape.gradient(
                [y for y, _ in pairs], list(sources.values()), output_gradients=[c for _, c in pairs]
            )
        return self._calls({k: _numpy(g) for k, g in zip(sources, gradients, strict=True) if g is not None})

    def again(self, index: int, inputs: Sequence[Array]) -> tuple[Array, ...] | None:
        """See `call_keras_alone`."""
        seen = self._seen[index]
        if seen.function or seen.arguments is None or len(inputs) != len(seen.inputs):
            return None
        given = iter(tensor(np.asarray(a), t.dtype) for a, t in zip(inputs, seen.inputs, strict=True))
        args, kwargs = keras.tree.map_structure(lambda t: next(given) if _is_tensor(t) else t, seen.arguments)
        try:
            with self._runner.running(self._request):
                result = seen.operation(*args, **kwargs)
        except Exception:  # a layer that cannot be called on these alone: there is no local error
            return None
        return tuple(_numpy(t) for t in keras.tree.flatten(result) if _is_tensor(t))

    def _calls(self, gradients: dict[int, Array]) -> tuple[TracedCall, ...]:
        return tuple(
            TracedCall(
                seen.path, seen.kind, seen.call,
                tuple(map(_numpy, seen.inputs)), tuple(map(_numpy, seen.outputs)),
                tuple(gradients.get(id(t)) for t in seen.inputs), tuple(gradients.get(id(t)) for t in seen.outputs),
                function=seen.function,
            )
            for seen in self._seen
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------------------- recording
    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """While open, calls of layers and operations in this thread are recorded."""
        layer, operation = keras.Layer.__call__, keras.Operation.__call__
        tracer = self

        def call_layer(this: Any, *args: Any, **kwargs: Any) -> Any:
            return tracer._layer(layer, this, args, kwargs)

        def call_operation(this: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(this, keras.Layer):
                return operation(this, *args, **kwargs)
            return tracer._operation(operation, this, args, kwargs)

        keras.Layer.__call__, keras.Operation.__call__ = call_layer, call_operation
        try:
            with self._eager_ops() if keras.backend.backend() == "tensorflow" else contextlib.nullcontext():
                yield
        finally:
            keras.Layer.__call__, keras.Operation.__call__ = layer, operation

    @property
    def _closed(self) -> bool:
        return threading.get_ident() != self._thread or bool(self._stack and self._stack[-1].whole)

    def _layer(self, call: Any, layer: Any, args: Any, kwargs: Any) -> Any:
        if self._closed or (layer is not self._runner.model and not self._stack):
            return call(layer, *args, **kwargs)
        path = ".".join(part for part in (self._stack[-1].path, layer.name) if part) if self._stack else ""
        inputs: list[Any] = []
        args, kwargs = keras.tree.map_structure(lambda t: self._handed_on(t, inputs), (args, kwargs))
        if not self._stack:
            for given in inputs:
                if _is_float(given):
                    self._watch(given)
        self._stack.append(_Frame(path, isinstance(layer, WHOLE)))
        try:
            result = call(layer, *args, **kwargs)
        finally:
            self._stack.pop()
        outputs: list[Any] = []
        result = keras.tree.map_structure(lambda t: self._handed_on(t, outputs), result)
        self._add(layer, path, type(layer).__name__, False, inputs, outputs, (args, kwargs))
        return result

    def _operation(self, call: Any, operation: Any, args: Any, kwargs: Any) -> Any:
        if self._closed or not self._stack:
            return call(operation, *args, **kwargs)
        inputs: list[Any] = []
        args, kwargs = keras.tree.map_structure(lambda t: self._handed_on(t, inputs), (args, kwargs))
        result = call(operation, *args, **kwargs)
        outputs = [t for t in keras.tree.flatten(result) if _is_tensor(t)]
        if outputs:
            path = f"{self._stack[-1].path}.{operation.name}".lstrip(".")
            self._add(operation, path, type(operation).__name__, True, inputs, outputs)
        return result

    def _add(
        self, operation: Any, path: str, kind: str, function: bool, inputs: list[Any], outputs: list[Any],
        arguments: Any = None,
    ) -> None:  # fmt: skip
        if outputs:
            key = f"{path}:{kind}" if function else path
            number = self._counts.get(key, 0)
            self._counts[key] = number + 1
            self._seen.append(_Seen(operation, path, kind, number, function, inputs, outputs, arguments))

    def _handed_on(self, leaf: Any, seen: list[Any]) -> Any:
        """A tensor as a copy of its own where there are gradients: that of this call alone. Keras' mask goes with
        it."""
        if not _is_tensor(leaf):
            return leaf
        if self._gradients:
            import tensorflow as tf

            mask = getattr(leaf, "_keras_mask", None)
            leaf = tf.identity(leaf)
            if mask is not None:
                leaf._keras_mask = mask
        seen.append(leaf)
        return leaf

    @contextlib.contextmanager
    def _eager_ops(self) -> Iterator[None]:
        """While open, ops that TensorFlow runs eagerly are recorded. Its debugger stands on this interface."""
        try:
            from tensorflow.python.framework import op_callbacks

            op_callbacks.add_op_callback(self._eager_op)
        except (ImportError, AttributeError):  # private to TensorFlow: without it layers alone are seen
            yield
            return
        try:
            yield
        finally:
            op_callbacks.remove_op_callback(self._eager_op)

    def _eager_op(
        self, name: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
    ) -> None:
        if graph is not None or self._closed or not self._stack or self._bytes > OPERATION_BYTES:
            return
        text = name.decode() if isinstance(name, bytes) else str(name)
        made = [t for t in outputs if _is_tensor(t)]
        if text in NO_VALUES or not made:
            return
        self._bytes += sum(int(np.prod(t.shape)) * 8 for t in made)
        self._add(None, self._stack[-1].path, f"tf.{text}", True, [], made)


def _is_tensor(value: Any) -> bool:
    return bool(keras.ops.is_tensor(value)) and not isinstance(value, keras.KerasTensor) and hasattr(value, "__array__")


def _is_float(value: Any) -> bool:
    return str(keras.backend.standardize_dtype(value.dtype)).startswith(("float", "bfloat"))


def _numpy(value: Any) -> Array:
    if type(value).__name__ == "IndexedSlices":
        import tensorflow as tf

        value = tf.convert_to_tensor(value)
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return array.astype(np.float32) if str(array.dtype) in ("bfloat16", "float16") else array
