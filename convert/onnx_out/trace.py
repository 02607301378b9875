"""A Keras model as one TensorFlow graph whose *inputs* are all of its variables, so that nothing can fold or rename
them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from isomorph.convert.errors import UnsupportedError, UsageError, first_line

from .handlers.tracing import traceable
from .markers import Marks, marked
from .quiet import quiet

__all__ = ["Input", "Traced", "answers", "inputs_of", "trace"]


@dataclass(frozen=True)
class Input:
    """One tensor that a model is called with. dims: None where any size will do."""

    name: str
    dtype: str
    dims: tuple[int | None, ...]

    @property
    def spec(self) -> Any:
        return tf.TensorSpec(self.dims, self.dtype)


@dataclass
class Traced:
    """name: the model's. graph: TensorFlow's GraphDef without variables or nested functions.

    inputs, variables, outputs: public name to the graph's tensor name ("x:0"); None for what the graph never reads.
    structure: how the flat outputs nest, with indices for leaves. ports, outs: the inputs and outputs. values: the
    Keras variables. arguments: the structure of `Input` that the model is called with. parameters: names
    of the variables that an optimiser may move, frozen ones too. seeds: of those that are seed generators' states.
    """

    name: str
    graph: Any
    inputs: dict[str, str | None]
    variables: dict[str, str | None]
    outputs: dict[str, str]
    structure: Any
    marks: Marks
    ports: tuple[Input, ...] = ()
    outs: tuple[Input, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    arguments: Any = ()
    parameters: frozenset[str] = frozenset()
    seeds: frozenset[str] = frozenset()

    def arrays(self) -> dict[str, np.ndarray]:
        """The variables' values."""
        return {name: np.asarray(keras.ops.convert_to_numpy(v)) for name, v in self.values.items()}


def inputs_of(model: Any, given: Any = None) -> tuple[tuple[Any, ...], tuple[Input, ...]]:
    """(the positional arguments as a structure of `Input`, the same flat).

    given: a tuple of positional arguments, or the one argument: KerasTensor, InputSpec, TensorSpec or array, or a list
    or dict of them. The first axis of an array is the batch: any size. UsageError: nothing says what the model takes.
    """
    if given is None:
        given = _own_inputs(model)
    arguments = given if isinstance(given, tuple) and not hasattr(given, "_fields") else (given,)
    names = _names(model, arguments)
    leaves = iter(names)
    structure = keras.tree.map_structure(lambda leaf: _input(leaf, next(leaves), model), arguments)
    return structure, tuple(keras.tree.flatten(structure))


def _own_inputs(model: Any) -> tuple[Any, ...]:
    if getattr(model, "inputs", None):
        struct = getattr(model, "_inputs_struct", None)
        return (struct if struct is not None else model.inputs[0] if len(model.inputs) == 1 else model.inputs,)
    shapes = getattr(model, "_build_shapes_dict", None)
    if not model.built or not shapes:
        raise UsageError(f"{model.name} does not say what it is called with: give inputs=, an array or keras.InputSpec")

    def spec(shape: Any) -> Any:
        return keras.InputSpec(shape=(None, *shape[1:]), dtype=model.input_dtype)

    return tuple(_over_shapes(spec, shape) for shape in shapes.values())


def _over_shapes(make: Any, shape: Any) -> Any:
    """`make` over a structure whose leaves are shapes."""
    if isinstance(shape, dict):
        return {key: _over_shapes(make, value) for key, value in shape.items()}
    if shape and all(isinstance(item, list | tuple | dict) for item in shape):
        return [_over_shapes(make, item) for item in shape]
    return make(shape)


def _names(model: Any, arguments: tuple[Any, ...]) -> list[str]:
    """A name for each leaf: Keras' own, else the key, else the argument's."""
    signature = list(model._call_signature.parameters) if hasattr(model, "_call_signature") else []
    found = []
    for path, leaf in keras.tree.flatten_with_path(arguments):
        own = getattr(leaf, "name", None) if not isinstance(leaf, np.ndarray) else None
        key = [str(p) for p in path[1:] if isinstance(p, str)]
        index = "".join(f"_{p}" for p in path[1:] if not isinstance(p, str))
        argument = signature[path[0]] if path[0] < len(signature) else f"input_{path[0]}"
        found.append(own or (key[-1] if key else f"{argument}{index}"))
    return unique(found)


def unique(names: Iterable[str]) -> list[str]:
    """The names, each with a number behind it where it stands a second time."""
    seen: dict[str, int] = {}
    taken, found = set(names := list(names)), []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        new = name
        while seen[name] > 1 and (new := f"{name}_{seen[name] - 1}") in taken:
            seen[name] += 1
        taken.add(new)
        found.append(new)
    return found


def _input(leaf: Any, name: str, model: Any) -> Input:
    if getattr(leaf, "sparse", False) or getattr(leaf, "ragged", False):
        raise UnsupportedError(f"input {name} of {model.name} is sparse or ragged; ONNX has dense tensors alone")
    if isinstance(leaf, keras.InputSpec | keras.KerasTensor | tf.TensorSpec):
        if leaf.shape is None:
            raise UsageError(f"input {name} of {model.name}: its spec has no shape")
        dtype = getattr(leaf.dtype, "name", leaf.dtype) or model.input_dtype
        return Input(name, dtype, tuple(leaf.shape))
    if not hasattr(leaf, "shape"):
        leaf = np.asarray(leaf)
    shape = tuple(int(d) for d in leaf.shape)
    return Input(name, keras.backend.standardize_dtype(leaf.dtype), (None, *shape[1:]) if shape else ())


