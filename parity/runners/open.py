"""Any model as a runner: what it is, told from its text or its type, and whether it needs a process of its own.

    model.pt2, model.keras, model.tflite, model.onnx, DIR with saved_model.pb     files
    hf:DIR, timm:NAME, torchvision:NAME                                           sources of torch modules
    pkg.module:callable, path/to/file.py:callable                                 code that makes a model, or is one
    a torch module, (module, args[, kwargs]), a Conversion, a TorchConversion, an OnnxExport or onnx.ModelProto, a Keras
    model, a function from arrays to arrays

Each framework is imported by its own opener, when a model of it is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.convert.named_code import cwd_importable, find, kind_of, user_code
from isomorph.parity.runners import device
from isomorph.parity.runners.spec import ModelSpec, Opened

__all__ = ["FORMS", "kind_of_object", "open_here", "open_runner", "run_code"]

FORMS = (
    "model.pt2, model.keras, model.tflite, model.onnx, a SavedModel directory, pkg.module:callable, "
    "path/to/file.py:callable, hf:DIR, timm:NAME or torchvision:NAME"
)
_RUNNERS = "isomorph.parity.runners"
OPENERS: Mapping[str, str] = {
    "conversion": f"{_RUNNERS}.keras_model:open_conversion",
    "exported": f"{_RUNNERS}.exported:open_exported",
    "function": f"{_RUNNERS}.function:open_function",
    "keras": f"{_RUNNERS}.keras_model:open_keras",
    "litert": f"{_RUNNERS}.litert:open_litert",
    "onnx": f"{_RUNNERS}.onnx_runner:open_onnx",
    "saved_model": f"{_RUNNERS}.saved_model:open_saved_model",
    "torch": f"{_RUNNERS}.open_torch:open_torch",
    "torch_conversion": f"{_RUNNERS}.torch_conversion:open_torch_conversion",
}
SUFFIXES = {".pt2": "exported", ".keras": "keras", ".h5": "keras", ".tflite": "litert", ".onnx": "onnx"}
SCHEMES = ("hf", "timm", "torchvision")
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".hdf5", ".npz")
BACKENDS = ("tensorflow", "jax", "torch")


def open_runner(spec: ModelSpec) -> Opened:
    """The model, ready to be asked: in this process, or in a worker where the spec needs one.

    UsageError: a file is missing, the format is unknown, the device is not there, or parts of the spec contradict each
    other. UnsupportedError: the model cannot be run. WorkerError: a worker did not start or did not survive.
    """
    kind = _kind(spec.target)
    _check(spec, kind)
    if not _needs_worker(spec, kind):
        return open_here(spec)
    if os.name != "posix":
        raise UnsupportedError("worker processes need Linux or macOS")
    from isomorph.parity.runners.remote import open_remote

    return open_remote(spec)


def open_here(spec: ModelSpec) -> Opened:
    """`open_runner` in this process, whatever the spec says of workers."""
    kind = _kind(spec.target)
    return _open_code(spec) if kind == "code" else _open(spec, kind)


# --- what it is ---------------------------------------------------------------------------------------------------


def _kind(target: Any) -> str:
    """A key of OPENERS, or "code" for code that is yet to be run."""
    if isinstance(target, Path):
        raise UsageError(f"{target}: give the path as text")
    return _kind_of_text(target) if isinstance(target, str) else kind_of_object(target)


def _kind_of_text(text: str) -> str:
    scheme, colon, name = text.partition(":")
    if colon and scheme in SCHEMES:
        return "torch"
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and (path.exists() or not colon):
        if not path.is_file():
            raise UsageError(f"{text}: no such file" if not path.exists() else f"{text} is not a file")
        return SUFFIXES[suffix]
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise UsageError(
            f"{text} is a directory without saved_model.pb: not a SavedModel; "
            f"a directory of save_pretrained is hf:{text}"
        )
    if colon and name:
        return "code"
    if suffix in WEIGHTS:
        raise UsageError(
            f"{text} holds weights, or a format that is not read here: give the model as {FORMS}; "
            "weights are given beside the code that builds the module"
        )
    missing = "" if path.exists() else "no such file, and "
    raise UsageError(f"{text!r}: {missing}no known form of a model; give {FORMS}")


def kind_of_object(target: Any) -> str:
    """A key of OPENERS, or "paired" for (model, args[, kwargs]) of another framework than torch. UsageError: it is no
    model."""
    if isinstance(target, tuple) and target:
        kind = kind_of_object(target[0])
        return "torch" if kind == "torch" else "paired"
    classes = [f"{cls.__module__}.{cls.__name__}" for cls in type(target).__mro__]
    if any(name.startswith("keras.") and name.endswith(".Model") for name in classes):  # first: may be torch's as well
        return "keras"
    if "torch.nn.modules.module.Module" in classes:
        return "torch"
    if hasattr(target, "weights") and hasattr(target, "replay"):
        return "conversion"
    if hasattr(target, "weights") and hasattr(target, "module") and hasattr(target, "inputs"):
        return "torch_conversion"
    if hasattr(getattr(target, "proto", target), "opset_import"):
        return "onnx"
    if callable(target) and not isinstance(target, type):
        return "function"
    raise UsageError(
        f"{kind_of(target)} is no model; give a torch module, (module, args), a Conversion, a Keras model, a function "
        f"from arrays to arrays, or the text {FORMS}"
    )


def _check(spec: ModelSpec, kind: str) -> None:
    """UsageError: parts of the spec that contradict each other, or the model."""
    name = spec.target if isinstance(spec.target, str) else kind_of(spec.target)
    on_gpu = device.is_gpu(spec.device)
    if spec.backend is not None and spec.backend not in BACKENDS:
        raise UsageError(f"Keras' backend {spec.backend!r} is not known; give {', '.join(BACKENDS)}")
    if spec.backend is not None and kind not in ("keras", "conversion", "code", "paired"):
        raise UsageError(f"{name}: a backend is for Keras models, and this is none ({kind})")
    if spec.weights is not None and (kind not in ("torch", "code", "exported") or not isinstance(spec.target, str)):
        raise UsageError(f"{name}: weights are for the code of a torch module; here they are already in the model")
    if on_gpu and kind in ("litert", "function"):
        raise UsageError(f"{name}: device {spec.device} is for models that can be moved, and this is none ({kind})")
    if not (math.isfinite(spec.timeout) and spec.timeout > 0):
        raise UsageError(f"{name}: the timeout must be a number of seconds above 0, not {spec.timeout}")
    if spec.memory is not None and spec.memory <= 0:
        raise UsageError(f"{name}: the memory must be a number of bytes above 0, not {spec.memory}")


def _needs_worker(spec: ModelSpec, kind: str) -> bool:
    """Keras' backend is chosen once in a process; TensorFlow and XLA read what makes a GPU comparable when they start;
    memory can be limited for a process only."""
    return (
        spec.isolate
        or spec.python is not None
        or spec.memory is not None
        or (spec.backend is not None and spec.backend != device.keras_backend())
        or (device.is_gpu(spec.device) and isinstance(spec.target, str) and kind in ("keras", "saved_model"))
    )


# --- opening it ---------------------------------------------------------------------------------------------------


def _open(spec: ModelSpec, kind: str, **more: Any) -> Opened:
    if kind == "paired":
        target, *example = spec.target
        if spec.example is None and not spec.inputs and example:
            spec = replace(spec, example=example[0] if len(example) == 1 else (tuple(example[0]), dict(example[1])))
        spec = replace(spec, target=target)
        kind = kind_of_object(target)
    module, _, function = OPENERS[kind].partition(":")
    try:
        opener: Callable[..., Opened] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("isomorph"):
            raise
        package = error.name.partition(".")[0]
        name = spec.target if isinstance(spec.target, str) else kind_of(spec.target)
        raise UsageError(f"{name}: {package} is needed to run it, and is not installed in {sys.executable}") from error
    return opener(spec, **more)


def _open_code(spec: ModelSpec) -> Opened:
    """What the code that the user names makes, or is."""
    text = spec.target
    with cwd_importable():
        home, made = run_code(text, spec.seed)
        made_spec = replace(spec, target=made)
        try:
            kind = kind_of_object(made)
        except UsageError:
            raise UsageError(
                f"{text}: gave {kind_of(made)}; it must give a torch module, (module, args), a Keras model, a "
                "Conversion or a function from arrays to arrays, or be such a function"
            ) from None
        if spec.weights is not None and kind != "torch":
            raise UsageError(f"{text}: weights are for torch modules, and this is a {kind} model")
        if kind == "torch":
            return _open(made_spec, kind, text=text, home=home)
        if kind == "function" and device.is_gpu(spec.device):
            raise UsageError(f"{text}: device {spec.device} is for models that can be moved, not for a function")
        return _open(_with_example_beside(made_spec, home, text), kind)


def run_code(text: str, seed: int) -> tuple[ModuleType, Any]:
    """The Python module of "module:callable", and what it makes, or is. Random weights follow the seed. Open
    `cwd_importable` around it. UsageError: there is none, or it raised."""
    with _seeded(seed):
        home, found = find(text)
    with _seeded(seed):  # once more: importing it may have loaded the framework
        return home, _made(found, text)


def _made(found: Any, text: str) -> Any:
    """A model as it is; what a class, or a function that needs no argument, makes; else the function itself."""
    with contextlib.suppress(UsageError):
        if kind_of_object(found) != "function":
            return found
    if not callable(found):
        raise UsageError(f"{text}: it is {kind_of(found)}, neither a model nor a function or class that makes one")
    if isinstance(found, type) or not _takes_arrays(found):
        return user_code(found, f"{text}: calling {text.rpartition(':')[2]}()")
    return found


def _takes_arrays(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C: no signature
        return True
    kinds = (inspect.Parameter.VAR_POSITIONAL,)
    needed = [p for p in parameters if p.default is p.empty and p.kind is not inspect.Parameter.VAR_KEYWORD]
    return any(p.kind in kinds or p.kind is not inspect.Parameter.KEYWORD_ONLY for p in needed)


def _with_example_beside(spec: ModelSpec, home: ModuleType, text: str) -> ModelSpec:
    """`example_inputs()` of the same file, where nothing else says what the model takes."""
    function = getattr(home, "example_inputs", None)
    if spec.example is not None or spec.inputs or isinstance(spec.target, tuple) or not callable(function):
        return spec
    return replace(spec, example=user_code(function, f"{text}: example_inputs()"))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random weights are the same ones each time, in whatever framework that is loaded. The states of Python, numpy and
    torch are put back."""
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    states = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        if torch is not None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(lambda: (random.setstate(states[0]), np.random.set_state(states[1])))
        if keras is not None and hasattr(keras, "utils"):
            keras.utils.set_random_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if torch is not None:
            torch.manual_seed(seed)
        yield
