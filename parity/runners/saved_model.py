"""A TensorFlow SavedModel directory: one signature of it, forward and, where TensorFlow gives them, gradients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from isomorph.convert.errors import UsageError, one_line
from isomorph.convert.inputspec import FLOATS
from isomorph.parity.runners.arrays import ArrayRunner, Inputs, inputs_for, inputs_that_run, nest_of, plain
from isomorph.parity.runners.base import About, ParameterInfo, PortInfo, Request, Response
from isomorph.parity.runners.moved import draw_cotangent, respond_moved
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.tolerance import Array

__all__ = ["SavedModelRunner", "open_saved_model"]

SIGNATURES = ("serving_default", "serve")
NO_FLOAT64 = "a SavedModel's functions have the dtypes they were traced with"


class SavedModelRunner(ArrayRunner):
    """A signature (a ConcreteFunction that takes tensors by name) and the variables it reads.

    names: of the outputs in the order in which they are answered; nesting: of those numbers.
    """

    def __init__(self, loaded: Any, function: Any, names: Sequence[str], nesting: Any, about: About) -> None:
        super().__init__(about)
        self._loaded, self._function = loaded, function  # the object owns the variables that the function reads
        self._names, self._nesting = tuple(names), nesting
        self._variables = variables_of(function)
        self._trained = {
            name: v for name, v in self._variables.items() if v.trainable and v.dtype.is_floating and about.gradients
        }

    def respond(self, request: Request) -> Response:
        """See `Runner`. Raises whatever TensorFlow raises."""
        if request.perturbation is not None:
            return respond_moved(self, request)
        before = {name: v.numpy() for name, v in self._variables.items() if not v.trainable}
        device, _, number = self._about.device.partition(":")
        try:
            with tf.device(f"/{'GPU' if device != 'cpu' else 'CPU'}:{number or 0}"):
                return self._respond(request)
        finally:
            for name, value in before.items():
                self._variables[name].assign(value)

    def _respond(self, request: Request) -> Response:
        given = {
            port.name: tf.convert_to_tensor(array)
            for port, array in zip(self._about.inputs, self.inputs(request), strict=True)
        }
        pull = request.backward and self._about.gradients
        sources = {name: t for name, t in given.items() if t.dtype.is_floating} if pull else {}
        with tf.GradientTape() as tape:
            for source in sources.values():
                tape.watch(source)
            outputs = self.ordered(self._function(**given))
        found = [output.numpy() for output in outputs]
        buffers = {name: plain(self._variables[name].numpy()) for name in self.buffers()}
        if not pull:
            return self.response(request, self._nesting, found, buffers=buffers)
        cotangents = self._cotangents(request, outputs)
        wrt = [*sources.values(), *self._trained.values()]
        gradients = _gradients(tape, outputs, cotangents, wrt)
        names = [*sources, *self._trained]
        arrays = [plain(np.zeros(w.shape, w.dtype.as_numpy_dtype) if g is None else g.numpy())
                  for g, w in zip(gradients, wrt, strict=True)]  # fmt: skip
        count = len(sources)
        return self.response(
            request, self._nesting, found, buffers=buffers, cotangents=tuple(cotangents),
            input_gradients=dict(zip(names[:count], arrays[:count], strict=True)),
            parameter_gradients=dict(zip(names[count:], arrays[count:], strict=True)),
        )  # fmt: skip

    def ordered(self, result: Any) -> list[Any]:
        """The outputs in the order of `names`."""
        if not isinstance(result, Mapping):
            return list(tf.nest.flatten(result))
        return [result[name] for name in self._names]

    def _cotangents(self, request: Request, outputs: Sequence[Any]) -> list[Array | None]:
        if request.cotangents is not None:
            return list(request.cotangents)
        return [
            draw_cotangent(request.seed, index, tuple(y.shape), self._about.precision) if y.dtype.is_floating else None
            for index, y in enumerate(outputs)
        ]

    def parameters(self) -> dict[str, ParameterInfo]:
        """The trainable variables, under their names in the file."""
        return self._infos(True)

    def buffers(self) -> dict[str, ParameterInfo]:
        """The float variables that are not trainable."""
        return self._infos(False)

    def _infos(self, trainable: bool) -> dict[str, ParameterInfo]:
        return {
            name: ParameterInfo(name, tuple(v.shape), v.dtype.name, trainable)
            for name, v in self._variables.items()
            if bool(v.trainable) == trainable and v.dtype.is_floating
        }

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        return {name: plain(v.numpy()) for name, v in self._variables.items() if v.dtype.is_floating}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`."""
        for name, array in state.items():
            if name in self._variables:
                self._variables[name].assign(tf.cast(np.asarray(array), self._variables[name].dtype))