def variable_names(model: Any) -> dict[str, Any]:
    """Every variable, seeds included, by its Keras path; by its place in the layer tree where paths repeat."""
    variables = list({id(v): v for v in model.variables}.values())
    paths = [v.path for v in variables]
    if len(set(paths)) < len(paths):
        places: dict[int, str] = {}
        _place(model, (), places, set())
        paths = unique(places.get(id(v), v.path) for v in variables)
    return dict(zip(paths, variables, strict=True))


def _place(layer: Any, path: tuple[str, ...], places: dict[int, str], seen: set[int]) -> None:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    for v in [*layer._trainable_variables, *layer._non_trainable_variables]:
        places.setdefault(id(v), "/".join((*path, v.name)))
    for generator in layer._seed_generators:
        places.setdefault(id(generator.state), "/".join((*path, *generator.state.path.split("/")[-2:])))
    for child in layer._layers:
        _place(child, (*path, child.name), places, seen)


def trace(model: Any, given: Any = None, opset: int = 18) -> Traced:
    """The model in inference mode, for an opset that has the ops it is marked with. `given` as in `inputs_of`.

    UnsupportedError: TensorFlow cannot trace the model; UsageError: its inputs are not known.
    """
    structure, ports = inputs_of(model, given)
    variables = variable_names(model)
    names: list[str] = []
    shape: list[Any] = []
    marks = Marks(model, opset)

    def run(values: list[Any], arguments: list[Any]) -> list[Any]:
        state = list(zip(variables.values(), values, strict=True))
        with keras.StatelessScope(state), marked(model, marks):
            result = model(*keras.tree.pack_sequence_as(structure, arguments), training=False)
        flat = keras.tree.flatten(result)
        names[:] = _output_names(model, result)
        shape[:] = [_indices(result)]
        return [tf.identity(keras.ops.convert_to_tensor(y)) for y in flat]

    held = [tf.TensorSpec(v.shape, keras.backend.standardize_dtype(v.dtype)) for v in variables.values()]
    try:
        with traceable(), quiet():
            concrete = tf.function(run, autograph=False).get_concrete_function(held, [port.spec for port in ports])
    except (UsageError, UnsupportedError):
        raise
    except Exception as error:  # Keras and TensorFlow raise nearly every type
        hint = "" if given is not None or getattr(model, "inputs", None) else " (inputs= says what it is called with)"
        raise UnsupportedError(
            f"{model.name} cannot be traced: {type(error).__name__}: {_plain(error)}{hint}"
        ) from error
    tensors = [t.name for t in concrete.inputs[: len(held) + len(ports)]]
    graph = _frozen(concrete, tensors)
    present = {node.name for node in graph.node}
    read = [t if t.split(":")[0] in present else None for t in tensors]
    outputs = [t.name for t in concrete.outputs]
    taken = unique([*variables, *(p.name for p in ports), *names])[len(variables) + len(ports) :]
    outs = tuple(Input(n, t.dtype.name, tuple(t.shape)) for n, t in zip(taken, concrete.outputs, strict=True))
    return Traced(
        model.name,
        graph,
        dict(zip((p.name for p in ports), read[len(held) :], strict=True)),
        dict(zip(variables, read[: len(held)], strict=True)),
        dict(zip(taken, outputs, strict=True)),
        shape[0],
        marks,
        ports,
        outs,
        variables,
        structure,
        _parameters(model, variables),
        _seeds(model, variables),
    )


def _parameters(model: Any, variables: dict[str, Any]) -> frozenset[str]:
    layers = [model, *model._flatten_layers(include_self=False, recursive=True)]
    own = {id(v) for layer in layers for v in layer._trainable_variables}
    return frozenset(name for name, v in variables.items() if id(v) in own)


def _seeds(model: Any, variables: dict[str, Any]) -> frozenset[str]:
    layers = [model, *model._flatten_layers(include_self=False, recursive=True)]
    own = {id(generator.state) for layer in layers for generator in layer._seed_generators}
    return frozenset(name for name, v in variables.items() if id(v) in own)


def answers(model: Any, arguments: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What Keras itself gives in inference mode, flat; no variable is changed. arguments: `Traced.arguments`."""
    state = [(v, v.value) for v in model.variables]
    with keras.StatelessScope(state), quiet():
        given = [keras.ops.convert_to_tensor(a) for a in arrays]
        result = model(*keras.tree.pack_sequence_as(arguments, given), training=False)
    return [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(result)]


def _plain(error: Exception) -> str:
    """What Keras says, without the colours and headings around it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace("Exception encountered when calling ", "in ")
    return first_line(ValueError(" ".join(text.split())), 300)


def _frozen(concrete: Any, inputs: list[str]) -> Any:
    """The GraphDef with functions inlined and captured tensors as constants."""
    from tf2onnx import tf_loader

    with quiet(), tf.device("/cpu:0"):
        return tf_loader.from_function(concrete, inputs, [t.name for t in concrete.outputs])


def _output_names(model: Any, result: Any) -> list[str]:
    flat = keras.tree.flatten_with_path((result,))
    own = getattr(model, "output_names", None)
    if own and len(own) == len(flat) and not isinstance(result, dict):
        return unique(own)
    keyed = [[str(p) for p in path[1:] if isinstance(p, str)] for path, _ in flat]
    numbers = ["_".join(str(p) for p in path[1:]) or "0" for path, _ in flat]
    return unique(key[-1] if key else f"output_{number}" for key, number in zip(keyed, numbers, strict=True))


def _indices(result: Any) -> Any:
    """The structure with the index of each leaf in its place."""
    counter = iter(range(len(keras.tree.flatten(result))))
    return keras.tree.map_structure(lambda _: next(counter), result)
