"""A model as its own framework loads and runs it, in a process of its own, to be measured: no runner around it.

    python -P -m isomorph.parity.gate.bare DESCRIPTOR      started by `measure` only

stdin has lines of JSON. The first is what to load, `Load`; it is answered, on the descriptor, when the model was
loaded and run once: {"before": bytes resident before, "peak": most bytes resident since}. Every other line is a
number n: the model runs n times, {"seconds": the median of one run}. {"error": text} where something was raised. Each
run is from numpy arrays to numpy arrays: torch eagerly in inference mode, Keras by `predict_on_batch`, a SavedModel
by its signature, ONNX Runtime and LiteRT by a session on one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from isomorph.convert.errors import IsomorphError, UsageError, one_line
from isomorph.convert.routes import SCHEMES, is_code

__all__ = ["Load", "Peak", "loader", "main"]

Arrays = Sequence[Any]
Run = Callable[[], Any]
_PAUSE = 0.002  # seconds between two looks at the memory


@dataclass(frozen=True)
class Load:
    """What to load. text, weights, inputs, seed, device: as of a `ModelSpec`. arrays: an .npz with its inputs, "0",
    "1", ..., in its own order and axis order. names: theirs. core: of the processor, the only one to be used."""

    text: str
    arrays: str
    names: tuple[str, ...] = ()
    weights: str | None = None
    inputs: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"
    core: int | None = None


def loader(load: Load, arrays: Arrays) -> Callable[[], Run]:
    """What loads the model, and gives what runs it. The framework is imported here, before; of code, its module is."""
    text, scheme = load.text, load.text.partition(":")[0]
    if is_code(text):
        from isomorph.convert.named_code import cwd_importable, find

        with cwd_importable():
            find(text)
        return lambda: _code(load, arrays)
    suffix = Path(text).suffix.lower()
    if scheme in SCHEMES or suffix == ".pt2":
        import_module("isomorph.convert.sources")

        return lambda: _torch(load, arrays, None)
    if suffix in (".keras", ".h5"):
        from isomorph.parity.runners.keras_model import load_file

        return lambda: _keras(load_file(text), arrays)
    if suffix == ".onnx":
        import onnxruntime

        return lambda: _onnx(onnxruntime, load, arrays)
    if suffix == ".tflite":
        from isomorph.parity.runners import litert

        return lambda: _litert(litert.interpreter(Path(text)), load, arrays)
    import tensorflow as tf

    return lambda: _saved_model(tf, load, arrays)


# ----------------------------------------------------------------------------------------------------------- frameworks
def _code(load: Load, arrays: Arrays) -> Run:
    from isomorph.convert.named_code import cwd_importable
    from isomorph.parity.runners.open import kind_of_object, run_code

    with cwd_importable():
        _, made = run_code(load.text, load.seed)
        kind = kind_of_object(made)
        model = made[0] if isinstance(made, tuple) else made
        if kind == "torch":
            return _torch(load, arrays, made)
        if kind == "paired":
            kind = kind_of_object(model)
        if kind in ("keras", "conversion"):
            return _keras(model, arrays)
        if kind == "function":
            return lambda: model(*arrays)
    raise UsageError(f"{load.text}: a model of this kind ({kind}) is not measured")


def _torch(load: Load, arrays: Arrays, made: Any) -> Run:
    import torch

    from isomorph.convert.inputspec import parse_all
    from isomorph.convert.sources import load_source, source_of
    from isomorph.parity.runners.torch_runner import Call

    def source(inputs: Sequence[str]) -> Any:
        if made is None:
            return load_source(load.text, load.weights, inputs, load.seed)
        return source_of(made, load.text, load.weights, parse_all(inputs), load.seed, None)

    try:
        found = source(load.inputs)
        module, call = found.module, Call(found.args, found.kwargs)
    except UsageError:  # its inputs have other names
        module = (made[0] if isinstance(made, tuple) else made) if made is not None else source(()).module
        call = Call(tuple(torch.from_numpy(array) for array in arrays))
    if len(call.slots) != len(arrays):
        raise UsageError(f"{load.text} takes {len(call.slots)} tensors, and {len(arrays)} are given")
    module = module.to(load.device)
    if any(child.training for child in module.modules()):
        module.eval()
    dtypes = [example.dtype for example in call.examples]

    def run() -> Any:
        with torch.inference_mode():
            given = [torch.from_numpy(a).to(load.device, d) for a, d in zip(arrays, dtypes, strict=True)]
            leaves = torch.utils._pytree.tree_leaves(call(module, given))
            return [leaf.cpu() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    return run


def _keras(model: Any, arrays: Arrays) -> Run:
    if hasattr(model, "replay"):  # a Conversion: its arrays come in torch's axis order
        arrays = [port.to_keras(array) for port, array in zip(model.inputs, arrays, strict=True)]
        model = model.model
    given = arrays[0] if len(arrays) == 1 else list(arrays)
    try:
        model.predict_on_batch(given)
    except Exception:  # its call takes several arguments, which Keras' own loop does not give
        import keras

        return lambda: keras.tree.map_structure(keras.ops.convert_to_numpy, model(*arrays))
    return lambda: model.predict_on_batch(given)


def _onnx(runtime: Any, load: Load, arrays: Arrays) -> Run:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    number = int(load.device.partition(":")[2] or 0)
    gpu = [("CUDAExecutionProvider", {"device_id": number})] if load.device != "cpu" else []
    session = runtime.InferenceSession(load.text, options, providers=[*gpu, "CPUExecutionProvider"])
    feed = dict(zip(load.names, arrays, strict=True))
    return lambda: session.run(None, feed)


def _litert(machine: Any, load: Load, arrays: Arrays) -> Run:
    from isomorph.parity.runners.litert import _signature

    slots, results = _signature(Path(load.text), machine)
    by_name = dict(zip(load.names, arrays, strict=True))
    for slot in slots:
        machine.resize_tensor_input(slot.index, by_name[slot.name].shape)
    machine.allocate_tensors()

    def run() -> Any:
        for slot in slots:
            machine.set_tensor(slot.index, slot.quantised(by_name[slot.name]))
        machine.invoke()
        return [machine.get_tensor(slot.index) for slot in results]

    return run


def _saved_model(tf: Any, load: Load, arrays: Arrays) -> Run:
    from isomorph.parity.runners.saved_model import _signature

    loaded = tf.saved_model.load(load.text)
    _, function = _signature(Path(load.text), loaded)
    names = dict(zip(load.names, arrays, strict=True))

    def run(keep: Any = loaded) -> Any:  # the object owns the variables
        return tf.nest.map_structure(lambda t: t.numpy(), function(**{n: tf.constant(a) for n, a in names.items()}))

    return run


# --------------------------------------------------------------------------------------------------------------- memory
class Peak:
    """The most bytes that were resident since it was made. Linux counts it, and starts anew when told to; elsewhere,
    and where it cannot be told, the memory is looked at all the time."""

    def __init__(self) -> None:
        self.before = self._seen = resident()
        self._counts = _restart()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if not self._counts:
            self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(_PAUSE):
            self._seen = max(self._seen, resident())

    def stop(self) -> int:
        """The peak."""
        self._over.set()
        if self._counts:
            return max(_status("VmHWM"), self.before)
        self._thread.join()
        return max(self._seen, resident())


def resident() -> int:
    """Bytes of this process in memory now."""
    with contextlib.suppress(OSError, KeyError):
        return _status("VmRSS")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit  # the most so far: rises with what is now


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int({line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}[name]) * 1024


def _restart() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmHWM") <= resident() + (1 << 22)
    except (OSError, KeyError):
        return False


# -------------------------------------------------------------------------------------------------------------- process
def main(descriptor: int) -> None:
    """Do what the lines of stdin say."""
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "w", encoding="utf-8") as answers:
        try:
            for answer in _answers():
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
        except IsomorphError as error:
            answers.write(json.dumps({"error": " ".join(str(error).split())}) + "\n")
        except Exception as error:
            answers.write(json.dumps({"error": one_line(error)}) + "\n")
    os._exit(0)  # the frameworks' threads and exit handlers have nothing to add, and may hang


def _answers() -> Iterator[dict[str, Any]]:
    said = json.loads(sys.stdin.readline())
    sys.path.extend(entry for entry in said.pop("path") if entry not in sys.path)
    import numpy as np

    load = Load(**{**said, "names": tuple(said["names"]), "inputs": tuple(said["inputs"])})
    if load.core is not None:
        os.sched_setaffinity(0, {load.core})
    with np.load(load.arrays) as kept:
        arrays = [kept[str(index)] for index in range(len(kept.files))]
    make = loader(load, arrays)
    peak = Peak()
    run = make()
    run()
    yield {"before": peak.before, "peak": peak.stop()}
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        yield {"seconds": statistics.median(seconds)}


if __name__ == "__main__":
    main(int(sys.argv[1]))
