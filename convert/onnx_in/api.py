"""`to_torch`: an ONNX model becomes a trainable torch module."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from isomorph.convert.conversion import Port
from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError, one_line
from isomorph.convert.inputspec import FLOATS
from isomorph.convert.stages import Progress, Stages
from isomorph.convert.weights import Transform

from .conversion import TorchConversion, TorchWeight

if TYPE_CHECKING:
    from .lowering import Lowering
    from .modules import Modules
    from .provenance import Origin

__all__ = ["to_torch"]


def to_torch(
    source: Any,
    layout: str = "torch",
    trainable: str = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> TorchConversion:
    """Convert an ONNX model to a torch module with named, trainable parameters; it is in eval mode.

    source: a path of an .onnx file, its bytes, an onnx.ModelProto or onnx_ir.Model; an OnnxExport; a keras.Model, a
        .keras file or a Conversion, which become ONNX first.
    layout: "torch" gives image-like inputs and outputs channels first, and a model that was torch's its own order;
        "source" keeps the order of the source.
    trainable: "auto" (what the file says; else what is a weight and no constant), "all" (every floating initializer
        that does not say what an op does), "none".
    dtype: the floating dtype of parameters and buffers; None keeps them.
    progress: told each stage's name as it begins.

    Raises UsageError (no model that can be read), UnsupportedError (all ops without a rule at once).
    """
    _check_options(layout, trainable, dtype)
    report: dict[str, Any] = {"seconds": {}, "notes": []}
    say = Stages(progress, report["seconds"])
    say("read")
    from . import ports, registry
    from .lowering import Lowering
    from .modules import Modules
    from .provenance import origin_of
    from .reading import NOTES, read
    from .retype import retype

    registry.load_rules()
    model = read(_onnx_of(source))
    origin = origin_of(model.metadata_props)
    report["notes"] += [*model.meta.get(NOTES, ()), *([origin.note] if origin.note else [])]
    say("layers")
    modules = Modules(model, origin, trainable)
    try:
        border = ports.rearranged(model, origin, layout)
        modules.build()
    except IsomorphError:
        raise
    except Exception as error:  # a graph that the checker could not judge
        raise UnsupportedError(f"the layers of the model cannot be made out: {one_line(error)}") from error
    say("lower")
    if dtype is not None:
        retype(model, dtype)
    lowering = Lowering(model.graph, dict(model.opset_imports), modules.initializers, root=modules.root)
    module, structure = _nested(lowering, modules.origin, len(border[1]))
    module = module.eval()
    if dtype is not None:
        import torch

        module = module.to(getattr(torch, dtype))
        border = (_retyped(border[0], dtype), _retyped(border[1], dtype))
    say.done()
    return _conversion(module, modules, border, structure, report)


def _retyped(ports: tuple[Port, ...], dtype: str) -> tuple[Port, ...]:
    return tuple(replace(p, dtype=dtype if p.dtype in FLOATS else p.dtype) for p in ports)


def _nested(lowering: Lowering, origin: Origin, count: int) -> tuple[Any, Any]:
    """(the program, the structure that its result nests in, as the original's did)."""
    from . import ports
    from .program import Program

    program = lowering.program()
    structure, constants = origin.output_structure, origin.output_constants
    tensors = [leaf for leaf in sorted(ports.leaves(structure)) if leaf not in constants]
    if len(tensors) != count or structure in (None, 0):
        return program, None if count != 1 else 0
    output = next(node for node in lowering.graph.nodes if node.op == "output")
    results = output.args[0] if count > 1 else (output.args[0],)
    output.args = (ports.nest(structure, constants | dict(zip(tensors, results, strict=True))),)
    return Program(lowering.root, lowering.graph), structure


def _check_options(layout: str, trainable: str, dtype: str | None) -> None:
    for name, value, allowed in (
        ("layout", layout, ("torch", "source")),
        ("trainable", trainable, ("auto", "all", "none")),
    ):
        if value not in allowed:
            raise UsageError(f"{name}={value!r}: choose {' or '.join(map(repr, allowed))}")
    if dtype is not None and dtype not in FLOATS:
        raise UsageError(f"dtype={dtype!r}: choose one of {', '.join(FLOATS)}")


def _onnx_of(source: Any) -> Any:
    """What `read` takes: Keras models and our own conversions become ONNX first."""
    from isomorph.convert.conversion import Conversion

    if hasattr(source, "proto") and hasattr(source, "save"):  # an OnnxExport
        return source.proto
    if isinstance(source, Conversion) or _is_keras(source) or str(source).endswith(".keras"):
        from isomorph.convert.onnx_out.api import to_onnx

        return to_onnx(source).proto
    return source


def _is_keras(source: Any) -> bool:
    """Without importing Keras for it."""
    import sys

    keras = sys.modules.get("keras")
    return keras is not None and isinstance(source, keras.Model)


def _conversion(
    module: Any,
    modules: Modules,
    border: tuple[tuple[Port, ...], tuple[Port, ...]],
    structure: Any,
    report: dict[str, Any],
) -> TorchConversion:
    import torch

    shapes = {held.name: tuple(int(d) for d in held.value.const_value.shape) for held in modules.held.values()}
    entries = _entries(module, modules)
    made = Counter(type(m).__name__ for m in modules.made.values())
    report |= {
        "layers": dict(sorted(made.items())),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "functional": modules.functional(),
        "transposes": sum(n.op_type == "Transpose" for n in modules.model.graph),
        "source": modules.origin.source or "onnx",
        "versions": {"torch": torch.__version__},
    }
    constants = tuple(modules.origin.output_constants)
    return TorchConversion(module, *border, entries, structure, constants, shapes, report)


def _entries(module: Any, modules: Modules) -> tuple[TorchWeight, ...]:
    """The weight map, in the order of the state dict."""
    state = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    found: dict[str, TorchWeight] = {}
    for held in modules.held.values():
        for piece in held.pieces:
            first, *tied = piece.names
            for name in piece.names:
                found[name] = TorchWeight(
                    name,
                    state[name],
                    held.kind,
                    held.trainable,
                    first if name in tied else None,
                    Transform(piece.steps).inverse,
                    (held.name,),
                    str(state[name].dtype).removeprefix("torch."),
                    piece.part,
                )
    for name in module.state_dict(keep_vars=True):
        if name not in found:
            kind = str(state[name].dtype).removeprefix("torch.")
            found[name] = TorchWeight(name, state[name], "constant", False, None, Transform(), (), kind)
    return tuple(found[n] for n in [*(n for n in state if n in found)])
