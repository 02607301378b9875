"""Input specs to example tensors, bound to the parameters of `forward`.

Values: floats are standard normal, booleans fair coins, integers small and in range: a value range in the spec,
else 0..1 for masks, else what the embedding that receives the input holds, else 0..9.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import UsageError
from .inputspec import FLOATS, InputSpec, NamedDim, example_sizes, parse_all

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Examples:
    """`args` and `kwargs` for one call of the module; `dynamic_shapes` in torch.export's form ({forward parameter:
    {axis: name}}, nested as the arguments are, None where nothing is dynamic) with plain strings as axis names;
    `ranges`: the sizes allowed for each named axis; `bounds`: the values allowed for each integer input,
    and for a float one that was given a range."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: dict[str, Any]
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)


def build_examples(
    module: torch.nn.Module, inputs: Sequence[str | InputSpec], seed: int = 0, any_keyword: bool = True
) -> Examples:
    """Example tensors for `inputs`; the same seed gives the same values. `any_keyword`: a name that only the **kwargs
    of `forward` can take is good.

    UsageError: a name that `forward` does not have (the right ones are listed), or one that it needs and is missing.
    """
    specs = parse_all(inputs)
    parameters = inspect.signature(module.forward).parameters
    _check_names(specs, parameters, type(module).__name__, any_keyword)
    sizes = example_sizes(specs)
    shapes = {s.name: tuple(sizes[d.name] if isinstance(d, NamedDim) else d for d in s.dims) for s in specs}

    bounds = {s.name: s.bounds or (0, 1) for s in specs if s.bounds or (_is_integer(s) and "mask" in s.name.lower())}
    open_names = [s.name for s in specs if _is_integer(s) and s.name not in bounds]
    if open_names:
        bounds |= _discover_bounds(module, specs, parameters, shapes, bounds, open_names)

    generator = torch.Generator().manual_seed(seed)
    tensors = {s.name: _draw(s, shapes[s.name], bounds.get(s.name, (0, 9)), generator) for s in specs}
    args, kwargs = _bind(specs, parameters, tensors)
    ranges = {d.name: (d.lo, d.hi) for s in specs for d in s.dims if isinstance(d, NamedDim)}
    return Examples(args, kwargs, _dynamic_shapes(specs, parameters), ranges, bounds)


def _is_integer(spec: InputSpec) -> bool:
    return spec.dtype not in FLOATS and spec.dtype != "bool"


def _check_names(
    specs: Sequence[InputSpec], parameters: Mapping[str, inspect.Parameter], where: str, any_keyword: bool
) -> None:
    given = {str(spec.path[0]) for spec in specs}
    kinds = {p.kind for p in parameters.values()}
    takes_any = any_keyword and inspect.Parameter.VAR_KEYWORD in kinds
    known = [p.name for p in parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    described = ", ".join(known) or "none"
    for spec in specs:
        name = str(spec.path[0])
        if name not in known and not takes_any:
            raise UsageError(f"--input {spec.name!r}: {where}.forward has no argument {name!r}; it has: {described}")
        starred = name in parameters and parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        if starred and not (len(spec.path) > 1 and isinstance(spec.path[1], int)):
            raise UsageError(f"--input {spec.name!r}: *{name} takes several: name them {name}.0, {name}.1, ...")
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind in (*_POSITIONAL, p.KEYWORD_ONLY)]
    missing = [name for name in needed if name not in given]
    if missing:
        raise UsageError(
            f"--input: {where}.forward needs {', '.join(missing)}; "
            f'add --input "{missing[0]}=DTYPE[DIMS]" (its arguments: {described})'
        )


