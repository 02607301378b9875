"""The steps of `isomorph convert`: a source is loaded, and each converter of its route makes the next model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import InputSpec
from isomorph.convert.routes import Converter, is_code

__all__ = ["Model", "in_dtype", "load", "step"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """A model between two steps.

    format: a key of `routes.FORMATS`. subject: what `check` takes: a torch module or its exported program's module, a
    TorchConversion, a Keras model, a Conversion, an OnnxExport, or the path of an .onnx file. example: (args, kwargs)
    that it accepts; None where it declares its inputs. specs: `--input`, in its own axis order. modes: those it has.
    source: of a torch source, what was loaded.
    """

    format: str
    subject: Any
    example: Any = None
    specs: tuple[InputSpec, ...] = ()
    modes: tuple[str, ...] = ("eval", "train")
    notes: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    source: Any = field(default=None, repr=False)

    @property
    def ports(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """(inputs, outputs) of a conversion."""
        if self.format == "onnx":
            from isomorph.parity.runners import onnx_graph

            graph = self.subject.proto.graph
            held = {t.name for t in graph.initializer}
            return onnx_graph.ports(v for v in graph.input if v.name not in held), onnx_graph.ports(graph.output)
        return self.subject.inputs, self.subject.outputs


# ------------------------------------------------------------------------------------------------------------- loading
def load(
    kind: str, text: str, weights: Path | None, specs: tuple[InputSpec, ...], seed: int, target: str, say: Say
) -> Model:
    """The model that SOURCE names; one of Keras too, where the code that was named made one and the target is another.

    UsageError: there is no such file, or it is not what it says.
    """
    if kind == "onnx":
        say("load")
        if not Path(text).is_file():
            raise UsageError(f"{text} is not a file" if Path(text).exists() else f"{text}: no such file")
        return Model("onnx", text, specs=specs, modes=("eval",))
    if kind == "keras" and not is_code(text):
        say("load")
        return _keras(_keras_file(text), specs)
    say("start")
    from isomorph.convert.sources import load_source

    say("load")
    if target == "keras" or not is_code(text):
        return _torch(load_source(text, weights, specs, seed), specs)
    return _of_code(kind, text, weights, specs, seed)


def _of_code(kind: str, text: str, weights: Path | None, specs: tuple[InputSpec, ...], seed: int) -> Model:
    """What named code makes, on the way to ONNX or torch: a Keras model, or a torch module if that is a source here."""
    from isomorph.convert.named_code import cwd_importable
    from isomorph.convert.sources import source_of
    from isomorph.parity.runners.open import run_code

    with cwd_importable():
        home, made = run_code(text, seed)
        if _is_keras(made):
            if weights is not None:
                raise UsageError(f"{text}: --weights is for torch modules, and this is a Keras model")
            return _keras(made, specs)
        if kind == "keras":
            raise UsageError(f"{text}: it makes no Keras model; from torch to torch there is nothing to convert")
        return _torch(source_of(made, text, weights, specs, seed, home), specs)


def _torch(found: Any, specs: tuple[InputSpec, ...]) -> Model:
    modes = ("eval",) if found.exported_program is not None else ("eval", "train")
    return Model(
        "torch", found.module, (found.args, found.kwargs), specs, modes, tuple(found.notes), source=found
    )  # fmt: skip


def _keras_file(text: str) -> Any:
    """The Conversion, or the Keras model, of a file."""
    from isomorph.parity.runners.keras_model import load_file

    return load_file(text)


def _keras(model: Any, specs: tuple[InputSpec, ...]) -> Model:
    eval_only = hasattr(model, "replay") and model.mode == "eval"
    return Model("keras", model, specs=specs, modes=("eval",) if eval_only else ("eval", "train"))


def _is_keras(made: Any) -> bool:
    """A Keras model, or a Conversion."""
    names = {f"{c.__module__.partition('.')[0]}.{c.__name__}" for c in type(made).__mro__}
    return "keras.Model" in names or hasattr(made, "replay")


# --------------------------------------------------------------------------------------------------------------- steps
def step(leg: Converter, model: Model, options: Mapping[str, Any], say: Say) -> Model:
    """What the converter makes of the model. options: those of the command line that are for it."""
    return {"keras": _to_keras, "onnx": _to_onnx, "torch": _to_torch}[leg.target](model, options, say)


def _to_keras(model: Model, options: Mapping[str, Any], say: Say) -> Model:
    say("start")
    from isomorph.convert.api import to_keras

    say("capture")
    if model.source is not None:
        found = model.source
        module, args, kwargs = found.exported_program or found.module, found.args, found.kwargs
        shapes = found.dynamic_shapes
    else:
        from isomorph.parity.runners.torch_conversion import call_of

        module, kwargs = model.subject.module, {}
        args, shapes = call_of(model.subject, model.specs)
    made = to_keras(
        module, args, kwargs, dynamic_shapes=shapes, layout=options.get("layout") or "keras",
        mode=options.get("mode") or "both", dtype=options.get("dtype"), batchnorm=options.get("batchnorm") or "torch",
        progress=say,
    )  # fmt: skip
    modes = ("eval", "train") if made.mode == "both" else ("eval",)
    return Model("keras", made, modes=modes, report=dict(made.report), specs=model.specs)


def _to_onnx(model: Model, options: Mapping[str, Any], say: Say) -> Model:
    say("start")
    from isomorph.convert.onnx_out.api import to_onnx
    from isomorph.parity.runners.keras_model import declared

    made = to_onnx(model.subject, opset=options.get("opset"), progress=say, inputs=declared(model.subject, model.specs))
    return Model("onnx", made, modes=("eval",), report=dict(made.report), specs=model.specs)


def _to_torch(model: Model, options: Mapping[str, Any], say: Say) -> Model:
    say("start")
    from isomorph.convert.onnx_in.api import to_torch

    made = to_torch(
        model.subject, layout=options.get("layout") or "torch", trainable=options.get("trainable") or "auto",
        dtype=options.get("dtype"), progress=say,
    )  # fmt: skip
    specs = tuple(_in_torch_order(spec, made.inputs) for spec in model.specs)
    made.inputs = tuple(_declared(port, specs) for port in made.inputs)
    notes = tuple(made.report.get("notes", ()))
    return Model("torch", made, report=dict(made.report), specs=specs, notes=notes)


def _declared(port: Any, specs: Sequence[InputSpec]) -> Any:
    """The port with the sizes that `--input` fixes: what is written as .pt2 is exported for them."""
    spec = next((s for s in specs if s.name == port.name and len(s.dims) == len(port.dims)), None)
    if spec is None:
        return port
    pairs = zip(port.dims, spec.dims, strict=True)
    return replace(port, dims=tuple(said if isinstance(said, int) else own for own, said in pairs))


def _in_torch_order(spec: InputSpec, ports: Sequence[Any]) -> InputSpec:
    """The spec of a source's input for the torch module's."""
    move = next((port.permutation for port in ports if port.name == spec.name), None)
    if move is None or len(move) != len(spec.dims):
        return spec
    return replace(spec, dims=tuple(spec.dims[move.index(axis)] for axis in range(len(move))))


# ----------------------------------------------------------------------------------------------------------- precision
def in_dtype(model: Model, dtype: str | None) -> Model:
    """A torch model and its inputs as the verification takes them: with `--dtype`, copies in that floating dtype, so
    that the precision asked for is the precision compared."""
    if dtype is None or model.format != "torch":
        return model
    from isomorph.parity.runners.open_torch import in_dtype as cast

    module, example = cast(model.subject, model.example, dtype)
    return replace(model, subject=module, example=example)