def open_saved_model(spec: ModelSpec) -> Opened:
    """A directory with a saved_model.pb. UsageError: there is none, TensorFlow cannot load it, it has no usable
    signature, or the inputs do not fit."""
    path = Path(os.fspath(spec.target))
    if not (path / "saved_model.pb").is_file() and not (path / "saved_model.pbtxt").is_file():
        raise UsageError(f"{path}: no SavedModel (there is no saved_model.pb in it)")
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if not spec.device.startswith("cpu") and not tf.config.list_physical_devices("GPU"):
        raise UsageError(f"device {spec.device}: TensorFlow sees no GPU here")
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises several types, for a folder that is not what it says
        raise UsageError(f"{path}: TensorFlow cannot load it: {one_line(error)}") from error
    name, function = _signature(path, loaded)
    # by name: TensorFlow gives both in an order that changes from process to process
    ports = tuple(_port(n, s) for n, s in sorted(function.structured_input_signature[1].items()))
    inputs = inputs_for(spec, ports)
    results = function.structured_outputs
    given = (
        sorted(results)
        if isinstance(results, Mapping)
        else [f"output_{i}" for i in range(len(tf.nest.flatten(results)))]
    )
    order, nesting = nest_of(given)
    names = [given[index] for index in order]
    specs = [results[n] for n in names] if isinstance(results, Mapping) else tf.nest.flatten(results)
    about = About(
        "saved_model", inputs.ports, tuple(_port(n, s) for n, s in zip(names, specs, strict=True)), modes=("eval",),
        float64=False, precision=_precision(function), device=spec.device, sizes=inputs.sizes,
        missing={"float64": NO_FLOAT64},
        environment={"tensorflow": str(tf.__version__), "signature": name},
    )  # fmt: skip
    runner = SavedModelRunner(loaded, function, names, nesting, about)
    inputs = inputs_that_run(spec, inputs, lambda arrays: runner.respond(Request(arrays, "eval", backward=False)))
    reason = _no_gradient(runner, inputs)
    if reason:
        about = replace(about, gradients=False, missing={**about.missing, "gradients": reason})
    return Opened(SavedModelRunner(loaded, function, names, nesting, about), inputs.arrays, inputs.values)


def variables_of(function: Any) -> dict[str, Any]:
    """Name -> variable; the second of two with one name is name#2."""
    found: dict[str, Any] = {}
    for variable in function.variables:
        name = variable.name.removesuffix(":0")
        count = sum(known.partition("#")[0] == name for known in found)
        found[name if not count else f"{name}#{count + 1}"] = variable
    return found


def _signature(path: Path, loaded: Any) -> tuple[str, Any]:
    signatures = dict(getattr(loaded, "signatures", {}))
    for name in SIGNATURES:
        if name in signatures:
            return name, signatures[name]
    if len(signatures) == 1:
        return next(iter(signatures.items()))
    has = f"has the signatures {', '.join(signatures)}" if signatures else "has no signatures"
    raise UsageError(f"{path}: {has}; one of them must be called serving_default or serve")


def _port(name: str, spec: Any) -> PortInfo:
    dims = None
    if spec.shape.rank is not None:
        dims = tuple("batch" if d is None and axis == 0 else d for axis, d in enumerate(spec.shape.as_list()))
    return PortInfo(name, spec.dtype.name, dims)


def _precision(function: Any) -> str:
    """The narrowest floating dtype of its inputs and variables."""
    seen = {s.dtype.name for s in function.structured_input_signature[1].values()} | {
        v.dtype.name for v in function.variables
    }
    return next((dtype for dtype in ("bfloat16", "float16", "float32", "float64") if dtype in seen), "float32")


def _no_gradient(runner: SavedModelRunner, inputs: Inputs) -> str:
    """Why the loaded function cannot be differentiated, tried once; "" if it can, or refuses the inputs anyway."""
    if not (runner.parameters() or any(p.dtype in FLOATS for p in inputs.ports)):
        return "it has neither float inputs nor trainable variables"
    try:
        runner.respond(Request(inputs.arrays, "eval", backward=False))
    except Exception:  # the example does not suit it: whoever asks again will see
        return ""
    try:
        runner.respond(Request(inputs.arrays, "eval", backward=True))
    except Exception as error:
        return f"TensorFlow cannot differentiate the loaded function: {one_line(error)}"
    return ""


def _gradients(tape: Any, outputs: Sequence[Any], cotangents: Sequence[Array | None], wrt: Sequence[Any]) -> list[Any]:
    pairs = [
        (y, tf.cast(c, y.dtype))
        for y, c in zip(outputs, cotangents, strict=False)
        if c is not None and y.dtype.is_floating and tuple(c.shape) == tuple(y.shape)
    ]
    if not pairs or not wrt:
        return [None] * len(wrt)
    found = tape.gradient([y for y, _ in pairs], list(wrt), output_gradients=[c for _, c in pairs])
    return [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in found]
