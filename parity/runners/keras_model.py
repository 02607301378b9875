"""Any Keras model, and saved conversions, as runners. A foreign model answers in its own names and axis order."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError, first_line
from isomorph.convert.inputspec import NamedDim, parse_all
from isomorph.parity.runners import keras_device
from isomorph.parity.runners.arrays import Inputs, inputs_for, inputs_that_run, plain
from isomorph.parity.runners.base import PortInfo, Request
from isomorph.parity.runners.keras_random import is_seed
from isomorph.parity.runners.keras_runner import KerasRunner, tensor
from isomorph.parity.runners.keras_vjp import is_float
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.tolerance import Array

__all__ = ["Plain", "PlainRunner", "declared", "is_conversion", "load_file", "open_conversion", "open_keras"]

METADATA = "isomorph.json"
_UNKNOWN = re.compile(r"Could not locate (class|function) '([^']+)'")


@dataclass(frozen=True)
class Port:
    """An input or output in its own layout."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...]

    def to_keras(self, array: Any) -> Array:
        """The same array."""
        return np.asarray(array)

    to_torch = to_keras


@dataclass(frozen=True)
class Entry:
    """A variable under its own path, as it lies."""

    torch_name: str
    variable: Any
    kind: str
    trainable: bool
    tied_to: str | None = None

    def to_keras(self, array: Any) -> Array:
        """The same array."""
        return np.asarray(array)

    to_torch = to_keras


