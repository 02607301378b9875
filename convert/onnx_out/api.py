"""`to_onnx`: a Keras model becomes an ONNX model with every variable kept and named."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isomorph.convert.conversion import Conversion, Port
from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError, one_line
from isomorph.convert.stages import Progress, Stages

from .export import OnnxExport

__all__ = ["to_onnx"]

OLDER = (21, 18)  # opsets to try where ONNX Runtime lacks a kernel of the newest


def to_onnx(
    model: Any, opset: int | None = None, progress: Progress | None = None, inputs: Any = None, example: Any = None
) -> OnnxExport:
    """Convert a Keras model to ONNX, checked and run before it is returned.

    model: a built keras.Model on Keras' TensorFlow backend, an isomorph Conversion, or the path of a .keras file.
    opset: the version of the ONNX op set; None is the newest that the installed ONNX Runtime supports.
    progress: told each stage's name as it begins.
    inputs: what the model is called with, for one that does not say: a keras.InputSpec, KerasTensor or array, a list or
        dict of them as one argument, or a tuple of arguments. The first axis of an array is the batch.
    example: arrays to compare the ONNX model with Keras on; drawn where None.

    Raises UsageError, UnsupportedError (all ops without a translation at once), IsomorphError (the file is not valid or
    does not compute what the model does; nothing is returned then).
    """
    _require()
    from .examples import draw, output_dims, symbols
    from .opset import choose
    from .provenance import provenance
    from .trace import trace
    from .train_only import train_only

    report: dict[str, Any] = {"seconds": {}}
    say = Stages(progress, report["seconds"])
    wanted = choose(opset)
    say("load")
    model, conversion = _opened(model)
    say("trace")
    traced = trace(model, inputs, wanted)
    say("keras")
    dims = symbols(traced.ports, None if conversion is None else [_source_dims(p) for p in conversion.inputs])
    examples = draw(model, traced, dims, example, None if conversion is None else conversion.bounds)
    named = zip((*traced.ports, *traced.outs), (*dims, *output_dims(traced, examples)), strict=True)
    ports = {port.name: (port.dtype, d) for port, d in named}
    report |= {"train_only": train_only(model, traced), "tried": []}
    plans = [(n, o) for n in (wanted, *(OLDER if opset is None else ())) for o in (True, False)]

    def write(plan: Plan) -> Any:
        mine = traced if plan[0] == wanted else trace(model, inputs, plan[0])  # an older opset has fewer ops to mark
        data = provenance(mine, ports, conversion)
        report["versions"] = data["versions"]
        return _written(mine, ports, data, examples, plan, report, say)

    proto = _first(plans, write, report["tried"])
    say.done()
    return OnnxExport(proto, report)


Plan = tuple[int, bool]  # opset, and whether tf2onnx optimises


def _first(plans: list[Plan], make: Callable[[Plan], Any], tried: list[str]) -> Any:
    """What the first plan gives that works; tf2onnx's optimisers can break a graph, and ONNX Runtime may lack the
    kernel of an op's newest version. Where none does, the first one's error. tried: what was wrong with those before.
    """
    from .opset import OpsetError

    first: IsomorphError | None = None
    for plan in plans:
        if isinstance(first, OpsetError) == (plan[0] == plans[0][0]) and first is not None:
            continue  # another opset helps where a kernel is missing, and there alone
        try:
            return make(plan)
        except (UnsupportedError, UsageError):
            raise
        except IsomorphError as error:
            first = first or error
            tried.append(f"opset {plan[0]}{'' if plan[1] else ', not optimised'}: {error}")
    assert first is not None
    raise first


def _written(
    traced: Any, ports: Any, data: dict[str, Any], examples: Any, plan: Plan, report: dict[str, Any], say: Stages
) -> Any:
    """The checked proto by one plan; what is to be said of it goes into the report."""
    from .finish import finish
    from .lower import MAX_OPSET, lower
    from .opset import raised
    from .provenance import set_provenance
    from .tidy import every_node, transposes
    from .verify import verify

    opset, optimise = plan
    say("lower")
    proto = lower(traced, min(opset, MAX_OPSET), optimise)
    if opset > MAX_OPSET:
        proto = raised(proto, opset)
    say("finish")
    proto = finish(
        proto,
        traced.inputs,
        traced.outputs,
        traced.variables,
        traced.arrays(),
        ports,
        traced.marks.layer_of,
        traced.name,
    )
    set_provenance(proto, data)
    say("verify")
    report["parity"] = verify(proto, examples)
    kinds = Counter(node.op_type for node in every_node(proto.graph))
    report |= {
        "variables": len(traced.values),
        "opset": opset,
        "optimised": optimise,
        "nodes": sum(kinds.values()),
        **dict(zip(("transposes", "kernel_transposes"), transposes(proto.graph), strict=True)),
        "markers": dict(sorted(Counter(k for k in traced.marks.kinds if k != "Gather").items())),
    }
    return proto


def _require() -> None:
    """UsageError where a package is missing or Keras computes on another backend."""
    from importlib.util import find_spec

    for package in ("keras", "tensorflow", "tf2onnx", "onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise UsageError(f"to_onnx needs {package}, which is not installed (the extra 'onnx')")
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"to_onnx traces with TensorFlow, and Keras runs on {keras.backend.backend()}: save the model, and convert "
            "the file in a process with KERAS_BACKEND=tensorflow"
        )


def _opened(model: Any) -> tuple[Any, Conversion | None]:
    """(the Keras model, the conversion that it came from)."""
    import keras

    if isinstance(model, str | os.PathLike):
        model = _loaded(Path(model))
    if isinstance(model, Conversion):
        return model.model, model
    if not isinstance(model, keras.Model):
        raise UsageError(f"the source is a {type(model).__name__}, not a keras.Model, a Conversion or a path")
    return model, None


def _loaded(path: Path) -> Any:
    import keras

    from isomorph.convert import conversion, layers  # noqa: F401  registers what the file may hold

    if path.suffix != ".keras":
        raise UsageError(f"{path}: not a .keras file")
    try:
        return conversion.load(path)
    except UsageError:
        if not path.is_file():
            raise
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras raises nearly every type
        raise UsageError(f"{path}: Keras cannot load it: {one_line(error)}") from error


def _source_dims(port: Port) -> tuple[int | str, ...]:
    """A port's dims in the order of Keras' array."""
    return port.dims if port.permutation is None else tuple(port.dims[i] for i in port.permutation)
