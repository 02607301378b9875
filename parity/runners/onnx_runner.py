"""An ONNX model on ONNX Runtime: forward only. In float64 by ONNX Runtime where it has the kernels, else by ONNX's own
reference evaluator."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isomorph.convert.errors import UnsupportedError, UsageError, one_line
from isomorph.convert.inputspec import FLOATS
from isomorph.parity.matching.recorded import from_metadata
from isomorph.parity.runners.arrays import ArrayRunner, inputs_for, inputs_that_run, nest_of, plain
from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, Request
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.tolerance import Array

__all__ = ["OnnxRunner", "open_onnx"]

LIMIT = 2**31 - 1  # bytes of a protobuf message
AGREES = 1e-2  # relative error to which the float64 evaluation must agree with ONNX Runtime's own
NO_GRADIENT = "an ONNX model has no gradients"


class OnnxRunner(ArrayRunner):
    """A model proto behind the `Runner` protocol. engine: "onnxruntime" or "reference"."""

    def __init__(self, model: Any, about: About, dtype: str = "own", engine: str = "onnxruntime") -> None:
        super().__init__(about, dtype)
        self._model, self._engine = model, engine
        _, self._nesting = nest_of([value.name for value in model.graph.output])  # the file's order is its own
        self._session: Any = None

    def run(self, arrays: list[Array], request: Request) -> Any:
        """See `ArrayRunner`."""
        if self._session is None:
            self._session = session(self._model, self._about.device, self._engine)
        names = [port.name for port in self._about.inputs]
        outputs = self._session.run(None, dict(zip(names, arrays, strict=True)))
        found = [np.asarray(output) for output in outputs]
        if isinstance(self._nesting, dict):
            return dict(zip(self._nesting, found, strict=True))
        return found if isinstance(self._nesting, list) else found[0]

    def parameters(self) -> dict[str, ParameterInfo]:
        """The initializers; none is trainable."""
        from isomorph.parity.runners import onnx_graph

        return {
            t.name: ParameterInfo(t.name, tuple(t.dims), onnx_graph.dtype_name(t.data_type), False)
            for t in self._model.graph.initializer
        }

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        from onnx import numpy_helper

        return {t.name: plain(numpy_helper.to_array(t)) for t in self._model.graph.initializer}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`; the model is opened anew at the next run."""
        from onnx import numpy_helper

        for tensor in self._model.graph.initializer:
            if tensor.name in state:
                kind = numpy_helper.to_array(tensor).dtype
                array = np.asarray(state[tensor.name]).astype(kind).reshape(tuple(tensor.dims))
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                self._session = None

    def to_float64(self) -> OnnxRunner:
        """See `Runner`."""
        if "float64" in self._about.missing:
            raise UnsupportedError(self._about.missing["float64"])
        engine = self._about.environment["onnx_float64"]
        from isomorph.parity.runners import onnx_graph

        return OnnxRunner(onnx_graph.widened(self._model), self._about, "float64", engine)

    def index_bounds(self) -> Mapping[str, int]:
        """See `Runner`: told from the graph."""
        from isomorph.parity.runners.onnx_bounds import index_bounds

        return index_bounds(self._model)

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """Each node of the main graph in its order, under its name, or that of its first output."""
        from isomorph.parity.runners import onnx_graph

        opened = onnx_graph.exposed(self._model)
        machine = session(opened, self._about.device, self._engine, optimise=False)
        given = dict(zip((p.name for p in self._about.inputs), self.inputs(request), strict=True))
        names = [value.name for value in opened.graph.output]
        known = {**self.state(), **given, **dict(zip(names, machine.run(names, given), strict=True))}
        return tuple(
            ModuleTrace(
                node.name or node.output[0], node.op_type, 0,
                tuple(plain(known[i]) for i in node.input if _is_array(known.get(i))),
                tuple(plain(known[o]) for o in node.output if _is_array(known.get(o))),
            )
            for node in self._model.graph.node
        )  # fmt: skip