@dataclass
class Plain:
    """A Keras model in the place of a Conversion: no map, no replay. takes: how its inputs are given: "args" (one
    positional argument each), or the nest (of Keras tensors' numbers) of its single argument. names: of its variables,
    in the order of `model.variables`."""

    model: Any
    inputs: tuple[Port, ...]
    takes: Any
    names: tuple[str, ...]
    dtype: str = "own"
    outputs: tuple[Port, ...] = ()
    output_structure: Any = None
    bounds: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    random_sites: tuple[Any, ...] = ()
    replays: bool = False
    mapped: bool = False
    spare: Any = None  # a float64 copy that was made to see whether there is one

    @property
    def weights(self) -> tuple[Entry, ...]:
        """Trainable variables as parameters, frozen ones too; the others as buffers, but no generator states."""
        trainable = {id(v) for v in self.model.trainable_variables}
        layers = self.model._flatten_layers(include_self=True, recursive=True)
        made = {id(v) for layer in layers for v in layer._trainable_variables}  # frozen ones too
        entries = []
        for name, variable in zip(self.names, self.model.variables, strict=True):
            is_parameter = id(variable) in trainable | made
            if is_seed(variable) or str(variable.dtype) == "string":
                continue
            kind = "parameter" if is_parameter else "buffer"
            entries.append(Entry(name, variable, kind, id(variable) in trainable))
        return tuple(entries)

    def arguments(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The positional arguments of the model's call."""
        return tuple(tensors) if self.takes == "args" else (_filled(self.takes, tensors),)

    def flatten_outputs(self, result: Any) -> list[Any]:
        """The result's tensors; how they nest and what they are is known from here on."""
        leaves: list[Any] = []
        self.output_structure = _numbered(result, leaves)
        if len(self.outputs) != len(leaves):
            self.outputs = tuple(
                Port(f"output_{i}", keras.backend.standardize_dtype(t.dtype), tuple([None] * len(t.shape)))
                for i, t in enumerate(leaves)
            )
        return leaves

    def with_dtype(self, dtype: str) -> Plain:
        """The model rebuilt from its config. UnsupportedError where that is not possible."""
        from isomorph.convert.keras_dtype import copy_weights, with_dtype

        if "float64" in self.missing:
            raise UnsupportedError(self.missing["float64"])
        model, self.spare = self.spare, None
        if model is None:
            model = with_dtype(self.model, dtype, self._build)
        else:
            copy_weights(self.model, model, dtype)  # they may have changed since
        return replace(
            self, model=model, dtype=dtype,
            inputs=tuple(_retyped(p, dtype) for p in self.inputs),
            outputs=tuple(_retyped(p, dtype) for p in self.outputs),
        )  # fmt: skip

    def _build(self, copy: Any) -> None:
        sizes = iter([2, 3, 5, 7, 11, 13])
        shapes = [tuple(d if isinstance(d, int) else next(sizes) for d in p.dims) for p in self.inputs]
        copy(*self.arguments([keras.ops.zeros(s, p.dtype) for s, p in zip(shapes, self.inputs, strict=True)]))


class PlainRunner(KerasRunner):
    """A `Plain` model, called as it wants to be called."""

    def call(self, tensors: Sequence[Any], request: Request) -> Any:
        """See `KerasRunner`; `training` is given where the model's call has it."""
        more = {"training": request.mode == "train"} if _takes_training(self.model) else {}
        return self.model(*self.conversion.arguments(tensors), **more)

    @contextlib.contextmanager
    def running(self, request: Request) -> Iterator[None]:
        """See `KerasRunner`. Recorded draws of another model have no place here."""
        with super().running(replace(request, draws=None)):
            yield


def open_keras(spec: ModelSpec) -> Opened:
    """A keras.Model, or a .keras or .h5 file; one that isomorph wrote is opened as the Conversion it is.

    UsageError: no such file, no Keras model, layers that Keras does not know, inputs that only the user can know.
    """
    if isinstance(spec.target, str | os.PathLike) and is_conversion(spec.target):
        return open_conversion(spec)
    keras_device.prepare(spec.device)
    with keras_device.on(spec.device):
        model = _loaded(spec.target) if isinstance(spec.target, str | os.PathLike) else spec.target
        if not isinstance(model, keras.Model):
            raise UsageError(f"{spec.target} is a {type(model).__name__}, not a keras.Model")
        plain_model, inputs = _described(model, spec)
    plain_model.missing.update(_missing_float64(plain_model))
    runner = PlainRunner(plain_model, "own", spec.device, inputs.arrays)
    inputs = inputs_that_run(spec, inputs, lambda arrays: runner.respond(Request(arrays, "eval", backward=False)))
    runner.example = inputs.arrays
    return Opened(runner, inputs.arrays, inputs.values)


def open_conversion(spec: ModelSpec) -> Opened:
    """A Conversion, or a .keras file that isomorph wrote: it answers in the original's names and axis order."""
    keras_device.prepare(spec.device)
    conversion = spec.target
    with keras_device.on(spec.device):
        if isinstance(conversion, str | os.PathLike):
            from isomorph.convert.conversion import load

            conversion = _keras_error(str(conversion), lambda: load(spec.target))
    ports = tuple(PortInfo(p.name, p.dtype, tuple(p.dims)) for p in conversion.inputs)
    held = getattr(conversion, "example", None)
    inputs = inputs_for(spec, ports) if spec.example is not None or held is None else _captured(held, spec, ports)
    return Opened(KerasRunner(conversion, "own", spec.device, inputs.arrays), inputs.arrays, inputs.values)


def load_file(path: str) -> Any:
    """What a .keras or .h5 file holds: the Conversion, where isomorph wrote it, else the Keras model. UsageError: no
    such file, one that Keras cannot load, or one whose code would have to be run."""
    if not is_conversion(path):
        return _loaded(path)
    from isomorph.convert.conversion import load

    return _keras_error(path, lambda: load(path))


def declared(model: Any, specs: Sequence[Any]) -> Any:
    """What a model that does not declare its inputs is called with by `InputSpec`s, as `to_onnx` takes it; None for one
    that does."""
    if not specs or hasattr(model, "replay") or getattr(model, "inputs", None):
        return None
    if not model.built:
        _described(model, ModelSpec(model, tuple(specs)))  # which runs it
    given = {
        s.name: keras.InputSpec(shape=tuple(None if isinstance(d, NamedDim) else d for d in s.dims), dtype=s.dtype)
        for s in specs
    }
    if len(given) == 1:
        return next(iter(given.values()))
    names = [name for name in inspect.signature(model.call).parameters if name in given]
    return tuple(given[name] for name in names) if len(names) == len(given) else given


def is_conversion(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a .keras archive that isomorph wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return METADATA in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


# ------------------------------------------------------------------------------------------------------------- loading
def _loaded(target: str | os.PathLike[str]) -> Any:
    path = Path(target)
    if not path.is_file():
        raise UsageError(f"{path} is not a file" if path.exists() else f"{path}: no such file")
    from isomorph.convert import layers  # noqa: F401  registers what a model that was converted may hold

    return _keras_error(str(path), lambda: keras.models.load_model(path, compile=False))


def _keras_error(path: str, load: Any) -> Any:
    try:
        return load()
    except IsomorphError:
        raise
    except Exception as error:  # Keras raises nearly every type, for a file that is not what it says
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            what = f"it holds the {unknown[1]} {unknown[2]!r}, which is not registered with Keras in this process"
            raise UsageError(f"{path}: {what}; name code that makes the model, pkg.module:callable") from error
        if "lambda" in str(error):
            what = "refused, it holds a Python lambda, and loading it would run its code"
            raise UsageError(f"{path}: {what}; name code that makes the model, pkg.module:callable") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UsageError(f"{path}: Keras cannot load it: {lines[0][:300]}") from error


def _captured(held: Any, spec: ModelSpec, ports: tuple[PortInfo, ...]) -> Inputs:
    """The example that the module was captured with: its arrays, in pytree order."""
    flat: list[Any] = []

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)
        elif hasattr(value, "dtype"):
            flat.append(plain(value))

    walk(held)
    if len(flat) != len(ports):
        return inputs_for(spec, ports)
    return inputs_for(replace(spec, example=flat), ports)


# ------------------------------------------------------------------------------------------------------------- inputs
def _described(model: Any, spec: ModelSpec) -> tuple[Plain, Inputs]:
    tensors = getattr(model, "inputs", None)
    if tensors:
        takes = _numbered(model.input if hasattr(model, "_inputs_struct") else tensors[0], [])
        ports = tuple(_port(t, t.name) for t in tensors)
    else:
        takes, ports = _of_call(model, spec)
    inputs = inputs_for(spec, ports)
    own = tuple(Port(p.name, p.dtype, tuple(p.dims or ())) for p in inputs.ports)
    made = Plain(model, own, takes, (), bounds=inputs.sizes)
    if not model.built or not model.variables:
        given = [tensor(a, p.dtype) for a, p in zip(inputs.arrays, own, strict=True)]
        _user_call(lambda: model(*made.arguments(given)))
    made.names = _unique([str(v.path) for v in model.variables])
    if getattr(model, "outputs", None) and hasattr(model, "_outputs_struct"):
        made.output_structure = _numbered(model.output, [])
        made.outputs = tuple(_as_port(_port(t, f"output_{i}")) for i, t in enumerate(model.outputs))
    return made, inputs


def _of_call(model: Any, spec: ModelSpec) -> tuple[Any, tuple[PortInfo, ...]]:
    """The inputs of a subclassed model, from the example, the `--input` texts, or the shapes it was built with."""
    names = [
        p.name
        for p in inspect.signature(model.call).parameters.values()
        if p.name not in ("training", "mask") and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if spec.example is not None and not spec.inputs:
        given = spec.example
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], tuple | list) and given[1] == {}:
            given = tuple(given[0])
        leaves: list[Any] = []
        nest = _numbered(given, leaves)
        arrays = [plain(leaf) for leaf in leaves]
        args = isinstance(given, tuple) and (len(given) == 1 or len(names) >= len(given))
        found = names if args else [str(key) for key in given] if isinstance(given, Mapping) else []
        found = found if len(found) >= len(arrays) else [f"input_{i}" for i in range(len(arrays))]
        ports = tuple(PortInfo(n, str(a.dtype), tuple(a.shape)) for n, a in zip(found, arrays, strict=False))
        return "args" if args else nest, ports
    if spec.inputs:
        wanted = parse_all(spec.inputs)
        ports = tuple(
            PortInfo(w.name, w.dtype, tuple(d.name if isinstance(d, NamedDim) else d for d in w.dims)) for w in wanted
        )
        if len(wanted) == 1 or all(w.name in names for w in wanted):
            ordered = sorted(ports, key=lambda p: names.index(p.name) if p.name in names else 0)
            return "args", tuple(ordered)
        return {w.name: i for i, w in enumerate(wanted)}, ports
    shapes = getattr(model, "_build_shapes_dict", None) or {}
    if shapes and all(_is_shape(shape) for shape in shapes.values()):
        keys = [key.removesuffix("_shape") for key in shapes]
        found = keys if len(keys) > 1 else names[:1]
        ports = tuple(
            PortInfo(n, str(model.compute_dtype), ("batch", *shape[1:]))
            for n, shape in zip(found, shapes.values(), strict=True)
        )
        return "args", ports
    raise UsageError(
        f'{type(model).__name__} does not say its inputs: give inputs=, or --input "{names[0]}=float32[b]"'
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(d is None or isinstance(d, int) for d in value)


def _port(symbolic: Any, name: str) -> PortInfo:
    """A free first axis is the batch, the same one everywhere."""
    dims = tuple("batch" if d is None and axis == 0 else d for axis, d in enumerate(symbolic.shape))
    return PortInfo(name, keras.backend.standardize_dtype(symbolic.dtype), dims)


def _as_port(info: PortInfo) -> Port:
    return Port(info.name, info.dtype, tuple(info.dims or ()))


def _retyped(port: Port, dtype: str) -> Port:
    return replace(port, dtype=dtype) if is_float(port.dtype) else port


def _numbered(value: Any, leaves: list[Any]) -> Any:
    """A nest with its tensors' numbers in their places, dicts sorted as Keras sorts them; they go to `leaves`."""
    if isinstance(value, Mapping):
        return {str(key): _numbered(value[key], leaves) for key in sorted(value)}
    if hasattr(value, "_fields"):
        return {name: _numbered(getattr(value, name), leaves) for name in value._fields}
    if isinstance(value, list | tuple):
        return [_numbered(item, leaves) for item in value]
    if value is None:
        return None
    leaves.append(value)
    return len(leaves) - 1


def _filled(nest: Any, tensors: Sequence[Any]) -> Any:
    if isinstance(nest, Mapping):
        return {key: _filled(item, tensors) for key, item in nest.items()}
    if isinstance(nest, list):
        return [_filled(item, tensors) for item in nest]
    return tensors[nest]


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Two variables may have one path: the second is called path#2."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(found)


def _user_call(call: Any) -> None:
    try:
        call()
    except Exception as error:  # any exception of the user's model
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"the model does not run on these inputs: {said}") from error


def _takes_training(model: Any) -> bool:
    return bool(getattr(model, "_call_has_training_arg", True))


def _missing_float64(model: Plain) -> dict[str, str]:
    """Why there is no float64 twin: found by making one, as only that tells."""
    try:
        model.spare = model.with_dtype("float64").model
    except UnsupportedError as error:
        return {"float64": str(error)}
    return {}
