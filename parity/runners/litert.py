"""A LiteRT (TensorFlow Lite) flatbuffer: forward only. Quantised inputs and outputs are compared as the real numbers
they stand for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isomorph.convert.errors import UsageError
from isomorph.parity.runners.arrays import ArrayRunner, inputs_for, inputs_that_run, nest_of, plain
from isomorph.parity.runners.base import About, ModuleTrace, PortInfo, Request
from isomorph.parity.runners.spec import ModelSpec, Opened
from isomorph.parity.tolerance import Array

__all__ = ["LiteRTRunner", "open_litert"]

MISSING = {
    "gradients": "a LiteRT model has no gradients",
    "float64": "a LiteRT model has the dtypes it was converted with",
}


@dataclass(frozen=True)
class Slot:
    """An input or output tensor. scale 0.0: it is not quantised."""

    name: str
    index: int
    dtype: str
    dims: tuple[int | str | None, ...]
    scale: float = 0.0
    zero: int = 0

    @property
    def port(self) -> PortInfo:
        """As the caller sees it: quantised numbers as float32."""
        return PortInfo(self.name, "float32" if self.scale else self.dtype, self.dims)

    def quantised(self, array: Array) -> Array:
        """Real numbers as the tensor holds them: rounded and saturated."""
        if not self.scale:
            return np.ascontiguousarray(array.astype(self.dtype))
        kind = np.iinfo(self.dtype)
        levels = np.rint(np.nan_to_num(np.asarray(array, np.float64)) / self.scale) + self.zero
        return np.ascontiguousarray(np.clip(levels, kind.min, kind.max).astype(self.dtype))

    def real(self, array: Array) -> Array:
        """What the tensor's levels stand for."""
        if not self.scale:
            return array
        return ((array.astype(np.float64) - self.zero) * self.scale).astype(np.float32)


class LiteRTRunner(ArrayRunner):
    """One signature of a flatbuffer on one thread, by LiteRT's own kernels and no delegate, so that a run can be
    repeated."""

    def __init__(self, path: Path, inputs: Sequence[Slot], outputs: Sequence[Slot], nesting: Any, about: About) -> None:
        super().__init__(about)
        self._path, self._slots, self._results, self._nesting = path, tuple(inputs), tuple(outputs), nesting
        self._interpreter = interpreter(path)
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._stateful = any(op["op_name"] == "VAR_HANDLE" for op in self._interpreter._get_ops_details())

    def run(self, arrays: list[Array], request: Request) -> Any:
        """See `ArrayRunner`."""
        if self._stateful:  # resource variables live as long as their interpreter
            self._interpreter, self._shapes = interpreter(self._path), ()
        self._invoke(self._interpreter, arrays)
        found = [slot.real(np.array(self._interpreter.get_tensor(slot.index))) for slot in self._results]
        return _filled(self._nesting, found)

    def _invoke(self, machine: Any, arrays: Sequence[Array]) -> None:
        shapes = tuple(array.shape for array in arrays)
        if shapes != self._shapes or machine is not self._interpreter:
            for slot, shape in zip(self._slots, shapes, strict=True):
                machine.resize_tensor_input(slot.index, shape)
            machine.allocate_tensors()
            self._shapes = shapes if machine is self._interpreter else self._shapes
        machine.reset_all_variables()
        for slot, array in zip(self._slots, arrays, strict=True):
            machine.set_tensor(slot.index, slot.quantised(array))
        machine.invoke()

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """Each op of the graph in its order, under the name of its first output tensor."""
        machine = interpreter(self._path, keep=True)
        self._invoke(machine, self.inputs(request))
        details = {d["index"]: d for d in machine.get_tensor_details()}

        def value(index: int) -> Array:
            scale, zero = details[index]["quantization"]
            dtype = np.dtype(details[index]["dtype"]).name
            return plain(Slot("", index, dtype, (), float(scale), int(zero)).real(np.array(machine.get_tensor(index))))

        traces = []
        for op in machine._get_ops_details():
            outputs = [i for i in op["outputs"] if i in details]
            with contextlib.suppress(ValueError):  # a tensor of a delegate or an optional one has no values
                inputs = tuple(value(i) for i in op["inputs"] if i in details)
                results = tuple(value(i) for i in outputs)
                traces.append(ModuleTrace(details[outputs[0]]["name"], op["op_name"], 0, inputs, results))
        return tuple(traces)


