"""Example inputs for models that are known by their ports, and the runner of those that only compute: arrays in, arrays
out. numpy only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.convert.inputspec import FLOATS, InputSpec, NamedDim, parse_all
from isomorph.convert.weights import numpy_of
from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, PortInfo, Request, Response, Runner, align
from isomorph.parity.runners.moved import respond_moved
from isomorph.parity.runners.spec import ModelSpec
from isomorph.parity.tolerance import Array

__all__ = [
    "ArrayRunner",
    "Inputs",
    "flatten",
    "inputs_for",
    "inputs_of",
    "inputs_that_run",
    "nest_of",
    "plain",
    "rounded_to",
]

SCALES = (6, 32)
IMAGE = 7  # and those of images are so much larger
SIZES = (2, 5, 7, 11, 13, 17, 19, 23)  # of free axes in made-up inputs; none divides another
_NUMBERED = re.compile(
    r"(?P<stem>output|Identity|StatefulPartitionedCall|PartitionedCall)(?:_(?P<number>\d+))?(?::(?P<slot>\d+))?"
)


@dataclass(frozen=True)
class Inputs:
    """ports: with the names of their free sizes. arrays: an example, flat. sizes: bounds of named free sizes. values:
    bounds of the values of inputs, both as declared by the user."""

    ports: tuple[PortInfo, ...]
    arrays: tuple[Array, ...]
    sizes: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def inputs_for(spec: ModelSpec, ports: Sequence[PortInfo]) -> Inputs:
    """What the user said of the inputs, put to the model's own: an example, `--input` texts, or neither.

    UsageError: names, number, ranks, sizes or dtypes do not fit the ports.
    """
    ports = tuple(ports)
    wanted = _by_port(parse_all(spec.inputs), ports)
    named = tuple(_named(port, wanted[port.name]) if port.name in wanted else port for port in ports)
    bounds = {d.name: (d.lo, d.hi) for w in wanted.values() for d in w.dims if isinstance(d, NamedDim)}
    values = {name: (float(w.bounds[0]), float(w.bounds[1])) for name, w in wanted.items() if w.bounds}
    if spec.example is not None:
        arrays = _given(spec.example, ports)
        return Inputs(named, tuple(_fitted(a, p) for a, p in zip(arrays, ports, strict=True)), bounds, values)
    told = [replace(p, low=values[p.name][0], high=values[p.name][1]) if p.name in values else p for p in named]
    return Inputs(named, inputs_of(told, spec.seed, bounds), bounds, values)


def inputs_that_run(spec: ModelSpec, inputs: Inputs, run: Callable[[tuple[Array, ...]], Any]) -> Inputs:
    """The inputs, with larger free sizes where they were made up and the model refuses them: an image network halves
    its image several times. As they are where no size helps: whoever asks for them sees what the model says."""
    free = any(not isinstance(d, int) and axis for port in inputs.ports for axis, d in enumerate(port.dims or ()))
    if spec.example is not None or not free:
        return inputs
    for scale in (1, *SCALES):
        arrays = inputs.arrays if scale == 1 else inputs_of(inputs.ports, spec.seed, inputs.sizes, scale)
        try:
            run(arrays)
        except Exception:  # any exception of a foreign model
            continue
        return replace(inputs, arrays=arrays)
    return inputs


def inputs_of(
    ports: Sequence[PortInfo], seed: int = 0, bounds: Mapping[str, tuple[int, int | None]] | None = None, scale: int = 1
) -> tuple[Array, ...]:
    """Inputs of the ports' shapes and dtypes: standard normal floats, integers of 0 and 1 (or in their bounds), bools.
    Unnamed free axes of one position have one size; scale multiplies free sizes other than the batch's.
    UsageError: a rank or a size that only the user can know."""
    rng, sizes, arrays = np.random.default_rng(seed), dict[str, int](), []
    for port in ports:
        if port.dims is None:
            raise UsageError(f'the model does not say the shape of input {port.name!r}; give --input "{port.name}=..."')
        shape = []
        for axis, dim in enumerate(port.dims):
            name = dim if isinstance(dim, str) else f"axis {axis}"
            if not isinstance(dim, int) and name not in sizes:
                low, high = (bounds or {}).get(name, (1, None))
                larger = scale * (IMAGE if len(port.dims) >= 4 else 1) if axis else 1
                size = SIZES[len(sizes) % len(SIZES)] * larger
                sizes[name] = min(max(size, low), high if high is not None else max(size, low))
            shape.append(dim if isinstance(dim, int) else sizes[name])
        arrays.append(_made(port, tuple(shape), rng))
    return tuple(arrays)


def _made(port: PortInfo, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if port.dtype in FLOATS:
        return rounded_to(rng.standard_normal(shape), port.dtype)
    if port.dtype == "bool":
        return np.ones(shape, bool)
    if port.dtype.startswith(("int", "uint")):
        low, high = int(port.low or 0), int(1 if port.high is None else port.high)
        return rng.integers(low, max(low, high) + 1, shape).astype(port.dtype)
    raise UsageError(f"input {port.name!r} has dtype {port.dtype}, which is neither a number nor a bool")


def rounded_to(array: Array, dtype: str) -> Array:
    """An array cast to a dtype; values of narrow floats are carried in float32."""
    if dtype in ("float16", "bfloat16"):
        from isomorph.parity.drawing.strategies import round_to

        return round_to(np.asarray(array), dtype)
    return np.asarray(array).astype(dtype)


def plain(value: Any) -> Array:
    """Any framework's tensor, or a number, as a numpy array; narrow floats as float32."""
    array = numpy_of(value)
    return array.astype(np.float32) if str(array.dtype) in ("float16", "bfloat16") else array


