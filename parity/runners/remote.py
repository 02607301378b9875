"""A model in a worker process, behind the `Runner` protocol: it may crash, hang, or live in another interpreter."""

from __future__ import annotations

import builtins
import contextlib
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from isomorph.convert import errors
from isomorph.convert.errors import IsomorphError, UsageError
from isomorph.parity.runners import device
from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, Request, Response
from isomorph.parity.runners.open import kind_of_object
from isomorph.parity.runners.process import WorkerProcess, name_of
from isomorph.parity.runners.spec import ModelSpec, Opened, WorkerError
from isomorph.parity.tolerance import Array

__all__ = ["RemoteError", "RemoteRunner", "open_remote"]

START = 180.0  # seconds that starting an interpreter and loading frameworks may take, beside the limit of a request


class RemoteError(Exception):
    """What a model raised in a worker. Its class bears the name of the original one, and derives from the same
    built-in exceptions."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class RemoteRunner:
    """A runner of a worker process. `RemoteRunner(spec)` starts the worker and opens the model in it.

    example, values: as `Opened` has them. A twin in float64 is a second runner of the same process, and ends with it.
    UsageError, UnsupportedError: as `open_runner`. WorkerError: the worker could not start, or did not survive.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec, self._worker = spec, WorkerProcess(spec)
        try:
            opened = self._send(_opening(spec, self._worker.folder), START + spec.timeout, "opening the model")
        except BaseException:
            self._worker.end()
            raise
        self._number, self.dtype = int(opened["number"]), str(opened["dtype"])
        self.example: tuple[Array, ...] | None = opened["example"]
        self.values: Mapping[str, tuple[float, float]] = opened["values"]
        self._versions: Mapping[str, str] = opened["versions"]

    def to_float64(self) -> RemoteRunner:
        """See `Runner`."""
        opened = self._ask("to_float64")
        twin = object.__new__(RemoteRunner)
        twin._spec, twin._worker = self._spec, self._worker
        twin._number, twin.dtype = int(opened["number"]), str(opened["dtype"])
        twin.example, twin.values, twin._versions = self.example, self.values, self._versions
        return twin

    def about(self) -> About:
        """See `Runner`; the device is the one that was asked for, as this process numbers them."""
        about: About = self._ask("about")
        said = {**self._versions, **about.environment, **self._worker.settings}
        return replace(about, device=self._spec.device, environment=said)

    def index_bounds(self) -> Mapping[str, int]:
        """See `Runner`."""
        found: Mapping[str, int] = self._ask("index_bounds")
        return found

    def parameters(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        found: dict[str, ParameterInfo] = self._ask("parameters")
        return found

    def buffers(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        found: dict[str, ParameterInfo] = self._ask("buffers")
        return found

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`."""
        self._ask("load", dict(state))

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        found: dict[str, Array] = self._ask("state")
        return found

    def respond(self, request: Request) -> Response:
        """See `Runner`. Exceptions of the model bear their own names; WorkerError: the worker did not survive."""
        response: Response = self._ask("respond", request)
        return response

    def call_alone(self, index: int, inputs: Sequence[Array]) -> tuple[Array, ...] | None:
        """One call of the last trace, made again on other inputs; None where the format cannot."""
        found: tuple[Array, ...] | None = self._ask("call_alone", index, tuple(inputs))
        return found

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """See `Runner`."""
        found: tuple[ModuleTrace, ...] = self._ask("trace", request)
        return found

    def close(self) -> None:
        """See `Runner`: ends the process; of a twin, gives back only the twin."""
        if self._number == 0:
            self._worker.end()
        elif self._worker.lives:
            with contextlib.suppress(WorkerError):
                self._send({"do": "drop", "number": self._number}, self._spec.timeout, "close()")

    def _ask(self, method: str, *arguments: Any) -> Any:
        message = {"do": "call", "number": self._number, "method": method, "arguments": arguments}
        return self._send(message, self._spec.timeout, f"{method}()")

    def _send(self, message: Mapping[str, Any], limit: float, doing: str) -> Any:
        answer = self._worker.ask(message, limit, doing)
        if "error" not in answer:
            return answer["result"]
        error = answer["error"]
        if error["memory"]:
            first = (str(error["message"]).splitlines() or [""])[0][:300]
            most = f" of {self._spec.memory} bytes" if self._spec.memory else ""
            raise self._worker.lost(f"ran out of memory{most}: {error['names'][0]}: {first}")
        raise rebuilt(error["names"], error["message"])


def open_remote(spec: ModelSpec) -> Opened:
    """`open_runner` in a worker process."""
    runner = RemoteRunner(spec)
    return Opened(runner, runner.example, runner.values)


def rebuilt(names: Iterable[str], message: str) -> Exception:
    """An exception of the class that was raised, where that is one of isomorph's; else one that bears its name.

    names: the class and its bases, nearest first.
    """
    names = list(names)
    for name in names:
        own = getattr(errors, name, WorkerError if name == "WorkerError" else None)
        if isinstance(own, type) and issubclass(own, IsomorphError):
            return own(message)
    bases = (getattr(builtins, name, None) for name in names)
    base = next((b for b in bases if isinstance(b, type) and issubclass(b, Exception)), Exception)
    kind = type(names[0], (RemoteError,) if base is Exception else (RemoteError, base), {})
    found: Exception = kind(message)
    return found


def _opening(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """The first message."""
    plain, objects = _portable(spec, folder)
    path = [] if spec.python else sys.path
    return {"do": "open", "spec": plain, "objects": objects, "path": path, "memory": spec.memory}


def _portable(spec: ModelSpec, folder: Path) -> tuple[dict[str, Any], bytes | None]:
    """The spec in plain values, and pickled what is none. A Keras model is written to a file: that is understood by
    another backend and another interpreter."""
    if not isinstance(spec.target, str) and kind_of_object(spec.target) in ("keras", "conversion"):
        spec = replace(spec, target=_written(spec, folder / "model.keras"))
    plain = {f.name: getattr(spec, f.name) for f in fields(spec)}
    plain.update(recorded=None, python=None, isolate=False)
    plain.update(device=device.in_child(spec.device), inputs=tuple(spec.inputs))
    objects = {name: plain.pop(name) for name in ("target", "example") if not isinstance(plain[name], str | None)}
    if not objects:
        return plain, None
    if spec.python:
        if "target" in objects:
            raise UsageError(
                f"{name_of(spec)} is an object of this process, which {spec.python} cannot have; "
                "name it as text: a file, or pkg.module:callable"
            )
        return {**plain, "example": _as_arrays(objects["example"])}, None
    try:
        return plain, pickle.dumps(objects)
    except Exception as error:
        raise UsageError(
            f"{name_of(spec)} cannot be sent to a worker process ({type(error).__name__}: {error}); "
            "name it as pkg.module:callable"
        ) from error


def _written(spec: ModelSpec, file: Path) -> str:
    try:
        spec.target.save(file)
    except Exception as error:
        raise UsageError(
            f"{name_of(spec)} cannot be written for a worker process ({type(error).__name__}: {error}); "
            "name it as pkg.module:callable"
        ) from error
    return str(file)


def _as_arrays(value: Any) -> Any:
    """Tensors as arrays, in the same nesting."""
    if isinstance(value, Mapping):
        return {key: _as_arrays(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_as_arrays(item) for item in value)
    if hasattr(value, "detach"):
        from isomorph.parity.runners.torch_runner import to_numpy

        return to_numpy(value)
    return value
