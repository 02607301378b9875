"""`to_keras`: a torch module becomes a trainable Keras model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import way_home
from .assemble import every_layer, layer_paths
from .capture import Captured, capture, from_program
from .conversion import Conversion, Port
from .emit import Emitted, emit
from .errors import CaptureError, UsageError
from .inputspec import FLOATS
from .ir import Graph, Sym, Value
from .ir_json import retype
from .layout import Placed, is_identity
from .merge_modes import merge_modes
from .passes.pipeline import run_passes
from .passes.single_bias import SingleBias
from .rules.registry import load_rules
from .stages import Progress, Stages
from .support import is_supported, require_support
from .weights import WeightEntry

if TYPE_CHECKING:
    from .onnx_in.conversion import TorchConversion


def to_keras(
    module: Any,
    example_args: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    layout: str = "keras",
    mode: str = "both",
    dtype: str | None = None,
    batchnorm: str = "torch",
    progress: Progress | None = None,
) -> Conversion:
    """Convert a module to a trainable Keras model of real, nested layers.

    module: nn.Module, or a torch.export.ExportedProgram (which holds one mode). Its state is not changed. Or a
        TorchConversion, whose ports say its inputs and free axes: from Keras it becomes a Keras model again, with the
        axis order it had, and report["paths"] says which variables hold the values of the original's, by its paths.
    example_args, example_kwargs: tensors of the shapes and dtypes it is called with; None and plain values pass.
    dynamic_shapes: None frees axis 0 of every input; else as torch.export takes it, or {input: {axis: "name"}}.
    layout: "keras" gives image-like inputs and outputs channels last; "torch" keeps torch's axis order.
    mode: "both" follows Keras' `training`; "eval" converts the eval mode alone.
    dtype: the floating dtype of the Keras model; None keeps the module's.
    batchnorm: "torch" updates running statistics as torch does (unbiased variance), "keras" as Keras does.

    Raises CaptureError, UnsupportedError (all missing ops at once), UsageError.
    """
    source = module if way_home.is_torch_conversion(module) else None
    if source is not None:
        module = source.module
        if example_args is None:
            example_args, free = way_home.call_of(source)
            dynamic_shapes = free if dynamic_shapes is None else dynamic_shapes
    _check_options(module, example_args, layout, mode, dtype, batchnorm)
    assert example_args is not None
    load_rules()
    report: dict[str, Any] = {"seconds": {}}
    say = Stages(progress, report["seconds"])
    say("capture")
    captured, mode = _capture(module, tuple(example_args), dict(example_kwargs or {}), dynamic_shapes, mode)
    report["persistent"] = sorted(_persistent(module))
    if source is not None:
        captured.graph = SingleBias(way_home.fixed(source)).run(captured.graph, captured.tensors)
        unread = way_home.left_out(source, captured.graph)
        captured.graph = way_home.without(captured.graph, unread)
        report["left_out"] = sorted(unread)
    conversion = from_captured(captured, layout, mode, dtype, batchnorm, report, say, source)
    conversion.example = (tuple(example_args), dict(example_kwargs or {}))
    return conversion


def from_captured(
    captured: Captured,
    layout: str = "keras",
    mode: str = "both",
    dtype: str | None = None,
    batchnorm: str = "torch",
    report: dict[str, Any] | None = None,
    say: Stages | None = None,
    source: TorchConversion | None = None,
) -> Conversion:
    """What `to_keras` does behind the capture: passes, support check, emission. `report` may hold "persistent"
    names; `source`: whose module was captured."""
    report = {"seconds": {}} if report is None else report
    say = say or Stages(None, report["seconds"])
    say("passes")
    tensors: dict[str, Any] = dict(captured.tensors)
    graph = run_passes(captured.graph, tensors)
    require_support(graph)
    source_dtype = next(
        (p.value.type.dtype for p in graph.parameters.values() if p.kind == "parameter" and p.value.type.is_floating),
        None,
    )

    def make(wanted: str | None) -> Conversion:
        made = emitted(wanted)
        if source is not None:
            made.report["paths"] = way_home.paths(source, made)
        return made

    orders = None if source is None or layout == "torch" else way_home.orders_of(source)

    def emitted(wanted: str | None) -> Conversion:
        if wanted is None:
            return _emit(graph, tensors, captured, layout, mode, batchnorm, report, make, orders)
        typed, own = retype(captured.graph, _retyped(captured.graph, wanted)), dict(captured.tensors)
        typed = run_passes(typed, own)  # again: constants are folded in the wanted precision
        return _emit(typed, own, captured, layout, mode, batchnorm, report, make, orders)

    say("emit")
    conversion = make(dtype if dtype != source_dtype else None)
    say.done()
    return conversion


def _check_options(module: Any, args: Any, layout: str, mode: str, dtype: str | None, batchnorm: str) -> None:
    import torch

    if not isinstance(module, (torch.nn.Module, torch.export.ExportedProgram)):
        raise UsageError(f"the source is a {type(module).__name__}, not a torch.nn.Module or ExportedProgram")
    if not isinstance(args, (tuple, list)):
        raise UsageError(
            f"example_args is a {type(args).__name__}: give a tuple of example inputs, (x,) for a single one"
        )
    for name, value, allowed in (
        ("layout", layout, ("keras", "torch")),
        ("mode", mode, ("both", "eval")),
        ("batchnorm", batchnorm, ("torch", "keras")),
    ):
        if value not in allowed:
            raise UsageError(f"{name}={value!r}: choose {' or '.join(map(repr, allowed))}")
    if dtype is not None and dtype not in FLOATS:
        raise UsageError(f"dtype={dtype!r}: choose one of {', '.join(FLOATS)}")


def _capture(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any, mode: str
) -> tuple[Captured, str]:
    """The graph of the wanted mode or modes. An exported program has one mode and keeps it."""
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        return from_program(module, None, None, is_supported), "eval"
    evaluation = capture(module, args, kwargs, dynamic_shapes, training=False, has_rule=is_supported)
    if mode == "eval" or not _depends_on_mode(module):
        return evaluation, mode
    try:
        train = capture(module, args, kwargs, dynamic_shapes, training=True, has_rule=is_supported)
    except CaptureError as error:
        raise CaptureError(
            f'in train mode: {error} The eval mode alone converts: mode="eval" (--mode eval).'
        ) from error
    train.graph = merge_modes(train.graph, evaluation.graph)
    train.tensors = {**evaluation.tensors, **train.tensors}
    return train, mode


def _depends_on_mode(module: Any) -> bool:
    """Whether the module may act differently in train mode. Modules of torch.nn known not to are taken at their
    word."""
    import torch

    modal = (
        torch.nn.modules.batchnorm._NormBase,
        torch.nn.modules.dropout._DropoutNd,
        torch.nn.RReLU,
        torch.nn.RNNBase,
        torch.nn.MultiheadAttention,
    )
    for m in module.modules():
        if isinstance(m, modal) or not type(m).__module__.startswith("torch.nn.modules."):
            return True
        if m._forward_pre_hooks or m._forward_hooks:  # the old weight_norm and spectral_norm
            return True
    return False


def _persistent(module: Any) -> set[str]:
    """Names that the module's state dict holds."""
    state = module.state_dict  # a property of an ExportedProgram, a method of a module
    return set(state() if callable(state) else state)


