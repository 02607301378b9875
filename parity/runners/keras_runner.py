"""A Keras model on Keras' TensorFlow, JAX or torch backend: a `Conversion` of ours, or any other by `keras_model`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.convert.keras_dtype import default_dtype, float64_kept
from isomorph.convert.weights import numpy_of
from isomorph.parity.drawing.strategies import evaluate_dim
from isomorph.parity.runners import keras_device, keras_random
from isomorph.parity.runners.arrays import inputs_of
from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, PortInfo, Recorded, Request, Response, align
from isomorph.parity.runners.keras_vjp import BACKENDS, is_float, pull_back
from isomorph.parity.runners.moved import draw_cotangent, respond_moved
from isomorph.parity.tolerance import Array

__all__ = ["KerasRunner", "RandomSiteError"]


class RandomSiteError(RuntimeError):
    """The recorded draws do not correspond to the converted model's random sites."""


@dataclass
class _Run:
    """What one run leaves behind besides gradients: how the outputs nest, and the cotangents used."""

    places: list[int]
    structure: Any
    aligned: list[int] | None
    cotangents: tuple[Array | None, ...] = ()


class KerasRunner:
    """A Conversion behind the `Runner` protocol. Its own model is used, and left as it was after each run.

    conversion: see docs/architecture.md; `parity.runners.keras_model.Plain` is one for a model that was not converted
    here. dtype: "own" or "float64". device: where its tensors are put, "cpu" or "cuda[:N]". example: inputs that it
    accepts, in torch's axis order.
    """

    def __init__(
        self, conversion: Any, dtype: str = "own", device: str = "cpu", example: tuple[Array, ...] | None = None
    ) -> None:
        self.example = example
        self.dtype, self.device = dtype, device
        self.conversion, self.model = conversion, conversion.model
        backend = keras.backend.backend()
        if backend not in BACKENDS:
            raise UnsupportedError(f"no runner for Keras' {backend} backend; known: {', '.join(sorted(BACKENDS))}")
        trainable = {id(variable) for variable in self.model.trainable_variables}
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
        self._volatile = [v for v in self.model.variables if id(v) not in trainable]
        self._own = own_dtype(self.model)
        self._drawn: Any = None

    # ------------------------------------------------------------------------------------------------------ what it is
    def about(self) -> About:
        """See `Runner`."""
        conversion = self.conversion
        missing = dict(getattr(conversion, "missing", {}))
        if getattr(conversion, "_remake", True) is None:
            missing["float64"] = "the conversion was put together by hand, without the graph to emit again"
        return About(
            "keras",
            tuple(PortInfo(p.name, p.dtype, tuple(p.dims)) for p in conversion.inputs),
            tuple(PortInfo(p.name, p.dtype, tuple(p.dims)) for p in conversion.outputs),
            modes=("eval",) if getattr(conversion, "mode", "both") == "eval" else ("eval", "train"),
            float64="float64" not in missing,
            replays=bool(getattr(conversion, "replays", True)),
            mapped=bool(getattr(conversion, "mapped", True)),
            precision="float64" if self.dtype == "float64" else self._own,
            device=self.device,
            sizes=dict(getattr(conversion, "bounds", None) or {}),
            missing=missing,
            environment=keras_device.environment(),
            notes=tuple(getattr(conversion, "notes", ())),
        )

    def index_bounds(self) -> dict[str, int]:
        """See `Runner`: seen on one run of the example, or of inputs made up from the ports."""
        arrays = keras_random.telling_indices(self.example or inputs_of(self.about().inputs))
        names = self.input_names()
        watched = {name: array for name, array in zip(names, arrays, strict=True) if array.dtype.kind in "iu"}
        if not watched:
            return {}
        with keras_random.index_bounds(watched) as found, contextlib.suppress(Exception):  # it may refuse the example
            self.respond(Request(arrays, "eval", backward=False))
        return dict(found)

    def rates(self) -> dict[str, float]:
        """Layer path, its parts joined by dots -> the rate of dropout, or the standard deviation of noise."""
        return keras_random.rates(self.model)

    def input_names(self) -> tuple[str, ...]:
        """The ports' names, in flat order."""
        return tuple(port.name for port in self.conversion.inputs)

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

    def to_float64(self) -> KerasRunner:
        """See `Runner`."""
        with keras_device.on(self.device), float64_kept():
            twin = self.conversion.with_dtype("float64")
        return type(self)(twin, "float64", self.device, self.example)

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """See `Runner`."""
        from isomorph.parity.runners.keras_trace import trace_keras

        return tuple(trace_keras(self, request))

    def call_alone(self, index: int, inputs: Sequence[Array]) -> tuple[Array, ...] | None:
        """See `keras_trace.call_keras_alone`."""
        from isomorph.parity.runners.keras_trace import call_keras_alone

        return call_keras_alone(self, index, inputs)

    def close(self) -> None:
        """Nothing is held."""

    # ---------------------------------------------------------------------------------------------------------- running
    def respond(self, request: Request) -> Response:
        """See `Runner`. Raises RandomSiteError if the draws do not fit the sites, and whatever the model raises."""
        if request.perturbation is not None:
            return respond_moved(self, request)
        if len(request.inputs) != len(self.conversion.inputs):
            raise UsageError(f"the model takes {len(self.conversion.inputs)} inputs, got {len(request.inputs)}")
        arrays = [port.to_keras(array) for port, array in zip(self.conversion.inputs, request.inputs, strict=True)]
        run: list[_Run] = []

        def pull(outputs: list[Any]) -> list[Any | None]:
            run.append(self._nesting(len(outputs), request))
            return self._cotangents(request, outputs, run[-1])

        with self.running(request):
            tensors = [tensor(a, port.dtype) for a, port in zip(arrays, self.conversion.inputs, strict=True)]
            pulled = pull_back(
                lambda given: self.flatten(self.call(given, request)), tensors,
                [entry.variable for entry in self._trained], self._volatile, pull if request.backward else None,
            )  # fmt: skip
            buffers = {name: _torch_array(entry) for name, entry in self._buffers.items()}
        seen = run[-1] if run else self._nesting(len(pulled.outputs), request)
        draws = request.draws if request.draws is not None else self._recorded(request)
        structure, outputs, dtypes = seen.structure, *self._outputs(pulled.outputs, seen.places, request)
        extra = len(outputs) - len(seen.aligned) if seen.aligned is not None else 0
        if seen.aligned is not None and extra:
            structure = request.structure
            outputs, dtypes = tuple(outputs[i] for i in seen.aligned), tuple(dtypes[i] for i in seen.aligned)
        inputs = {
            port.name: _gradient(port, np.shape(array), g)
            for port, array, g in zip(self.conversion.inputs, arrays, pulled.inputs, strict=True)
            if request.backward and is_float(port.dtype)
        }
        parameters = {
            entry.torch_name: _gradient(entry, tuple(entry.variable.shape), g)
            for entry, g in zip(self._trained, pulled.variables, strict=True)
            if request.backward
        }
        return Response(
            outputs, dtypes, structure, inputs, parameters, buffers,
            request.cotangents if request.cotangents is not None else seen.cotangents, draws, extra,
        )  # fmt: skip

    @contextlib.contextmanager
    def running(self, request: Request) -> Iterator[None]:
        """While open, the model may be called for the request; what a run changes is put back at the end."""
        draws = self._sites(request)
        replay = self.conversion.replay(draws) if draws else contextlib.nullcontext()
        quiet = contextlib.nullcontext() if request.dropout else keras_random.without_dropout()
        wide = default_dtype("float64") if self.dtype == "float64" else contextlib.nullcontext()
        records = request.draws is None and not draws and hasattr(self.conversion, "record")
        keep = self.conversion.record() if records else contextlib.nullcontext()
        saved = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._volatile]
        try:
            with (
                keras_device.on(self.device), quiet, replay, wide, keep as self._drawn,
                keras_random.seeded(self._volatile, request.seed),
            ):  # fmt: skip
                yield
        finally:
            for variable, value in zip(self._volatile, saved, strict=True):
                variable.assign(value)

    def call(self, tensors: Sequence[Any], request: Request) -> Any:
        """The model's own result on tensors in its own layout, in the order of its inputs."""
        return self.model(tensors if len(tensors) > 1 else tensors[0], training=request.mode == "train")

    def flatten(self, result: Any) -> list[Any]:
        """The model's result as a flat list in the order of the conversion's outputs."""
        return list(self.conversion.flatten_outputs(result))

    def _nesting(self, tensors: int, request: Request) -> _Run:
        places = self._leaf_numbers(tensors)
        order = {place: index for index, place in enumerate(places)}
        structure = _nest(self.conversion.output_structure, order)
        aligned = align(request.structure, structure) if request.structure is not None else None
        return _Run(places, structure, aligned)

    def _cotangents(self, request: Request, outputs: Sequence[Any], run: _Run) -> list[Any | None]:
        """The request's cotangents, or drawn ones, as tensors in the outputs' layout; None where there is none or the
        shape differs."""
        real = [is_float(keras.backend.standardize_dtype(output.dtype)) for output in outputs]
        tensors = [index for index, place in enumerate(run.places) if place not in self._constants]
        given: dict[int, Array | None] = dict(enumerate(request.cotangents or ()))
        if request.cotangents is None:
            for index, port, output, floats in zip(tensors, self.conversion.outputs, outputs, real, strict=True):
                shape = port.to_torch(np.broadcast_to(np.zeros(()), tuple(output.shape))).shape
                given[index] = draw_cotangent(request.seed, index, shape, self._own) if floats else None
            run.cotangents = tuple(given.get(index) for index in range(len(run.places)))
        elif run.aligned is not None:
            given = {place: given.get(index) for index, place in enumerate(run.aligned)}
        result: list[Any | None] = []
        for index, port, output, floats in zip(tensors, self.conversion.outputs, outputs, real, strict=True):
            cotangent = given.get(index)
            if cotangent is None or not floats:
                result.append(None)
                continue
            array = port.to_keras(cotangent) if cotangent.ndim == len(output.shape) else cotangent
            result.append(tensor(array, output.dtype) if tuple(array.shape) == tuple(output.shape) else None)
        return result

    @property
    def _constants(self) -> dict[int, Any]:
        """Leaf number -> what the original returns there, for outputs that are no tensors."""
        return dict(getattr(self.conversion, "output_constants", {}))

    def _leaf_numbers(self, tensors: int) -> list[int]:
        """The leaf numbers that are arrays: tensors, and numbers that the original returns."""
        numbers = {n for n, value in self._constants.items() if isinstance(value, bool | int | float | str)}
        return [n for n in range(tensors + len(self._constants)) if n not in self._constants or n in numbers]

    def _outputs(
        self, outputs: Sequence[Any], numbers: Sequence[int], request: Request
    ) -> tuple[tuple[Array, ...], tuple[str, ...]]:
        """The flat arrays with their dtypes, numbers that the original returns included."""
        leaves: dict[int, tuple[Array, str]] = {}
        constants = self._constants
        places = [number for number in numbers if number not in constants]
        for place, port, output in zip(places, self.conversion.outputs, outputs, strict=True):
            leaves[place] = _wide(port.to_torch(_numpy(output))), keras.backend.standardize_dtype(output.dtype)
        for place in numbers:
            if place in constants:
                value = constants[place]
                number = evaluate_dim(value, self._sizes(request)) if isinstance(value, str) else value
                name = "bool" if isinstance(number, bool) else "int64" if isinstance(number, int) else "float32"
                leaves[place] = np.asarray(number, name), name
        arrays, dtypes = zip(*(leaves[place] for place in numbers), strict=True) if numbers else ((), ())
        return tuple(arrays), tuple(dtypes)

    def _sizes(self, request: Request) -> dict[str, int]:
        """The size of each dim that is an axis by itself."""
        return {
            dim: array.shape[axis]
            for port, array in zip(self.conversion.inputs, request.inputs, strict=True)
            for axis, dim in enumerate(port.dims)
            if isinstance(dim, str) and dim.isidentifier()
        }

    def _sites(self, request: Request) -> dict[int, Array]:
        """Site index -> array, for all sites, or none.

        In train mode every site has its draw. In eval mode dropout does not draw, and what is of train mode alone is
        computed and thrown away, so there the recorded draws are those of some of the sites, or of none.
        """
        draws, sites = request.draws or (), tuple(self.conversion.random_sites)
        if request.draws is None and not request.dropout and all(map(keras_random.drops, sites)):
            return {site.index: keras_random.idle_draw(site) for site in sites}
        if request.draws is None or (not draws and request.mode != "train"):
            return {}
        drawing = sites
        if not request.dropout or (request.mode != "train" and len(draws) != len(sites)):
            drawing = tuple(site for site in sites if not keras_random.drops(site))
        if len(draws) != len(drawing):
            raise RandomSiteError(
                f"the original draws {len(draws)} times in {request.mode} mode ({_list(d.op for d in draws)}), "
                f"the converted model {len(drawing)} times ({_list(str(s.op) for s in drawing)})"
            )
        idle = [site for site in sites if site not in drawing]  # computed and thrown away, or to have no effect
        arrays = {site.index: np.ones(()) if request.dropout else keras_random.idle_draw(site) for site in idle}
        return {**arrays, **{site.index: draw.values for site, draw in zip(drawing, draws, strict=True)}}

    def _recorded(self, request: Request) -> tuple[Recorded, ...]:
        """What the sites drew in the last run, in their order; none where that could not be seen."""
        if self._drawn is None:
            return ()
        draws = self._drawn(request.mode == "train")
        sites = {site.index: site for site in self.conversion.random_sites}
        return tuple(Recorded(str(sites[index].op), array) for index, array in sorted(draws.items()))

    def _infos(self, kind: str) -> dict[str, ParameterInfo]:
        return {
            name: ParameterInfo(
                name, tuple(_torch_array(entry).shape), keras.backend.standardize_dtype(entry.variable.dtype),
                id(entry.variable) in self._trainable_ids, entry.tied_to,
            )
            for name, entry in self._entries.items()
            if entry.kind == kind
        }  # fmt: skip