def open_litert(spec: ModelSpec) -> Opened:
    """A .tflite file. UsageError: no such file, no flatbuffer, ops that need a runtime that is not installed, several
    signatures of which none is `serving_default`, or inputs that do not fit."""
    path = Path(str(spec.target))
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    machine = interpreter(path)
    found_in, found_out = _signature(path, machine)
    order, nesting = nest_of([slot.name for slot in found_out])
    outputs = [found_out[index] for index in order]
    inputs = inputs_for(spec, [slot.port for slot in found_in])
    about = About(
        "litert", inputs.ports, tuple(slot.port for slot in outputs), modes=("eval",), gradients=False, float64=False,
        precision=_precision(machine, found_in), sizes=inputs.sizes, missing=MISSING,
        environment={"litert": _version(), "litert_delegate": "none", "litert_threads": "1"},
        notes=("LiteRT runs its own kernels on one thread here; XNNPACK and other delegates are not used",),
    )  # fmt: skip
    runner = LiteRTRunner(path, found_in, outputs, nesting, about)
    inputs = inputs_that_run(spec, inputs, lambda arrays: runner.respond(Request(arrays, "eval", backward=False)))
    return Opened(runner, inputs.arrays, inputs.values)


def interpreter(path: Path, keep: bool = False) -> Any:
    """The file in an interpreter. keep: so that every tensor can be read after a run."""
    try:
        from ai_edge_litert import interpreter as runtime
    except ImportError:
        runtime = _tensorflow()
    try:
        machine = runtime.Interpreter(
            model_content=path.read_bytes(), num_threads=1, experimental_preserve_all_tensors=keep,
            experimental_op_resolver_type=_resolver(runtime).BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )  # fmt: skip
        machine.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if "Select TensorFlow op" in text or "Flex" in text:
            text = "it needs TensorFlow ops (Flex), which this LiteRT runtime does not have"
        raise UsageError(f"{path}: LiteRT cannot run it: {text[:300]}") from error
    return machine


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UsageError("a .tflite file needs LiteRT: pip install ai-edge-litert") from error
    if not hasattr(tf, "lite"):
        raise UsageError("a .tflite file needs LiteRT, which this TensorFlow does not have: pip install ai-edge-litert")
    return tf.lite


def _resolver(runtime: Any) -> Any:
    return runtime.OpResolverType if hasattr(runtime, "OpResolverType") else runtime.experimental.OpResolverType


def _signature(path: Path, machine: Any) -> tuple[list[Slot], list[Slot]]:
    """The inputs and outputs by signature name where there is a signature, else by tensor name."""
    names = list(machine.get_signature_list())
    if not names:
        return [_slot(d["name"], d) for d in machine.get_input_details()], [
            _slot(d["name"], d) for d in machine.get_output_details()
        ]
    key = "serving_default" if "serving_default" in names else names[0]
    if len(names) > 1 and key != "serving_default":
        raise UsageError(f"{path}: has the signatures {', '.join(names)}, and none is serving_default")
    primary = {d["index"] for d in machine.get_input_details()}
    runner = interpreter(path).get_signature_runner(key)  # of its own: it holds on to the interpreter's memory
    inputs = [_slot(name, d) for name, d in runner.get_input_details().items()]
    outputs = [_slot(name, d) for name, d in runner.get_output_details().items()]
    if {slot.index for slot in inputs} != primary:
        raise UsageError(f"{path}: the signature {key} is not that of the file's main graph")
    return inputs, outputs


def _slot(name: str, detail: Mapping[str, Any]) -> Slot:
    signature = detail.get("shape_signature", ())
    shape = [int(d) for d in (signature if len(signature) else detail["shape"])]
    dims = tuple(("batch" if axis == 0 else None) if d < 0 else d for axis, d in enumerate(shape))
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    return Slot(name, int(detail["index"]), dtype.name, dims, float(scale) if dtype.kind in "iu" else 0.0, int(zero))


def _precision(machine: Any, inputs: Sequence[Slot]) -> str:
    """By what dtypes the tensors have that the graph computes, and those that it holds."""
    made = {int(i) for op in machine._get_ops_details() for i in op["outputs"]} | {slot.index for slot in inputs}
    computed: set[str] = set()
    held: set[str] = set()
    for detail in machine.get_tensor_details():
        dtype, scaled = np.dtype(detail["dtype"]).name, bool(len(detail["quantization_parameters"]["scales"]))
        kind = dtype if dtype.startswith("float") or scaled else ""
        (computed if int(detail["index"]) in made else held).add(kind)
    for name, of, sign in (
        ("int8", computed, "int8"), ("int8", computed, "uint8"), ("int16", computed, "int16"),
        ("int8-weights", held, "int8"), ("int8-weights", held, "int4"), ("float16", computed, "float16"),
        ("float16-weights", held, "float16"),
    ):  # fmt: skip
        if sign in of:
            return name
    return "float32"


def _filled(nesting: Any, arrays: Sequence[Array]) -> Any:
    if isinstance(nesting, dict):
        return {name: arrays[index] for name, index in nesting.items()}
    return [arrays[index] for index in nesting] if isinstance(nesting, list) else arrays[nesting]


def _version() -> str:
    from importlib import metadata

    for package in ("ai-edge-litert", "tensorflow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{package} {metadata.version(package)}"
    return "unknown"