def _given(example: Any, ports: tuple[PortInfo, ...]) -> list[Array]:
    if isinstance(example, tuple) and len(example) == 2 and isinstance(example[1], dict):
        args, kwargs = example if isinstance(example[0], tuple | list) else ((example[0],), example[1])
        rest = [p.name for p in ports[len(args) :]]
        if sorted(kwargs) != sorted(rest):
            raise UsageError(f"the example gives {', '.join(kwargs) or 'nothing'} for the inputs {', '.join(rest)}")
        example = [*args, *(kwargs[name] for name in rest)]
    if isinstance(example, Mapping):
        names = [p.name for p in ports]
        if sorted(map(str, example)) != sorted(names):
            raise UsageError(f"the example has {', '.join(map(str, example))}; the model takes {', '.join(names)}")
        example = [example[name] for name in names]
    given = list(example) if isinstance(example, tuple | list) else [example]
    if len(given) != len(ports):
        raise UsageError(f"the example has {len(given)} arrays; the model takes {len(ports)}: {_list(ports)}")
    return [plain(value) for value in given]


def _fitted(array: Array, port: PortInfo) -> Array:
    dims = port.dims if port.dims is not None else array.shape
    if len(dims) != array.ndim or any(isinstance(d, int) and d != n for d, n in zip(dims, array.shape, strict=True)):
        shown = "x".join("?" if d is None else str(d) for d in dims)
        raise UsageError(f"the example for {port.name!r} has shape {array.shape}; the model takes {shown}")
    if (array.dtype.kind == "f") != (port.dtype in FLOATS):
        raise UsageError(f"the example for {port.name!r} is {array.dtype}; the model takes {port.dtype}")
    return rounded_to(array, port.dtype)


def _by_port(specs: Sequence[InputSpec], ports: tuple[PortInfo, ...]) -> dict[str, InputSpec]:
    """By name; by order where no name is known and the number fits."""
    if not specs:
        return {}
    known = {p.name for p in ports}
    if not any(s.name in known for s in specs) and len(specs) == len(ports):
        return {p.name: s for p, s in zip(ports, specs, strict=True)}
    for spec in specs:
        if spec.name not in known:
            raise UsageError(f"--input {spec.name}: the model has no such input; its inputs are {_list(ports)}")
    return {s.name: s for s in specs}


def _named(port: PortInfo, spec: InputSpec) -> PortInfo:
    dims = tuple(d.name if isinstance(d, NamedDim) else d for d in spec.dims)
    if spec.dtype != port.dtype:
        raise UsageError(f"--input {spec.name}: the model takes {port.dtype}, not {spec.dtype}")
    if port.dims is None:
        return replace(port, dims=dims)
    if len(dims) != len(port.dims):
        raise UsageError(f"--input {spec.name}: the model takes {len(port.dims)} axes, not {len(dims)}")
    for ours, theirs in zip(dims, port.dims, strict=True):
        if isinstance(theirs, int) and isinstance(ours, int) and ours != theirs:
            raise UsageError(f"--input {spec.name}: the model's size is {theirs} where {ours} is given")
    merged = (theirs if isinstance(theirs, int) else ours for ours, theirs in zip(dims, port.dims, strict=True))
    return replace(port, dims=tuple(merged))