def own_dtype(model: Any) -> str:
    """The floating dtype that a model computes in: that of most of its weights, or, under a mixed policy, the compute
    dtype of its layers. float32 where neither is known."""
    counts: dict[str, int] = {}
    for variable in model.trainable_variables or model.variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if is_float(dtype):
            counts[dtype] = counts.get(dtype, 0) + int(np.prod(variable.shape))
    held = max(counts, key=lambda name: counts[name]) if counts else "float32"
    computed = {
        str(layer.compute_dtype)
        for layer in model._flatten_layers(include_self=False, recursive=True)
        if layer.weights and layer.compute_dtype != layer.variable_dtype
    }
    narrow = [dtype for dtype in ("bfloat16", "float16") if dtype in computed]
    return narrow[0] if narrow else held


def tensor(array: Array, dtype: Any) -> Any:
    """An array as a tensor of Keras' backend."""
    name = keras.backend.standardize_dtype(dtype)
    if name == "float64" and array.dtype.kind == "f":
        array = array.astype(np.float64)  # TensorFlow's own cast makes zeros of float32's subnormal numbers
    return keras.ops.cast(keras.ops.convert_to_tensor(array), name)


def _gradient(mapped: Any, shape: tuple[int, ...], gradient: Any | None) -> Array:
    """A gradient in torch's axis order; zeros where nothing depends on the tensor."""
    return _wide(mapped.to_torch(np.zeros(shape, np.float32) if gradient is None else _numpy(gradient)))


def _nest(value: Any, order: Mapping[int, int]) -> Any:
    """A nesting of leaf numbers with the numbers of the arrays instead; None for a leaf that is no array."""
    if isinstance(value, Mapping):
        return {str(key): _nest(item, order) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nest(item, order) for item in value]
    return order.get(value)


def _torch_array(entry: Any) -> Array:
    return _wide(entry.to_torch(_numpy(entry.variable)))


def _numpy(value: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(value) if not isinstance(value, np.ndarray) else numpy_of(value))


def _wide(array: Any) -> Array:
    given: Array = np.asarray(array)
    return np.asarray(given, np.float32) if str(given.dtype) in ("bfloat16", "float16") else given


def _list(names: Any) -> str:
    return ", ".join(names) or "none"
