"""A model in a worker process, behind the same `Runner` protocol: it may crash, hang, or live in another interpreter.

The worker is a process group of its own. It ends when the runner is closed or collected, when this interpreter exits,
and when this process dies.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from isomorph.convert import errors
from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError
from isomorph.parity.runners import device, wire
from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, Request, Response
from isomorph.parity.runners.spec import ModelSpec, Opened, WorkerError
from isomorph.parity.runners.worker import UNUSABLE
from isomorph.parity.tolerance import Array

__all__ = ["RemoteError", "RemoteRunner", "open_remote"]

START = 180.0  # seconds that starting an interpreter and loading frameworks may take, beside the limit of a request
LINES = 10  # of the log, in the message about a worker that died
_TICK = 200  # milliseconds after which a silent worker is looked at: does it live?
_PROGRAM = f"""
import os, sys
if sys.version_info < (3, 11):
    sys.stderr.write("a worker needs Python 3.11 or newer, %s is %s" % (sys.executable, sys.version.split()[0]))
    sys.stderr.flush()
    os._exit({UNUSABLE})
sys.path[:] = [entry for entry in sys.path if entry]
from isomorph.parity.runners import worker
worker.main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""


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
        self._spec, self._worker = spec, Worker(spec)
        try:
            opened = self._worker.open()
        except BaseException:
            self._worker.end()
            raise
        self._number, self.dtype = int(opened["number"]), str(opened["dtype"])
        self.example: tuple[Array, ...] | None = opened["example"]
        self.values: Mapping[str, tuple[float, float]] = opened["values"]

    def to_float64(self) -> RemoteRunner:
        """See `Runner`."""
        opened = self._ask("to_float64")
        twin = object.__new__(RemoteRunner)
        twin._spec, twin._worker = self._spec, self._worker
        twin._number, twin.dtype = int(opened["number"]), str(opened["dtype"])
        twin.example, twin.values = self.example, self.values
        return twin

    def about(self) -> About:
        """See `Runner`; the device is the one that was asked for, as this process numbers them."""
        about: About = self._ask("about")
        said = {**about.environment, **self._worker.settings}
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
                self._worker.ask({"do": "drop", "number": self._number})

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._worker.ask({"do": "call", "number": self._number, "method": method, "arguments": arguments})


def open_remote(spec: ModelSpec) -> Opened:
    """`open_runner` in a worker process."""
    runner = RemoteRunner(spec)
    return Opened(runner, runner.example, runner.values)


class Worker:
    """One process and the pipes to it. Not to be shared by threads that do not wait for each other: requests queue."""

    def __init__(self, spec: ModelSpec) -> None:
        if os.name != "posix":
            raise UnsupportedError("worker processes need Linux or macOS")
        self._spec, self._lock = spec, threading.Lock()
        self._why: str | None = None
        python = _interpreter(spec)
        self.settings = {"worker": python if spec.python else "own interpreter", **device.described(spec)}
        self._folder = Path(tempfile.mkdtemp(prefix="isomorph-worker-"))
        self._log = self._folder / "log"
        to_child, self._requests = os.pipe()
        self._answers, from_child = os.pipe()
        os.set_blocking(self._requests, False)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-c", _PROGRAM, str(to_child), str(from_child), str(self._folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(spec, self._folder),
                pass_fds=(to_child, from_child), start_new_session=True,
            )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self.end = weakref.finalize(
            self, _end, os.getpid(), self._process, (self._requests, self._answers), self._folder
        )  # fmt: skip

    @property
    def lives(self) -> bool:
        """Whether it can still be asked."""
        return self._why is None and self.end.alive

    def open(self) -> dict[str, Any]:
        """What `open_here` found; START seconds more than a request may take."""
        text, objects = _portable(self._spec, self._folder)
        path = [] if self._spec.python else sys.path
        message = {"do": "open", "spec": text, "objects": objects, "path": path, "memory": self._spec.memory}
        found: dict[str, Any] = self.ask(message, START + self._spec.timeout, "opening the model")
        return found

    def ask(self, message: Mapping[str, Any], limit: float | None = None, doing: str = "") -> Any:
        """The answer to one message. Raises what the model raised, or WorkerError."""
        frame = wire.encode(message)
        limit = self._spec.timeout if limit is None else limit
        with self._lock:
            if not self.lives:
                raise WorkerError(self._why or "the worker was closed")
            try:
                answer = self._exchange(frame, time.monotonic() + limit)
            except _Gone:
                raise self._lost(*self._obituary()) from None
            except TimeoutError:
                doing = doing or f"{message.get('method', message['do'])}()"
                raise self._lost(f"gave no answer within {limit:g} s ({doing})") from None
            except (wire.ProtocolError, OSError) as error:
                raise self._lost(f"does not speak the protocol: {error}") from error
            except BaseException:  # an interrupt: the answer that is still to come would be taken for the next one's
                self._lost("was interrupted")
                raise
        if "error" in answer:
            raise self._raised(answer["error"])
        return answer["result"]

    def _exchange(self, frame: bytes, deadline: float) -> Any:
        rest = memoryview(frame)
        while rest:
            self._wait(self._requests, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._requests, rest[: 1 << 20]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise _Gone from error
        header, blob = wire.lengths(self._receive(wire.PREFIX.size, deadline))
        return wire.decode(self._receive(header, deadline), self._receive(blob, deadline))

    def _receive(self, count: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            self._wait(self._answers, select.POLLIN, deadline)
            part = os.read(self._answers, min(count - len(parts), 1 << 20))
            if not part:
                raise _Gone
            parts += part
        return bytes(parts)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        """Until the pipe can be used. A worker's own children may hold its end open: the process is looked at too."""
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(_TICK):
            if _exit_status(self._process) is not None and not poll.poll(0):
                raise _Gone
            if time.monotonic() > deadline:
                raise TimeoutError

    def _obituary(self) -> tuple[str, bool]:
        """What ended it, and whether its log is worth quoting."""
        until = time.monotonic() + 5  # the pipe ends a moment before the process does
        while (status := _exit_status(self._process)) is None and time.monotonic() < until:
            time.sleep(0.01)
        if status == UNUSABLE:
            return (self._tail() or ["cannot run a worker"])[-1], False
        if status is None:
            return "closed its pipe", True
        limited = f" (memory is limited to {self._spec.memory} bytes)" if self._spec.memory and status else ""
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-status).name}{limited}", True
        return f"ended with exit status {status}{limited}", True

    def _lost(self, how: str, quote: bool = True) -> WorkerError:
        tail = self._tail() if quote else []
        said = "; its last output:\n" + "\n".join(f"  {line}" for line in tail) if tail else ""
        self._why = f"the worker process of {_name(self._spec)} {how}{said}" if quote else how
        self.end()
        return WorkerError(self._why)

    def _tail(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - (1 << 14)))
            text = log.read().decode(errors="replace")
        lines = [line[:300] for line in text.splitlines() if line.strip() and not line.startswith("Extension modules:")]
        # of a crash: what came before it, and the innermost calls, which are written first
        crash = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
        return lines[-LINES:] if crash is None else lines[max(0, crash - 3) :][:LINES]

    def _raised(self, error: Mapping[str, Any]) -> Exception:
        if error["memory"]:
            first = (str(error["message"]).splitlines() or [""])[0][:300]
            limit = f" of {self._spec.memory} bytes" if self._spec.memory else ""
            return self._lost(f"ran out of memory{limit}: {error['names'][0]}: {first}")
        return rebuilt(error["names"], error["message"])


