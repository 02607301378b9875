"""The other end of `remote`: a process that opens one model and answers for it.

It reads frames from one inherited descriptor and writes to another: frameworks print to stdout. It needs numpy and
safetensors besides the model's own framework. When the pipe ends, because the check closed it or died, the process and
whatever it started end with it, also in the middle of a run.

The imports at the top are the standard library's, so that an interpreter which lacks the rest is told so.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["METHODS", "UNUSABLE", "main"]

UNUSABLE = 3  # the exit status of an interpreter that cannot run a worker; the log's last line says why
METHODS = frozenset({
    "about", "buffers", "call_alone", "index_bounds", "load", "parameters", "respond", "state", "trace",
})  # fmt: skip
# Frameworks say that memory is short in words of their own.
_SHORT = ("can't allocate memory", "not enough memory", "out of memory", "OOM when allocating", "RESOURCE_EXHAUSTED")


def main(requests: int, answers: int, folder: str) -> None:
    """Answer until the pipe ends. folder: goes with the check, also with one that was killed."""
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)
    for name in ("numpy", "safetensors"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            _give_up(f"a worker needs numpy and safetensors in {sys.executable}: {error}")
    faulthandler.enable()
    frames: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, frames, folder), daemon=True).start()
    _serve(frames, answers)


def _give_up(why: str) -> None:
    sys.stderr.write("\n" + why + "\n")
    sys.stderr.flush()
    os._exit(UNUSABLE)


def _read(descriptor: int, frames: Any, folder: str) -> None:
    """Take requests off the pipe until it ends; the process ends with it."""
    from isomorph.parity.runners import wire

    try:
        with os.fdopen(descriptor, "rb") as stream:
            while len(prefix := stream.read(wire.PREFIX.size)) == wire.PREFIX.size:
                header, blob = wire.lengths(prefix)
                frames.put((stream.read(header), stream.read(blob)))
    except BaseException:  # nobody waits for this thread: no frame, or no memory for one
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    shutil.rmtree(folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():  # the group is this worker's own
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def _serve(frames: Any, answers: int) -> None:
    from isomorph.parity.runners import wire

    server = _Server()
    with os.fdopen(answers, "wb") as stream:
        while True:
            try:
                answer = wire.encode({"result": server.answer(wire.decode(*frames.get()))})
            except BaseException as error:  # whatever a model raises is the check's to judge
                traceback.print_exc()
                answer = wire.encode({"error": _described(error)})
            with contextlib.suppress(OSError, ValueError):  # a model may have closed them
                sys.stdout.flush()
                sys.stderr.flush()
            stream.write(answer)
            stream.flush()


def _described(error: BaseException) -> dict[str, Any]:
    text = str(error)
    names = [cls.__name__ for cls in type(error).__mro__]
    short = {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"} & set(names)
    return {"names": names, "message": text, "memory": bool(short) or any(words in text for words in _SHORT)}


class _Server:
    """The runners of one model: number 0 is the model as it is, others are its twins in float64."""

    def __init__(self) -> None:
        self._runners: dict[int, Any] = {}
        self._next = 0

    def answer(self, message: Mapping[str, Any]) -> Any:
        do: Mapping[str, Callable[..., Any]] = {"open": self._open, "call": self._call, "drop": self._drop}
        return do[message["do"]](**{key: value for key, value in message.items() if key != "do"})

    def _open(self, spec: Mapping[str, Any], objects: bytes | None, path: list[str], memory: int | None) -> Any:
        from isomorph.parity.runners.open import open_here
        from isomorph.parity.runners.spec import ModelSpec

        sys.path.extend(entry for entry in path if entry not in sys.path)
        if memory is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        given = dict(spec) if objects is None else {**spec, **_unpickled(objects)}
        opened = open_here(ModelSpec(**given))
        found = {"example": opened.example, "values": dict(opened.values), "versions": _versions()}
        return {**self._added(opened.runner), **found}

    def _added(self, runner: Any) -> dict[str, Any]:
        self._runners[self._next] = runner
        self._next += 1
        return {"number": self._next - 1, "dtype": runner.dtype}

    def _call(self, number: int, method: str, arguments: tuple[Any, ...]) -> Any:
        runner = self._runners[number]
        if method == "to_float64":
            return self._added(runner.to_float64())
        if method not in METHODS:
            raise ValueError(f"a runner has no method {method!r}")
        answer = getattr(runner, method, None)  # not every format can call one of its layers alone
        return None if answer is None and method == "call_alone" else getattr(runner, method)(*arguments)

    def _drop(self, number: int) -> None:
        runner = self._runners.pop(number, None)
        if runner is not None:
            runner.close()


def _versions() -> dict[str, str]:
    """Of this interpreter, and of the frameworks that the model has loaded into it."""
    from isomorph.parity.environment import PACKAGES

    loaded = {name: sys.modules.get(name.replace("-", "_")) for name in PACKAGES}
    said = {name: getattr(module, "__version__", None) for name, module in loaded.items() if module is not None}
    return {"python": sys.version.split()[0], **{name: str(version) for name, version in said.items() if version}}


def _unpickled(objects: bytes) -> dict[str, Any]:
    """Objects of the check's own process, pickled there."""
    import pickle

    from isomorph.convert.errors import UsageError

    try:
        found: dict[str, Any] = pickle.loads(objects)
    except Exception as error:
        raise UsageError(
            f"the model cannot be rebuilt in a worker process ({type(error).__name__}: {error}); "
            "name it as pkg.module:callable"
        ) from error
    return found
