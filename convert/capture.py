"""torch.export -> Graph. The only user of torch.export.

    module, args --export--> ExportedProgram --(in-place ops made functional)--> Graph + tensors

What has no rule is decomposed further by torch's own tables (`decompose`), one op at a time, so composites that a
Keras layer
exists for stay whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.export import Dim, ExportedProgram

from .errors import CaptureError
from .exportable import detached_regions, free_linspace
from .fx_to_ir import Converter
from .ir import Graph
from .passes.absorb_batch_counters import BATCH_NORMS, POPULATION

CUMULATIVE = (
    -1.0
)  # stands for BatchNorm's momentum=None, whose factor 1/num_batches_tracked torch.export refuses to trace


@dataclass
class Captured:
    """One mode of a module as a graph. `tensors` holds every parameter, buffer and constant by name."""

    graph: Graph
    tensors: dict[str, torch.Tensor]
    tied: dict[str, str] = field(default_factory=dict)  # other name -> the name the graph knows
    output_spec: Any = None  # nested dict/list/tuple of leaf numbers
    output_names: tuple[str, ...] = ()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.export's warnings and logs, silenced."""
    loggers = [
        logging.getLogger(n) for n in ("torch", "torch.fx", "torch.export", "torch._export", "torch.fx.experimental")
    ]
    levels = [x.level for x in loggers]
    try:
        for x in loggers:
            x.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for x, level in zip(loggers, levels, strict=True):
            x.setLevel(level)


# ---------------------------------------------------------------------------------------------------------- dim
# requests
def dynamic_dims(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], requested: Any
) -> tuple[Any, dict[str, dict[int, str]]]:
    """`requested` as torch.export takes it, and the dim names the user gave: {input name: {axis: name}}.

    None: axis 0 of every tensor is tried as a free batch. Strings name dims; torch decides whether they can be free.
    Inputs that nest (dicts, lists, `*args`, `**kwargs`) are asked in the same nesting, and named by their path:
    "batch_image".
    """
    import inspect

    bound = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    names: dict[str, dict[int, str]] = {}
    if requested is None:
        return {n: _walk(v, _Batch(), (n,), names) for n, v in bound.items()}, names
    if not isinstance(requested, Mapping):
        requested = dict(zip(bound, requested, strict=False))
    unknown = [n for n in requested if n not in bound]
    if unknown:
        raise CaptureError(f"dynamic dims are given for {', '.join(unknown)}, but the inputs are {', '.join(bound)}")
    return {n: _walk(v, requested.get(n), (n,), names) for n, v in bound.items()}, names


class _Batch:
    """The request for a free axis 0, wherever a tensor is."""


def _walk(value: Any, spec: Any, path: tuple[str, ...], names: dict[str, dict[int, str]]) -> Any:
    """The dim request for one input, nested as the input is; collects the names."""
    if isinstance(value, torch.Tensor):
        if isinstance(spec, _Batch):
            spec = {0: "b"} if value.dim() else None
            return None if spec is None else {0: Dim.AUTO} | _named(spec, path, names)
        return None if not spec else _axes(spec, path, names)
    if isinstance(value, Mapping):
        return {k: _walk(v, _part(spec, k), (*path, str(k)), names) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_walk(v, _part(spec, i), (*path, str(i)), names) for i, v in enumerate(value))
    return pytree.tree_map(lambda _: None, value) if spec is None or isinstance(spec, _Batch) else spec


def _part(spec: Any, key: Any) -> Any:
    if spec is None or isinstance(spec, _Batch):
        return spec
    try:
        return spec[key]
    except (KeyError, IndexError, TypeError):
        return None


def _named(spec: Mapping[int, str], path: tuple[str, ...], names: dict[str, dict[int, str]]) -> dict[int, Any]:
    names.setdefault("_".join(path), {}).update(spec)
    return {}


def _axes(spec: Any, path: tuple[str, ...], names: dict[str, dict[int, str]]) -> dict[int, Any]:
    out: dict[int, Any] = {}
    for axis, want in enumerate(spec) if isinstance(spec, (list, tuple)) else spec.items():
        if isinstance(want, str):
            _named({axis: want}, path, names)
            out[axis] = Dim.DYNAMIC
        elif want is not None and not isinstance(want, int):
            if hasattr(want, "__name__"):
                _named({axis: want.__name__}, path, names)
            out[axis] = want
    return out


# --------------------------------------------------------------------------------------------------------------- export
def population_norms(module: torch.nn.Module) -> list[tuple[str, Any]]:
    """(path, layer) of the batch normalisations that move by the population variance, as Keras' do. They are traced as
    torch's own, and their nodes marked."""
    return [(n, m) for n, m in module.named_modules(remove_duplicate=False) if getattr(m, "moves_by_population", False)]