def _draw(
    spec: InputSpec, shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if spec.dtype in FLOATS and spec.bounds is not None:
        low, high = spec.bounds
        return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
    if spec.dtype in FLOATS:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if spec.dtype == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    info = torch.iinfo(dtype)
    low, high = max(int(bounds[0]), info.min), min(int(bounds[1]), info.max)
    values = torch.randint(low, high + 1, shape, generator=generator)
    if values.numel() > 1:
        # Both ends are there: whoever draws further inputs takes the range from the example.
        values.view(-1)[0], values.view(-1)[-1] = high, low
    if "mask" in spec.name.lower() and (low, high) == (0, 1) and values.dim():
        values.select(-1, 0).fill_(1)  # a row in which everything is masked has no meaning
    return values.to(dtype)


def _nest(specs: Sequence[InputSpec], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by spec name -> values by argument: dicts where the path has keys, tuples where it has positions."""
    tree: dict[Any, Any] = {}
    for spec in specs:
        here = tree
        for part in spec.path[:-1]:
            here = here.setdefault(part, {})
        here[spec.path[-1]] = _Leaf(leaves[spec.name])
    return {str(name): _settle(value, str(name)) for name, value in tree.items()}


@dataclass(frozen=True)
class _Leaf:
    value: Any


def _settle(value: Any, name: str) -> Any:
    if isinstance(value, _Leaf):
        return value.value
    if all(isinstance(key, int) for key in value):
        if sorted(value) != list(range(len(value))):
            raise UsageError(f"--input: the positions of {name!r} must be 0 to {len(value) - 1}, each once")
        return tuple(_settle(value[i], f"{name}.{i}") for i in range(len(value)))
    if any(isinstance(key, int) for key in value):
        raise UsageError(f"--input: {name!r} has both positions and keys")
    return {key: _settle(inner, f"{name}.{key}") for key, inner in value.items()}


def _bind(
    specs: Sequence[InputSpec], parameters: Mapping[str, inspect.Parameter], leaves: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional as far as `forward`'s leading parameters are given without a gap, by keyword from there on."""
    values = _nest(specs, leaves)
    args: list[Any] = []
    for parameter in parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL and parameter.name in values:
            args.extend(values.pop(parameter.name))
            break
        if parameter.kind not in _POSITIONAL or parameter.name not in values:
            break
        args.append(values.pop(parameter.name))
    ordered = {name: values[name] for name in parameters if name in values}
    return tuple(args), {**ordered, **values}


def _dynamic_shapes(specs: Sequence[InputSpec], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    axes = {s.name: {i: d.name for i, d in enumerate(s.dims) if isinstance(d, NamedDim)} or None for s in specs}
    nested = _nest(specs, axes)
    extra = next((p.name for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    known = {name: nested.pop(name) for name in parameters if name in nested}
    # torch.export wants the arguments that **kwargs swallows under the name of that parameter.
    return {**known, extra: nested} if extra and nested else {**known, **nested}


class _EmbeddingLimits(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """While active, notes for each watched tensor the smallest table that it (or a view of it) indexes."""

    def __init__(self, watched: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.limits: dict[str, int] = {}
        self._names = {tensor.untyped_storage().data_ptr(): name for name, tensor in watched.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:
            name = self._names.get(args[1].untyped_storage().data_ptr())
            if name is not None:
                rows = int(args[0].shape[0])
                self.limits[name] = min(rows, self.limits.get(name, rows))
        return func(*args, **(kwargs or {}))


def _discover_bounds(
    module: torch.nn.Module,
    specs: Sequence[InputSpec],
    parameters: Mapping[str, inspect.Parameter],
    shapes: Mapping[str, tuple[int, ...]],
    bounds: Mapping[str, tuple[float, float]],
    open_names: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """Run the module once on zeros and see which embedding each integer input indexes.

    An input that reaches none keeps 0..9, cut to the smallest embedding of the module: it may be added to another
    before the look-up. A forward that fails here fails again, with its own message, when the module is captured.
    """
    fill = {"bool": True}
    tensors = {
        s.name: torch.full(
            shapes[s.name], fill.get(s.dtype, bounds.get(s.name, (0, 0))[0]), dtype=getattr(torch, s.dtype)
        )
        for s in specs
    }
    args, kwargs = _bind(specs, parameters, tensors)
    watcher = _EmbeddingLimits({name: tensors[name] for name in open_names})
    # This look leaves nothing behind: no mode, no random number drawn, no buffer changed.
    random_state = torch.get_rng_state()
    modes = [(child, child.training) for child in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        for child, _ in modes:
            child.training = False
        with torch.no_grad(), watcher:
            module(*args, **kwargs)
    except Exception:
        pass
    finally:
        torch.set_rng_state(random_state)
        for child, mode in modes:
            child.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    tables = [m.num_embeddings for m in module.modules() if isinstance(m, torch.nn.Embedding)]
    unknown = min([10, *tables]) - 1
    return {name: (0, watcher.limits.get(name, unknown + 1) - 1) for name in open_names}