class _Gone(Exception):
    """The worker's end of a pipe is closed."""


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


def _interpreter(spec: ModelSpec) -> str:
    if spec.python is None:
        return sys.executable
    found = shutil.which(os.path.expanduser(spec.python))
    if found is None:
        raise UsageError(f"{spec.python}: no such interpreter; give the path of a python that can be run")
    return os.path.abspath(found)


def _environment(spec: ModelSpec, folder: Path) -> dict[str, str]:
    """The child's variables: our package first on its path, and nothing else of ours for another interpreter."""
    _link_package(folder / "package")
    env = {**os.environ, **device.child_environment(spec)}
    path = env.pop("PYTHONPATH", None)
    if spec.python:
        for name in ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
            env.pop(name, None)
        path = None
    env["PYTHONPATH"] = os.pathsep.join([str(folder / "package"), *([path] if path else [])])
    return env


def _link_package(folder: Path) -> None:
    """A folder that holds `isomorph` and nothing else, whatever the way it is installed."""
    import isomorph
    import isomorph.convert
    import isomorph.parity

    root = folder / "isomorph"
    root.mkdir(parents=True)
    (root / "__init__.py").symlink_to(Path(str(isomorph.__file__)).resolve())
    for name, package in (("convert", isomorph.convert), ("parity", isomorph.parity)):
        (root / name).symlink_to(Path(next(iter(package.__path__))).resolve(), target_is_directory=True)


def _portable(spec: ModelSpec, folder: Path) -> tuple[dict[str, Any], bytes | None]:
    """The spec in plain values, and pickled what is none. A Keras model is written to a file: that is understood by
    another backend and another interpreter."""
    if callable(getattr(spec.target, "save", None)) and not isinstance(spec.target, str):
        spec.target.save(folder / "model.keras")
        spec = replace(spec, target=str(folder / "model.keras"))
    plain = {f.name: getattr(spec, f.name) for f in fields(spec)}
    plain.update(python=None, isolate=False, device=device.in_child(spec.device), inputs=tuple(spec.inputs))
    objects = {name: plain.pop(name) for name in ("target", "example") if not isinstance(plain[name], str | None)}
    if not objects:
        return plain, None
    if spec.python:
        if "target" in objects:
            raise UsageError(
                f"{_name(spec)} is an object of this process, which {spec.python} cannot have; "
                "name it as text: a file, or pkg.module:callable"
            )
        return {**plain, "example": _as_arrays(objects["example"])}, None
    try:
        return plain, pickle.dumps(objects)
    except Exception as error:
        raise UsageError(
            f"{_name(spec)} cannot be sent to a worker process ({type(error).__name__}: {error}); "
            "name it as pkg.module:callable"
        ) from error


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


def _name(spec: ModelSpec) -> str:
    return spec.target if isinstance(spec.target, str) else f"a {type(spec.target).__name__}"


def _exit_status(process: subprocess.Popen[bytes]) -> int | None:
    """As Popen.poll, without reaping where that can be done: until then the process group's number is its own."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll()
    try:
        found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _end(owner: int, process: subprocess.Popen[bytes], descriptors: tuple[int, ...], folder: Path) -> None:
    if os.getpid() != owner:  # a fork of this process is not the one to end it
        return
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