@contextlib.contextmanager
def _exportable(module: torch.nn.Module, training: bool) -> Iterator[None]:
    """The module in the wanted mode, with what torch.export cannot trace put aside; everything is put back."""
    modes = {m: m.training for m in module.modules()}
    cumulative = [
        m
        for m in module.modules()
        if isinstance(m, torch.nn.modules.batchnorm._NormBase) and m.momentum is None and m.track_running_stats
    ]
    population = [m for _, m in population_norms(module)]
    try:
        if training != module.training:
            module.train(training)
        for m in cumulative:
            m.momentum = CUMULATIVE
        for m in population:
            m.one_op = True
        yield
    finally:
        for m in population:
            m.one_op = False
        for m in cumulative:
            m.momentum = None
        for each, mode in modes.items():
            each.training = mode


def export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any, training: bool
) -> ExportedProgram:
    """The exported program of one mode. CaptureError says in one line what torch refused, and where."""
    # einsum's search for the cheapest order would compare sizes, and so fix them
    with _exportable(module, training), torch.backends.opt_einsum.flags(enabled=False), free_linspace(), quiet():
        try:
            return torch.export.export(module, args, dict(kwargs), dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise CaptureError(_refusal(error, module)) from error


def _refusal(error: Exception, module: torch.nn.Module) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    where = re.findall(r'File "([^"]+)", line (\d+), in (\w+)(?:\n\s+(.+))?', text)
    if not where:
        import traceback

        here = os.path.dirname(os.path.abspath(__file__))
        frames = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if not f.filename.startswith(("<", here)) and "/torch/" not in f.filename and f.filename != __file__
        ]
        where = [(f.filename, str(f.lineno), f.name, f.line or "") for f in frames]
    at = f" at {where[-1][0]}:{where[-1][1]}" + (f" `{where[-1][3].strip()}`" if where[-1][3] else "") if where else ""
    name = type(error).__name__
    if name == "GuardOnDataDependentSymNode" or "data-dependent" in text:
        return (
            f"{type(module).__name__} decides by the value of a tensor{at}: {first} "
            "Write the choice with torch.where or torch.cond, or export a variant of the module without it."
        )
    if "specializ" in text or "Constraints violated" in text:
        fixed = re.findall(
            r"You marked L\['(\w+)'\](.*?)\.size\(\)\[(\d+)\] as dynamic "
            r"but your code specialized it to be a constant \((\d+)\)",
            text,
        )
        what = "; ".join(f"axis {axis} of {name}{path} is always {size}" for name, path, axis, size in fixed) or first
        return (
            f"a dim asked to be dynamic is fixed by the module{at}: {what}. Give that dim a number in the input spec."
        )
    return f"torch.export could not trace {type(module).__name__}{at}: {name}: {first}"


def with_batch(args: Any) -> Any:
    """Example inputs whose axis 0 is 1, repeated to 2: torch takes a size of one for a constant."""
    return pytree.tree_map(
        lambda t: torch.cat([t, t]) if isinstance(t, torch.Tensor) and t.dim() and t.shape[0] == 1 else t, args
    )


def _with_free_batch(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, training: bool
) -> ExportedProgram:
    """The program with axis 0 free wherever the module allows it. An axis of size one that is no batch (the layers of
    an LSTM's
    state) must not be doubled, and a module may refuse any other size than the example's: each is tried."""
    doubled = with_batch((args, kwargs))
    for tried_args, tried_kwargs in (doubled, (args, kwargs)):
        with contextlib.suppress(CaptureError):
            return export(module, tried_args, tried_kwargs, shapes, training)
    return export(module, args, kwargs, None, training)


def capture(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    training: bool = False,
    has_rule: Callable[[str], bool] | None = None,
) -> Captured:
    """The module as a graph in one mode. Ops for which `has_rule` says no are decomposed as far as torch can."""
    kwargs = dict(kwargs or {})
    try:
        shapes, names = dynamic_dims(module, args, kwargs, dynamic_shapes)
    except TypeError as error:
        raise CaptureError(f"the example inputs do not fit {type(module).__name__}.forward: {error}") from error
    if dynamic_shapes is None:
        program = _with_free_batch(module, args, kwargs, shapes, training)
    else:
        program = export(module, args, kwargs, shapes, training)
    return from_program(program, module, names, has_rule, unify=dynamic_shapes is not None)


def from_program(
    program: ExportedProgram,
    module: torch.nn.Module | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
    has_rule: Callable[[str], bool] | None = None,
    unify: bool = False,
) -> Captured:
    """A graph from an exported program; `module` tells which parameters are one and the same tensor.

    With `unify` two axes that the user gave one name are one dim, also where torch did not need them to be equal.
    """
    tensors, tied = owned_tensors(program, module)
    trainable = {n: p.requires_grad for n, p in (module or program).named_parameters()}

    def convert(p: ExportedProgram) -> Graph | None:
        return Converter(p, tensors, tied, names or {}, trainable, unify).graph()

    graph = convert(program)
    if graph is None:
        with quiet():
            program = detached_regions(program).run_decompositions({})
        graph = convert(program)
        if graph is None:
            raise CaptureError("the program writes into a tensor in a way that could not be made functional")
    if has_rule is not None:
        program, graph = decompose(program, graph, convert, has_rule)
        # decomposition may lift new constants
        for name, tensor in program.constants.items():
            if isinstance(tensor, torch.Tensor):
                tensors.setdefault(name, tensor)
    if module is not None:
        names_of = {f"{path}.running_var".lstrip(".") for path, _ in population_norms(module)}
        graph = _marked(graph, {tied.get(n, n) for n in names_of})
    spec, leaf_names = output_structure(program)
    return Captured(graph, tensors, tied, spec, leaf_names)


