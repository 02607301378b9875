"""The converted model: a `Conversion` (isomorph.convert.conversion) on Keras' TensorFlow, JAX or torch backend."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from isomorph.convert.errors import UnsupportedError
from isomorph.parity.runners.base import ParameterInfo, Request, Response, align
from isomorph.parity.strategies import evaluate_dim
from isomorph.parity.tolerance import Array

__all__ = ["KerasRunner", "RandomSiteError"]


class RandomSiteError(RuntimeError):
    """The recorded draws do not correspond to the converted model's random sites."""


class KerasRunner:
    """A Conversion behind the `Runner` protocol. The conversion's own model is used, and left as it was after each
    run."""

    def __init__(self, conversion: Any, dtype: str = "own") -> None:
        self.dtype = dtype
        self._conversion = conversion
        self._model = conversion.model
        backend = keras.backend.backend()
        if backend not in _VJP:
            raise UnsupportedError(f"no runner for Keras' {backend} backend; known: {', '.join(sorted(_VJP))}")
        self._vjp = _VJP[backend]
        trainable = {id(variable) for variable in self._model.trainable_variables}
        self._entries = {
            entry.torch_name: entry for entry in conversion.weights if entry.kind in ("parameter", "buffer")
        }
        self._trained = [
            entry
            for entry in self._entries.values()
            if entry.kind == "parameter" and entry.tied_to is None and id(entry.variable) in trainable
        ]
        self._buffers = {name: entry for name, entry in self._entries.items() if entry.kind == "buffer"}
        self._trainable_ids = trainable
        self._volatile = [v for v in self._model.variables if id(v) not in trainable]

    def to_float64(self) -> KerasRunner:
        """See `Runner`."""
        return KerasRunner(self._conversion.with_dtype("float64"), "float64")

    def parameters(self) -> dict[str, ParameterInfo]:
        """See `Runner`; trainable as the optimiser will see it: the variable is in `model.trainable_variables`."""
        return self._infos("parameter")

    def buffers(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return self._infos("buffer")

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        return {name: _torch_array(entry) for name, entry in self._entries.items()}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`."""
        for name, array in state.items():
            entry = self._entries.get(name)
            if entry is not None:
                entry.variable.assign(np.asarray(entry.to_keras(np.asarray(array))))

    def input_names(self) -> tuple[str, ...]:
        """The ports' names, in flat order."""
        return tuple(port.name for port in self._conversion.inputs)

    def respond(self, request: Request) -> Response:
        """See `Runner`. Raises RandomSiteError if the draws do not fit the sites, and whatever the model raises."""
        draws = self._sites(request)
        saved = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._volatile]
        arrays = [port.to_keras(array) for port, array in zip(self._conversion.inputs, request.inputs, strict=True)]
        tensors = [_tensor(a, port.dtype) for a, port in zip(arrays, self._conversion.inputs, strict=True)]
        context = self._conversion.replay(draws) if draws else contextlib.nullcontext()
        try:
            with context:
                outputs, inputs, parameters = self._vjp(self, tensors, request)
            buffers = {name: _torch_array(entry) for name, entry in self._buffers.items()}
        finally:
            for variable, value in zip(self._volatile, saved, strict=True):
                variable.assign(value)
        structure, arrays_out, dtypes = self._outputs(outputs, request)
        places = align(request.structure, structure)
        extra = len(arrays_out) - len(places) if places is not None else 0
        if places is not None and extra:
            structure = request.structure
            arrays_out, dtypes = tuple(arrays_out[i] for i in places), tuple(dtypes[i] for i in places)
        return Response(
            arrays_out,
            dtypes,
            structure,
            {
                port.name: _wide(port.to_torch(np.zeros(np.shape(array), np.float32) if g is None else _numpy(g)))
                for port, array, g in zip(self._conversion.inputs, arrays, inputs, strict=True)
                if _is_float(port.dtype)
            },
            {
                entry.torch_name: _wide(
                    entry.to_torch(np.zeros(entry.variable.shape, np.float32) if g is None else _numpy(g))
                )
                for entry, g in zip(self._trained, parameters, strict=True)
            }
            if request.backward
            else {},
            buffers,
            request.cotangents or (),
            request.draws or (),
            extra,
        )

    def cotangents(self, request: Request, outputs: Sequence[Any]) -> list[Any | None]:
        """The request's cotangents as tensors in the outputs' layout; None where there is none or the shape differs."""
        leaves = self._leaf_numbers(len(outputs))
        structure = _nest(self._conversion.output_structure, {place: index for index, place in enumerate(leaves)})
        places = align(request.structure, structure)
        given: dict[int, Array | None] = dict(enumerate(request.cotangents or ()))
        if places is not None:
            given = {place: given.get(index) for index, place in enumerate(places)}
        result: list[Any | None] = []
        tensors = [index for index, place in enumerate(leaves) if place not in self._constants]
        for index, port, output in zip(tensors, self._conversion.outputs, outputs, strict=True):
            cotangent = given.get(index)
            if cotangent is None or not _is_float(keras.backend.standardize_dtype(output.dtype)):
                result.append(None)
                continue
            array = port.to_keras(cotangent) if cotangent.ndim == len(output.shape) else cotangent
            result.append(_tensor(array, output.dtype) if tuple(array.shape) == tuple(output.shape) else None)
        return result

    @property
    def _constants(self) -> dict[int, Any]:
        """Leaf number -> what the original returns there, for outputs that are no tensors."""
        return dict(getattr(self._conversion, "output_constants", {}))

    def _leaf_numbers(self, tensors: int) -> list[int]:
        """The leaf numbers that are arrays: tensors, and numbers that the original returns."""
        numbers = {n for n, value in self._constants.items() if isinstance(value, bool | int | float | str)}
        return [n for n in range(tensors + len(self._constants)) if n not in self._constants or n in numbers]

    def flatten(self, result: Any) -> list[Any]:
        """The model's result as a flat list in the order of the conversion's outputs."""
        return list(self._conversion.flatten_outputs(result))

    def _outputs(self, outputs: Sequence[Any], request: Request) -> tuple[Any, tuple[Array, ...], tuple[str, ...]]:
        """The nesting, and the flat arrays with their dtypes, numbers that the original returns included."""
        leaves: dict[int, tuple[Array, str]] = {}
        constants, numbers = self._constants, self._leaf_numbers(len(outputs))
        places = [number for number in numbers if number not in constants]
        for place, port, tensor in zip(places, self._conversion.outputs, outputs, strict=True):
            leaves[place] = _wide(port.to_torch(_numpy(tensor))), keras.backend.standardize_dtype(tensor.dtype)
        for place in numbers:
            if place in constants:
                value = constants[place]
                number = evaluate_dim(value, self._sizes(request)) if isinstance(value, str) else value
                name = "bool" if isinstance(number, bool) else "int64" if isinstance(number, int) else "float32"
                leaves[place] = np.asarray(number, name), name
        arrays, dtypes = zip(*(leaves[place] for place in numbers), strict=True) if numbers else ((), ())
        nesting = _nest(self._conversion.output_structure, {place: index for index, place in enumerate(numbers)})
        return nesting, tuple(arrays), tuple(dtypes)

    def _sizes(self, request: Request) -> dict[str, int]:
        """The size of each dim that is an axis by itself."""
        return {
            dim: array.shape[axis]
            for port, array in zip(self._conversion.inputs, request.inputs, strict=True)
            for axis, dim in enumerate(port.dims)
            if isinstance(dim, str) and dim.isidentifier()
        }

    def _sites(self, request: Request) -> dict[int, Array]:
        """Site index -> array, for all sites, or none.

        In train mode every site has its draw. In eval mode dropout does not draw, and what is of train mode alone is
        computed and thrown away, so there the recorded draws are those of some of the sites, or of none.
        """
        draws, sites = request.draws or (), tuple(self._conversion.random_sites)
        if not draws and request.mode != "train":
            return {}
        drawing = sites
        if request.mode != "train" and len(draws) != len(sites):
            drawing = tuple(site for site in sites if "dropout" not in str(site.op))
        if len(draws) != len(drawing):
            raise RandomSiteError(
                f"the original draws {len(draws)} times in {request.mode} mode ({_list(d.op for d in draws)}), "
                f"the converted model {len(drawing)} times ({_list(str(s.op) for s in drawing)})"
            )
        arrays = {site.index: np.ones((), np.float32) for site in sites}  # for those that do not draw in this mode
        return {**arrays, **{site.index: draw.values for site, draw in zip(drawing, draws, strict=True)}}

    def _infos(self, kind: str) -> dict[str, ParameterInfo]:
        return {
            name: ParameterInfo(
                name, tuple(_torch_array(entry).shape), keras.backend.standardize_dtype(entry.variable.dtype),
                id(entry.variable) in self._trainable_ids, entry.tied_to,
            )
            for name, entry in self._entries.items()
            if entry.kind == kind
        }  # fmt: skip


def _vjp_tensorflow(
    runner: KerasRunner, tensors: list[Any], request: Request
) -> tuple[list[Any], list[Any], list[Any]]:
    import tensorflow as tf

    training = request.mode == "train"
    model, sources = runner._model, [t for t in tensors if t.dtype.is_floating]
    variables = [entry.variable.value for entry in runner._trained]
    arguments = tensors if len(tensors) > 1 else tensors[0]
    if not request.backward:
        return runner.flatten(model(arguments, training=training)), [None] * len(tensors), []
    with tf.GradientTape() as tape:
        for source in sources:
            tape.watch(source)
        outputs = runner.flatten(model(arguments, training=training))
    pairs = [(y, c) for y, c in zip(outputs, runner.cotangents(request, outputs), strict=True) if c is not None]
    gradients: list[Any] = [None] * (len(sources) + len(variables))
    if pairs and gradients:
        gradients = tape.gradient(
            [y for y, _ in pairs], [*sources, *variables], output_gradients=[c for _, c in pairs]
        )  # fmt: skip
    gradients = [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    given = iter(gradients[: len(sources)])
    return outputs, [next(given) if t.dtype.is_floating else None for t in tensors], gradients[len(sources) :]


def _vjp_jax(runner: KerasRunner, tensors: list[Any], request: Request) -> tuple[list[Any], list[Any], list[Any]]:
    import jax

    model, training = runner._model, request.mode == "train"
    trained = {id(entry.variable): index for index, entry in enumerate(runner._trained)}
    fixed = [variable.value for variable in model.trainable_variables]
    floating = [index for index, t in enumerate(tensors) if _is_float(str(t.dtype))]

    def call(variables: list[Any], sources: list[Any]) -> tuple[list[Any], list[Any]]:
        arguments = list(tensors)
        for index, source in zip(floating, sources, strict=True):
            arguments[index] = source
        values = [
            variables[trained[id(v)]] if id(v) in trained else fixed[i] for i, v in enumerate(model.trainable_variables)
        ]
        result, state = model.stateless_call(
            values, [v.value for v in model.non_trainable_variables],
            arguments if len(arguments) > 1 else arguments[0], training=training,
        )  # fmt: skip
        return runner.flatten(result), state

    variables = [entry.variable.value for entry in runner._trained]
    sources = [tensors[index] for index in floating]
    if not request.backward:
        outputs, state = call(variables, sources)
        gradients: list[Any] = []
        inputs: list[Any] = [None] * len(tensors)
    else:
        outputs, pull, state = jax.vjp(call, variables, sources, has_aux=True)
        given = runner.cotangents(request, outputs)
        wanted = [_cotangent_jax(y, c) for y, c in zip(outputs, given, strict=True)]
        gradients, by_source = pull(wanted)
        found = dict(zip(floating, by_source, strict=True))
        inputs = [found.get(index) for index in range(len(tensors))]
    for variable, value in zip(model.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return outputs, inputs, gradients


def _cotangent_jax(output: Any, given: Any | None) -> Any:
    import jax

    if given is not None:
        return given
    if _is_float(str(output.dtype)):
        return np.zeros(output.shape, output.dtype)
    return np.zeros(output.shape, jax.dtypes.float0)


_VJP = {"tensorflow": _vjp_tensorflow, "jax": _vjp_jax}


def _nest(value: Any, order: Mapping[int, int]) -> Any:
    """A nesting of leaf numbers with the numbers of the arrays instead; None for a leaf that is no array."""
    if isinstance(value, Mapping):
        return {str(key): _nest(item, order) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nest(item, order) for item in value]
    return order.get(value)


def _torch_array(entry: Any) -> Array:
    return _wide(entry.to_torch(_numpy(entry.variable)))


def _numpy(tensor: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _wide(array: Any) -> Array:
    given: Array = np.asarray(array)
    return np.asarray(given, np.float32) if str(given.dtype) in ("bfloat16", "float16") else given


def _tensor(array: Array, dtype: Any) -> Any:
    return keras.ops.cast(keras.ops.convert_to_tensor(array), keras.backend.standardize_dtype(dtype))


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


def _list(names: Any) -> str:
    return ", ".join(names) or "none"