def open_onnx(spec: ModelSpec) -> Opened:
    """A .onnx file, an onnx.ModelProto or an OnnxExport. UsageError: ONNX Runtime is not installed, no such file, no
    model that it can run, data outside the model's folder, or inputs that do not fit."""
    runtime = _runtime()
    from isomorph.parity.runners import onnx_graph

    is_file = isinstance(spec.target, str | os.PathLike)
    path = spec.target if is_file else "the ONNX model"
    model = onnx_graph.load(Path(spec.target)) if is_file else getattr(spec.target, "proto", spec.target)
    held = {t.name for t in model.graph.initializer}
    inputs = inputs_for(spec, onnx_graph.ports(v for v in model.graph.input if v.name not in held))
    outputs = onnx_graph.ports(model.graph.output)
    try:
        session(model, spec.device, "onnxruntime")
    except Exception as error:  # ONNX Runtime raises its own types, one for each kind of refusal
        raise UsageError(f"{path}: ONNX Runtime cannot run it: {one_line(error)}") from error
    about = About(
        "onnx", inputs.ports, tuple(outputs), modes=("eval",), gradients=False,
        precision=onnx_graph.precision(model), device=spec.device, sizes=inputs.sizes,
        missing={"gradients": NO_GRADIENT},
        environment={"onnxruntime": str(runtime.__version__), "onnxruntime_threads": "1"},
    )  # fmt: skip
    own = OnnxRunner(model, about)
    inputs = inputs_that_run(spec, inputs, lambda arrays: own.respond(Request(arrays, "eval", backward=False)))
    engine, reason = _float64(model, about, inputs.arrays)
    about = _with_float64(about, engine, reason)
    record = from_metadata({entry.key: entry.value for entry in model.metadata_props})
    return Opened(OnnxRunner(model, about), inputs.arrays, inputs.values, record)


def session(model: Any, device: str, engine: str, optimise: bool = True) -> Any:
    """What has `run(names or None, inputs)`. Raises whatever the engine raises for a model it cannot run."""
    if engine == "reference":
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model)
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(runtime, device)
    if model.ByteSize() <= LIMIT:
        return runtime.InferenceSession(model.SerializeToString(), options, providers=providers)
    from isomorph.convert.onnx_out.export import write

    # larger than a message can be: its data goes to a file beside it
    with tempfile.TemporaryDirectory(prefix="isomorph-") as folder:
        path = Path(folder) / "model.onnx"
        write(model, path, external_data=True)
        return runtime.InferenceSession(str(path), options, providers=providers)


def _providers(runtime: Any, device: str) -> Sequence[Any]:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise UsageError(f"device {device}: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": int(number or 0), "use_tf32": 0}), "CPUExecutionProvider"]


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("an .onnx file needs ONNX Runtime: pip install onnxruntime") from error
    return onnxruntime


def _float64(model: Any, about: About, arrays: Sequence[Array]) -> tuple[str, str]:
    """The engine that runs the widened model on the example and answers in float64 what ONNX Runtime answers in the
    model's own dtypes; "" and the reason where there is none."""
    from isomorph.parity.runners import onnx_graph

    if about.precision not in (*FLOATS, "float16-weights"):
        return "", "a quantised model has no float64"
    request = Request(tuple(arrays), "eval", backward=False)
    try:
        own = OnnxRunner(model, about).respond(request)
    except Exception as error:  # the inputs were made up, and the model wants others
        return "", f"float64 was not tried, the made-up inputs do not suit the model ({one_line(error)}); give --input"
    wide, reasons = onnx_graph.widened(model), []
    for engine in ("onnxruntime", "reference"):
        try:
            got = OnnxRunner(wide, about, "float64", engine).respond(request)
        except Exception as error:  # no kernel, or a type that does not fit: the engine has no float64 for this model
            reasons.append(f"{engine}: {one_line(error)}")
            continue
        for mine, dtype, theirs in zip(got.outputs, got.dtypes, own.outputs, strict=True):
            if dtype in FLOATS and dtype != "float64":
                reasons.append(f"{engine} answers in {dtype}")
                break
            if theirs.dtype.kind == "f" and not _close(mine, theirs):
                reasons.append(f"{engine} answers something else in float64")
                break
        else:
            return engine, ""
    return "", "; ".join(reasons)


def _close(mine: Array, theirs: Array) -> bool:
    if mine.shape != theirs.shape:
        return False
    finite = np.isfinite(theirs) & np.isfinite(mine)
    difference = np.where(finite, mine - theirs, 0.0)
    scale = float(np.sqrt(np.mean(np.square(np.where(finite, theirs, 0.0))))) if theirs.size else 0.0
    return bool(np.all(np.abs(difference) <= AGREES * (scale + np.abs(np.where(finite, theirs, 0.0)))))


def _with_float64(about: About, engine: str, reason: str) -> About:
    from dataclasses import replace

    if not engine:
        return replace(about, float64=False, missing={**about.missing, "float64": reason})
    return replace(about, environment={**about.environment, "onnx_float64": engine})


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
