"""How tasks are done: in this process, or each in a fresh process of its own, several at once. One result per job,
whatever becomes of it: a process that crashes, hangs or is out of memory is an ERROR of its own task alone.

    processes(jobs, 4, progress)  --one child per job-->  child.py      (engine_ray spreads them over machines)

Results come as they are reached. Closing the iterator, also by an interrupt, ends what still runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.console import QUIET, debugging
from isomorph.parity.gate.child import Reached, done, told
from isomorph.parity.gate.progress import Progress
from isomorph.parity.record import Result
from isomorph.parity.runners.process import exit_status

__all__ = ["ENGINES", "PERFORM", "Engine", "Job", "Results", "engine_of", "inline", "processes"]

PERFORM = "isomorph.parity.gate.child:perform"
ENGINES = ("process", "inline", "ray")
_TICK = 0.2  # seconds after which a silent child is looked at: does it live?


@dataclass(frozen=True)
class Job:
    """A task on its way to a process. task: as `Task.to_dict` gives it. lost: its result where it cannot say one
    itself: status ERROR, to which the message comes. timeout: seconds in which it may show no progress, None for no
    limit. artifacts: a folder for the files that belong to its result. perform: "module:function" that does it.
    expected: what another machine must find as well, see `engine_ray`."""

    name: str
    task: Mapping[str, Any]
    lost: Result
    timeout: float | None = None
    artifacts: str | None = None
    perform: str = PERFORM
    expected: Mapping[str, Any] = field(default_factory=dict)

    def failed(self, message: str, seconds: float) -> Result:
        """Its result, where it came to none."""
        return replace(self.lost, status="ERROR", message=message, seconds=round(seconds, 3))


Results = Generator[Reached, None, None]
Engine = Callable[[Sequence[Job], int, Progress], Results]


def engine_of(name: str, address: str | None = None) -> Engine:
    """The engine of that name. address: of the Ray cluster. UsageError: there is none, or its extra is missing."""
    if name == "ray":
        from isomorph.parity.gate.engine_ray import ray_at

        return ray_at(address)
    if address is not None:
        raise UsageError(f"--ray-address {address}: means something with --engine ray only")
    if name not in ENGINES:
        raise UsageError(f"engine {name!r} is not known; known are {', '.join(ENGINES)}")
    if name == "process" and os.name != "posix":
        raise UsageError("a process for each task needs Linux or macOS; use --engine inline")
    return {"process": processes, "inline": inline}[name]


def inline(jobs: Sequence[Job], count: int, progress: Progress) -> Results:
    """One after the other in this process, whatever `count` says: for a debugger, and where no process can be started.
    A crash ends everything, and no time limit holds."""
    for job in jobs:
        progress.started(job.name)
        since = time.monotonic()
        artifacts = None if job.artifacts is None else Path(job.artifacts)
        try:
            reached = done(job.perform, job.task, partial(progress.stage, job.name), artifacts)
        except Exception as error:
            reached = Reached(job.failed(told(error), time.monotonic() - since))
        yield reached


def processes(jobs: Sequence[Job], count: int, progress: Progress) -> Results:
    """Each in a child of its own, `count` at once, started in their order."""
    waiting, running = list(jobs), list[_Child]()
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < count:
                    job = waiting.pop(0)
                    progress.started(job.name)
                    running.append(_Child(job, selector))
                for key, _ in selector.select(_TICK):
                    key.data.read(progress)
                for child in [child for child in running if child.over()]:
                    reached = child.reached(progress)
                    running.remove(child)  # only now: until it has ended, an interrupt must find it here
                    yield reached
        finally:
            for child in running:
                child.end()


class _Child:
    """One process, the pipe it answers on, and what it has said."""

    def __init__(self, job: Job, selector: selectors.BaseSelector) -> None:
        self._job, self._selector, self._since = job, selector, time.monotonic()
        self._sign = self._since  # of progress, the last one
        self._answer, self._rest, self._open, self._late = dict[str, Any](), b"", True, False
        # What it leaves behind in the folder for temporary files goes with it.
        self._folder = tempfile.TemporaryDirectory(prefix="isomorph-gate-", ignore_cleanup_errors=True)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._pipe, descriptor = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = self._start(descriptor)
        except BaseException:
            os.close(self._pipe)
            self._log.close()
            self._folder.cleanup()
            raise
        finally:
            os.close(descriptor)
        selector.register(self._pipe, selectors.EVENT_READ, self)
        self._ask()

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        output: Any = sys.stderr if debugging() else self._log
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "isomorph.parity.gate.child", str(descriptor)],
            stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=(descriptor,), start_new_session=True,
            env={**QUIET, **os.environ, "TMPDIR": self._folder.name},
        )  # fmt: skip

    def _ask(self) -> None:
        """Its task; stdin stays open, so that it sees when this process ends."""
        job, stdin = self._job, self._process.stdin
        message = {"task": job.task, "perform": job.perform, "artifacts": job.artifacts, "path": sys.path,
                   "folder": self._folder.name}  # fmt: skip
        with contextlib.suppress(BrokenPipeError):  # it has died already, which is told as any other death
            if stdin is not None:
                stdin.write(json.dumps(message, default=str).encode() + b"\n")
                stdin.flush()

    def read(self, progress: Progress) -> None:
        """What it has said by now."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._pipe, 1 << 16):
                self._rest += part
            self._close()
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # the task's own code has written to it
                message = {"error": f"its process wrote what is no answer: {line[:100]!r}"}
            if "stage" in message:
                self._sign = time.monotonic()
                progress.stage(self._job.name, *message["stage"])
            else:
                self._answer = message

    def over(self) -> bool:
        """Whether there is nothing to wait for: it has answered, has died, or its time is up."""
        limit = self._job.timeout
        self._late = limit is not None and time.monotonic() - self._sign > limit
        return bool(self._answer) or not self._open or self._late or exit_status(self._process) is not None

    def reached(self, progress: Progress) -> Reached:
        """What it came to. The process is ended."""
        if self._open:  # what it said in its last moment
            self.read(progress)
        seconds = time.monotonic() - self._since
        if "result" in self._answer:
            self.end()
            return Reached(Result.from_dict(self._answer["result"]), tuple(self._answer["read"]))
        message = self._answer.get("error") or self._obituary()
        self.end()
        return Reached(self._job.failed(message, seconds))

    def _obituary(self) -> str:
        if self._late:
            return f"showed no progress for {self._job.timeout:g} s and was ended{self._last_words()}"
        until = time.monotonic() + 5  # the pipe ends a moment before the process does
        while (status := exit_status(self._process)) is None and time.monotonic() < until:
            time.sleep(0.01)
        if status is None:
            how = "closed its pipe without a result"
        elif status < 0:
            how = f"was killed by {_signal(-status)}"
            how += ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        else:
            how = f"ended with exit status {status} and no result"
        return f"its process {how}{self._last_words()}"

    def _last_words(self) -> str:
        """The last line of its output; of a crash, what it was."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - (1 << 14)))
        lines = [line.strip()[:300] for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        crash = [line for line in lines if line.startswith("Fatal Python error")]
        return f"; its last output: {(crash or lines)[-1]}" if lines else ""

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._selector.unregister(self._pipe)
            os.close(self._pipe)

    def end(self) -> None:
        """The process and whatever it started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._close()
        self._log.close()
        self._folder.cleanup()


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