def _retyped(graph: Graph, wanted: str) -> dict[str, str]:
    """Which dtypes become which: every floating one `wanted`, complex ones the pair of it."""
    floats = {v.type.dtype for v in graph.values() if v.type.is_floating} | {"float32"}
    pair = "complex128" if wanted == "float64" else "complex64"
    return {**dict.fromkeys(floats, wanted), "complex64": pair, "complex128": pair}


def _emit(
    graph: Graph,
    tensors: dict[str, Any],
    captured: Captured,
    layout: str,
    mode: str,
    batchnorm: str,
    report: dict[str, Any],
    make: Callable[[str | None], Conversion],
    orders: way_home.Orders | None,
) -> Conversion:
    emitted = emit(graph, tensors, layout == "keras", batchnorm, orders)
    counts = emitted.counts
    total = counts["native"] + counts["interpreted"]
    full = {
        **report,
        "nodes": total,
        "native_share": round(counts["native"] / total, 4) if total else 1.0,
        "interpreted": emitted.interpreted,
        "transposes": counts["transposes"],
        "transposed_elements": counts["transposed elements"],
        "needs_layers": _needs_layers(emitted.model),
        "versions": _versions(),
    }
    names = captured.output_names
    outputs = [(i, o) for i, o in enumerate(graph.outputs) if isinstance(o, Value)]
    constants = {
        i: o.text if isinstance(o, Sym) else o for i, o in enumerate(graph.outputs) if not isinstance(o, Value)
    }
    return Conversion(
        emitted.model,
        tuple(_port(v.name, p) for v, p in zip(graph.inputs, emitted.inputs, strict=True)),
        tuple(_port(names[i], p) for (i, _), p in zip(outputs, emitted.outputs, strict=True)),
        _entries(graph, emitted, captured),
        captured.output_spec,
        mode,
        layout,
        batchnorm,
        full,
        tuple(sorted(emitted.sites, key=lambda s: s.index)),
        dict(graph.bounds),
        constants,
        _remake=make,
    )


def _port(name: str, placed: Placed) -> Port:
    dims = tuple(d.text if isinstance(d, Sym) else d for d in placed.type.shape)
    return Port(name, placed.type.dtype, dims, None if is_identity(placed.perm) else placed.perm)


def _entries(graph: Graph, emitted: Emitted, captured: Captured) -> tuple[WeightEntry, ...]:
    """The weight map, in the order of torch's names, ties last."""
    places = layer_paths(emitted.model)
    made: dict[str, WeightEntry] = {}
    for ref, layer, attribute in emitted.bindings:
        from .weights import variable_at

        p = graph.parameters.get(ref.name)
        kind, trainable = (p.kind, p.trainable) if p is not None else ("constant", False)
        variable = variable_at(layer, (attribute,))
        made.setdefault(
            ref.name,
            WeightEntry(
                ref.name,
                variable,
                kind,
                trainable,
                None,
                ref.transform,
                (*places[id(layer)], attribute),
                ref.type.dtype,
            ),
        )
    entries = [made[n] for n in dict.fromkeys([*graph.parameters, *made]) if n in made]
    for name, first in captured.tied.items():
        if first in made:
            e = made[first]
            entries.append(WeightEntry(name, e.variable, e.kind, e.trainable, first, e.transform, e.location, e.dtype))
    return tuple(entries)


def _needs_layers(model: Any) -> bool:
    """Whether a reader of the saved file must import isomorph.convert.layers first."""
    return any(type(layer).__module__.startswith("isomorph.") for layer in every_layer(model))


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("isomorph", "torch", "tensorflow", "keras", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