def _list(ports: Sequence[PortInfo]) -> str:
    return ", ".join(p.name for p in ports) or "none"


# --------------------------------------------------------------------------------------------------------- the runner
def flatten(result: Any) -> tuple[Any, list[Array]]:
    """The nesting (None, index, list, dict) of what a function returned, and its arrays."""
    arrays: list[Array] = []

    def walk(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Mapping):
            return {str(key): walk(item) for key, item in value.items()}
        if hasattr(value, "_fields"):
            return {name: walk(getattr(value, name)) for name in value._fields}
        if isinstance(value, list | tuple):
            return [walk(item) for item in value]
        array = numpy_of(value)
        if array.dtype.kind in "OUSM":
            raise UsageError(f"an output is a {type(value).__name__}, which is no array of numbers")
        arrays.append(array)
        return len(arrays) - 1

    return walk(result), arrays


class ArrayRunner:
    """A model that only computes: arrays in, a nest of arrays out. Subclasses give `run`; no parameters, no gradients,
    one mode, unless they say more."""

    def __init__(self, about: About, dtype: str = "own") -> None:
        self._about, self.dtype = about, dtype

    def run(self, arrays: list[Array], request: Request) -> Any:
        """The outputs, nested as the model nests them, for inputs in the ports' dtypes."""
        raise NotImplementedError

    def respond(self, request: Request) -> Response:
        """See `Runner`. Raises whatever the model raises."""
        if request.perturbation is not None:
            return respond_moved(self, request)
        structure, found = flatten(self.run(self.inputs(request), request))
        return self.response(request, structure, found)

    def inputs(self, request: Request) -> list[Array]:
        """The request's inputs in the ports' dtypes. UsageError: their number, or a mode that the model has not."""
        ports = self._about.inputs
        if len(request.inputs) != len(ports):
            raise UsageError(f"the model takes {len(ports)} inputs, got {len(request.inputs)}")
        if request.mode not in self._about.modes:
            raise UsageError(f"a {self._about.format} model has no {request.mode} mode")
        return [self.cast(array, port.dtype) for array, port in zip(request.inputs, ports, strict=True)]

    def cast(self, array: Array, dtype: str) -> Array:
        """One input as the model takes it: float64 throughout in the float64 twin."""
        if dtype in FLOATS and self.dtype == "float64":
            return np.ascontiguousarray(array, np.float64)
        if dtype == "bfloat16":
            import ml_dtypes

            return np.ascontiguousarray(array).astype(ml_dtypes.bfloat16)
        return np.ascontiguousarray(array).astype(dtype)

    def response(self, request: Request, structure: Any, found: Sequence[Array], **more: Any) -> Response:
        """The response with these outputs, without those that the original does not have in this mode."""
        places = align(request.structure, structure) if request.structure is not None else None
        extra = len(found) - len(places) if places is not None else 0
        if places is not None and extra:
            structure, found = request.structure, [found[index] for index in places]
        cotangents = request.cotangents if request.cotangents is not None else (None,) * len(found)
        more = {"cotangents": cotangents, "draws": request.draws or (), **more}
        dtypes = tuple(str(array.dtype) for array in found)
        return Response(tuple(plain(a) for a in found), dtypes, structure, extra=extra, **more)

    def about(self) -> About:
        """See `Runner`."""
        return replace(self._about, precision="float64") if self.dtype == "float64" else self._about

    def index_bounds(self) -> Mapping[str, int]:
        """Not known."""
        return {}

    def parameters(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return {}

    def buffers(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return {}

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Nothing to set."""

    def to_float64(self) -> Runner:
        """See `Runner`."""
        raise UnsupportedError(self._about.missing.get("float64", f"{self._about.format} has no float64"))

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """No inside."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


def nest_of(names: Sequence[str]) -> tuple[list[int], Any]:
    """The order in which outputs with these names are answered, and their nesting: numbered names (output_0,
    Identity_1, StatefulPartitionedCall:2) are a list in order of their numbers, a single output is itself, others a
    dict."""
    split = [_NUMBERED.fullmatch(name) for name in names]
    stems = {m["stem"] for m in split if m}
    if len(names) == 1:
        return [0], 0
    if all(split) and len(stems) == 1:
        numbers = [int(m["slot"] or m["number"] or 0) for m in split if m]
        return sorted(range(len(names)), key=numbers.__getitem__), list(range(len(names)))
    return list(range(len(names))), {name: index for index, name in enumerate(names)}
