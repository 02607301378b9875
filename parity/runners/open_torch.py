"""A torch module as a runner: its example inputs, the names of its dims, and the bounds of its values."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import InputSpec, NamedDim, named_dims, parse_all
from isomorph.convert.sources import Source, load_source, source_of
from isomorph.parity.runners.base import About, PortInfo
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.runners.torch_runner import Call, TorchRunner, dtype_name, example_leaves, to_numpy

__all__ = ["in_dtype", "open_torch"]

Sizes = dict[str, tuple[int, int | None]]
T = TypeVar("T")


def open_torch(spec: ModelSpec, text: str = "", home: ModuleType | None = None) -> Opened:
    """A module, (module, args) or (module, args, kwargs); or the text of a source that has only such: hf:, timm: and
    torchvision:. text, home: where an object was found, see `source_of`. Of an example and `--input` texts together,
    the one gives the values, the others the free axes and the bounds.

    UsageError: nothing says which inputs it takes, or they do not fit `forward` or each other, or the device is not
    there. WeightError: the weights do not fit.
    """
    texts = parse_all(spec.inputs)
    text, source = _source(spec, () if spec.example is not None else texts, text, home)
    call = Call(source.args, source.kwargs) if spec.example is None else example_leaves(spec.example)
    try:
        names = call.names(source.module)
    except TypeError as error:
        raise UsageError(f"{text}: forward does not take the example inputs: {error}") from error
    told = {name: found for name in names if (found := _named(name, {t.name: t for t in texts})) is not None}
    if len(told) < len(texts):
        extra = ", ".join(t.name for t in texts if t not in told.values())
        raise UsageError(f"{text}: --input {extra} is none of the example's inputs: {', '.join(names)}")
    ports, sizes = _ports(call, names, source, told, spec.example is None)
    about = About("torch", ports, sizes=sizes, notes=source.notes)
    runner = TorchRunner(source.module, call, names, device=spec.device, about=about)
    values = {name: found.bounds for name, found in told.items() if found.bounds is not None}
    return Opened(runner, tuple(to_numpy(tensor) for tensor in call.examples), values)


def _source(spec: ModelSpec, texts: Sequence[InputSpec], text: str, home: ModuleType | None) -> tuple[str, Source]:
    """A name for messages, and the module with the example that it brings or that is made for `texts`."""
    if isinstance(spec.target, str):
        return spec.target, load_source(spec.target, spec.weights, texts, spec.seed)
    made = spec.target
    module = made[0] if isinstance(made, tuple) else made
    text = text or type(module).__name__
    if spec.example is not None:  # what the object or its file would offer is not needed
        made = (module, ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return text, source_of(made, text, spec.weights, texts, spec.seed, home)


def _ports(
    call: Call, names: Sequence[str], source: Source, told: Mapping[str, InputSpec], own: bool
) -> tuple[tuple[PortInfo, ...], Sizes]:
    """The inputs with their dims, and the bounds of named dims. told: name -> what `--input` says of it. own: whether
    the example is the source's own, and its dynamic shapes are those of the example."""
    axes: dict[int, Any] = {}
    shapes = source.dynamic_shapes if own else None
    bound = call.bound(source.module)
    if isinstance(shapes, tuple | list):
        shapes = dict(zip(bound, shapes, strict=False))
    for name, numbers in bound.items():
        axes.update(_paired(numbers, (shapes or {}).get(name)))
    sizes: Sizes = {dim.name: (dim.lo, dim.hi) for dim in named_dims(tuple(told.values())).values()}
    ports = []
    for name, slot, example in zip(names, call.slots, call.examples, strict=True):
        shape = tuple(example.shape)
        dims = _told(told[name], shape) if name in told else _dims(shape, axes.get(slot), sizes)
        low, high = (told[name].bounds if name in told else None) or _named(name, source.bounds) or (None, None)
        ports.append(PortInfo(name, dtype_name(example.dtype), dims, low, high))
    return tuple(ports), sizes


def _told(spec: InputSpec, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    dims = tuple(dim.name if isinstance(dim, NamedDim) else dim for dim in spec.dims)
    fits = len(dims) == len(shape) and all(d == size or isinstance(d, str) for d, size in zip(dims, shape, strict=True))
    if not fits:
        raise UsageError(f"--input {spec.name} has axes {list(dims)}, the example has shape {list(shape)}")
    return dims


def _paired(numbers: Any, shapes: Any) -> Iterator[tuple[int, Any]]:
    """(leaf number, its axes), of a nesting of leaf numbers beside one of dynamic shapes."""
    if shapes is None:
        return
    if isinstance(numbers, int):
        yield numbers, shapes
    elif isinstance(numbers, Mapping) and isinstance(shapes, Mapping):
        for key, inner in numbers.items():
            yield from _paired(inner, shapes.get(key))
    elif isinstance(numbers, list | tuple) and isinstance(shapes, list | tuple):
        for inner, part in zip(numbers, shapes, strict=False):
            yield from _paired(inner, part)


def _dims(shape: tuple[int, ...], axes: Any, sizes: Sizes) -> tuple[int | str | None, ...]:
    """An example's shape with the free axes in it; bounds of torch.export's `Dim` objects are added to `sizes`."""
    dims: list[int | str | None] = list(shape)
    named = axes.items() if isinstance(axes, Mapping) else enumerate(axes or ())
    for axis, dim in named:
        if isinstance(dim, str):
            dims[axis] = dim
        elif isinstance(dim, torch.export.Dim):
            dims[axis] = str(dim.__name__)
            if str(dim.__name__).isidentifier():
                sizes[dim.__name__] = int(dim.min), int(dim.max) if dim.max < 2**31 else None
        elif dim in (torch.export.Dim.AUTO, torch.export.Dim.DYNAMIC):
            dims[axis] = None
    return tuple(dims)


def _named(port: str, found: Mapping[str, T]) -> T | None:
    """What is known of a port under the name that `--input` gives it: "batch.image" for "batch['image']"; what the
    **kwargs of `forward` take bears no prefix."""
    dotted = re.sub(r"\['?(\w+)'?\]", r".\1", port)
    return found.get(dotted) or found.get(dotted.partition(".")[2])


def in_dtype(module: torch.nn.Module, example: Any, dtype: str) -> tuple[torch.nn.Module, Any]:
    """Copies of a module and of the example that it takes in a floating dtype."""
    wanted = getattr(torch, dtype)

    def cast(leaf: Any) -> Any:
        return leaf.to(wanted) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    return copy.deepcopy(module).to(wanted), torch.utils._pytree.tree_map(cast, example)
