"""A worker process: started, asked, and ended with all that it started, whatever it or this process comes to.

It is a process group of its own. It ends when it is told to or collected, when this interpreter exits, and, because its
pipe does, when this process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.runners import device, wire
from isomorph.parity.runners.spec import ModelSpec, WorkerError
from isomorph.parity.runners.worker import UNUSABLE

__all__ = ["LINES", "WorkerProcess", "exit_status", "name_of"]

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


class WorkerProcess:
    """One process and the pipes to it. Not to be shared by threads that do not wait for each other: requests queue."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec, self._lock = spec, threading.Lock()
        self._why: str | None = None
        python = _interpreter(spec)
        self.settings = {"worker": python if spec.python else "own interpreter", **device.described(spec)}
        self.folder = Path(tempfile.mkdtemp(prefix="isomorph-worker-"))
        self._log = self.folder / "log"
        to_child, self._requests = os.pipe()
        self._answers, from_child = os.pipe()
        os.set_blocking(self._requests, False)
        for descriptor in (self._requests, self._answers):
            with contextlib.suppress(OSError, AttributeError):  # Linux's default is 64 KiB
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._process = self._start(python, to_child, from_child)
        self.end = weakref.finalize(
            self, _end, os.getpid(), self._process, (self._requests, self._answers), self.folder
        )  # fmt: skip

    def _start(self, python: str, to_child: int, from_child: int) -> subprocess.Popen[bytes]:
        try:
            with self._log.open("wb") as log:
                return subprocess.Popen(
                    [python, "-c", _PROGRAM, str(to_child), str(from_child), str(self.folder)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(self._spec, self.folder),
                    pass_fds=(to_child, from_child), start_new_session=True,
                )  # fmt: skip
        except BaseException as error:
            os.close(self._requests)
            os.close(self._answers)
            shutil.rmtree(self.folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise UsageError(f"{python} cannot be run: {error.strerror}") from error
            raise
        finally:
            os.close(to_child)
            os.close(from_child)

    @property
    def lives(self) -> bool:
        """Whether it can still be asked."""
        return self._why is None and self.end.alive

    def ask(self, message: Mapping[str, Any], limit: float, doing: str) -> Any:
        """The answer to one message, within `limit` seconds. WorkerError: it did not come, then or earlier."""
        frame = wire.encode(message)
        with self._lock:
            if not self.lives:
                raise WorkerError(self._why or "the worker was closed")
            try:
                answer = self._exchange(frame, time.monotonic() + limit)
            except _Gone:
                raise self.lost(*self._obituary()) from None
            except TimeoutError:
                raise self.lost(f"gave no answer within {limit:g} s ({doing})") from None
            except (wire.ProtocolError, OSError) as error:
                raise self.lost(f"does not speak the protocol: {error}") from error
            except BaseException:  # an interrupt: the answer that is still to come would be taken for the next one's
                self.lost("was interrupted")
                raise
        return answer

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
            if exit_status(self._process) is not None and not poll.poll(0):
                raise _Gone
            if time.monotonic() > deadline:
                raise TimeoutError

    def _obituary(self) -> tuple[str, bool]:
        """What ended it, and whether its log is worth quoting."""
        until = time.monotonic() + 5  # the pipe ends a moment before the process does
        while (status := exit_status(self._process)) is None and time.monotonic() < until:
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

    def lost(self, how: str, quote: bool = True) -> WorkerError:
        """Ends it, and says how it failed, with the end of its log if that is to be quoted. The error is to be raised
        now, and by every later `ask`."""
        tail = self._tail() if quote else []
        said = "; its last output:\n" + "\n".join(f"  {line}" for line in tail) if tail else ""
        self._why = f"the worker process of {name_of(self._spec)} {how}{said}" if quote else how
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


class _Gone(Exception):
    """The worker's end of a pipe is closed."""


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


def name_of(spec: ModelSpec) -> str:
    """What a message calls the model."""
    return spec.target if isinstance(spec.target, str) else f"a {type(spec.target).__name__}"


def exit_status(process: subprocess.Popen[bytes]) -> int | None:
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