def _marked(graph: Graph, variances: set[str]) -> Graph:
    """The batch normalisations of these running variances bear the mark POPULATION."""
    values = {p.value for name, p in graph.parameters.items() if name in variances}
    nodes = [
        n.replace(origin=n.origin.touched(POPULATION)) if n.op in BATCH_NORMS and n.args[4] in values else n
        for n in graph.nodes
    ]
    return dataclasses.replace(graph, nodes=nodes) if values else graph


def owned_tensors(
    program: ExportedProgram, module: torch.nn.Module | None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every tensor the program owns, by torch name, and which names are ties to an earlier one."""
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[int, str] = {}
    source: dict[str, torch.Tensor] = dict(program.state_dict)
    if module is not None:
        source.update(dict(module.named_parameters(remove_duplicate=False)))
        source.update(dict(module.named_buffers(remove_duplicate=False)))
    order = dict(module.named_parameters(remove_duplicate=False)) if module is not None else source
    for name in [*order, *(n for n in source if n not in order)]:
        tensor = source[name]
        first = seen.setdefault(id(tensor), name)
        if first != name:
            tied[name] = first
        else:
            tensors[name] = tensor
    for name, tensor in program.constants.items():
        if isinstance(tensor, torch.Tensor) and name not in tensors and name not in tied:
            tensors[name] = tensor
    return tensors, tied


# -------------------------------------------------------------------------------------------------------- decomposition
def decompose(
    program: ExportedProgram,
    graph: Graph,
    convert: Callable[[ExportedProgram], Graph | None],
    has_rule: Callable[[str], bool],
    rounds: int = 6,
) -> tuple[ExportedProgram, Graph]:
    """Decompose ops without a rule, and only those, through torch's tables until nothing changes."""
    for _ in range(rounds):
        missing = {n.op for n in graph.every_node() if not has_rule(n.op)}
        table = {
            op: function
            for name in missing
            if (op := overload(name)) is not None and (function := decomposition(op)) is not None
        }
        if not table:
            break
        try:
            with quiet():
                smaller = detached_regions(program).run_decompositions(table)
            lowered = convert(smaller)
        except (
            Exception
        ):  # a decomposition that does not trace leaves the op as it is: it is then listed as unsupported
            break
        if lowered is None:
            break
        if {n.op for n in lowered.every_node() if not has_rule(n.op)} == missing:
            program, graph = smaller, lowered
            break
        program, graph = smaller, lowered
    return program, graph


def overload(name: str) -> Any:
    """The torch operator of "aten.relu.default", or None."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def decomposition(op: Any) -> Callable[..., Any] | None:
    """How torch writes the op in smaller ones: its registered decomposition, its composite kernel, its prims
    reference."""
    from torch._decomp import decomposition_table

    found: Callable[..., Any] | None = decomposition_table.get(op)
    if found is not None:
        return found
    try:
        from torch._export.utils import _get_decomp_for_cia

        if torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd"):
            found = _get_decomp_for_cia(op)
    except (ImportError, RuntimeError, AttributeError):
        return None
    return found


# -------------------------------------------------------------------------------------------------------------- outputs
def output_structure(program: ExportedProgram) -> tuple[Any, tuple[str, ...]]:
    """How the flat outputs nest (leaf numbers in dicts, lists, tuples), and a name for each leaf."""
    spec = program.call_spec.out_spec
    count = spec.num_leaves
    tree = pytree.tree_unflatten(list(range(count)), spec)
    names: list[str] = [""] * count

    def walk(x: Any, path: tuple[str, ...]) -> Any:
        if isinstance(x, int):
            names[x] = "_".join(path) or "output"
            return x
        if isinstance(x, Mapping):
            return {str(k): walk(v, (*path, str(k))) for k, v in x.items()}
        if hasattr(x, "_fields"):
            return {f: walk(getattr(x, f), (*path, f)) for f in x._fields}
        if isinstance(x, (list, tuple)):
            return [walk(v, (*path, f"output_{i}" if not path else str(i))) for i, v in enumerate(x)]
        if hasattr(x, "__dataclass_fields__"):
            return {f: walk(getattr(x, f), (*path, f)) for f in x.__dataclass_fields__ if getattr(x, f) is not None}
        return x

    return walk(tree, ()), tuple(names)
