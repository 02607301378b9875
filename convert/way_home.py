"""What a Keras model says of itself by way of torch: a `TorchConversion` becomes a Keras model again.

The module is captured like any other, on the inputs that its ports tell of. Inputs and outputs get the axis order they
had, and what torch never reads and Keras makes anew (the states of seeds) stays behind.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from .ir import Graph, Value
from .layout import Perm

if TYPE_CHECKING:
    from .conversion import Conversion
    from .onnx_in.conversion import TorchConversion

__all__ = ["Orders", "call_of", "fixed", "is_torch_conversion", "left_out", "orders_of", "paths", "without"]

Orders = tuple[tuple[Perm | None, ...], tuple[Perm | None, ...]]  # of the inputs, of the outputs; None: torch's


def is_torch_conversion(source: Any) -> bool:
    """Whether `to_torch` made this."""
    return hasattr(source, "module") and hasattr(source, "shapes") and hasattr(source, "assign_to")


def call_of(conversion: TorchConversion) -> tuple[tuple[Any, ...], dict[str, dict[int, str]]]:
    """Arguments that the module takes, and the names of its free axes as torch.export takes them."""
    names = list(inspect.signature(conversion.module.forward).parameters)
    shapes = {
        name: {axis: dim for axis, dim in enumerate(port.dims) if isinstance(dim, str) and dim.isidentifier()}
        for name, port in zip(names, conversion.inputs, strict=False)
    }
    return conversion.example(), shapes


def orders_of(conversion: TorchConversion) -> Orders | None:
    """The axis orders of the Keras model that this was made from; None where it came from elsewhere."""
    if conversion.report.get("source") != "keras":
        return None
    inputs, outputs = (tuple(p.permutation for p in ports) for ports in (conversion.inputs, conversion.outputs))
    return inputs, outputs


def fixed(conversion: TorchConversion) -> set[str]:
    """Names of tensors that the source has no variable for and that never change."""
    return {e.torch_name for e in conversion.weights if not e.source}


def left_out(conversion: TorchConversion, graph: Graph) -> set[str]:
    """Names of the state dict that have no place in a Keras model: the states of seeds, and constants that the source
    has no variable for and nothing reads."""
    read = {v for n in graph.nodes for v in n.inputs} | {o for o in graph.outputs if isinstance(o, Value)}
    unread = {name for name, p in graph.parameters.items() if p.value not in read}
    seeds = {e.torch_name for e in conversion.weights if e.source.endswith("seed_generator_state")}
    return unread & (seeds | fixed(conversion))


def without(graph: Graph, names: set[str]) -> Graph:
    """The graph that does not own these."""
    kept = {name: p for name, p in graph.parameters.items() if name not in names}
    return dataclasses.replace(graph, parameters=kept)


def paths(source: TorchConversion, made: Conversion) -> dict[str, list[str]]:
    """By the path that a variable had in the source: the paths of what holds its values in the new model, in order of
    torch's names; mostly one."""
    from .onnx_out.trace import variable_names

    names = {id(variable): path for path, variable in variable_names(made.model).items()}
    places = {entry.torch_name: names[id(entry.variable)] for entry in made.weights if id(entry.variable) in names}
    found: dict[str, list[str]] = {}
    for entry in source.weights:
        place = places.get(entry.torch_name)
        if entry.source and place is not None and place not in found.setdefault(entry.source, []):
            found[entry.source].append(place)
    return found
