"""One task in a process of its own: read from stdin, done, its result written to a descriptor that nothing else has.

    python -m isomorph.parity.gate.child DESCRIPTOR         started by `engines.processes` only

Lines of JSON: stdin has one, {"task", "perform", "artifacts", "path", "folder"}; the descriptor gets {"stage": [name,
done, total]} as it goes on, and {"result", "read"} (`Reached`) or {"error": text} at the end. The frameworks print to
stdout and stderr as they like. stdin stays open as long as the gate lives: when it ends, so does this process, with
whatever it started and with its folder for temporary files.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from isomorph.convert.errors import IsomorphError, one_line
from isomorph.parity.gate.reads import reads
from isomorph.parity.record import Result

__all__ = ["Reached", "Say", "done", "main", "perform", "told"]

Say = Callable[[str, int, int], None]  # (stage, done, total); total 0: nobody knows
_PAUSE = 0.1  # seconds between two reports of the same stage


def perform(said: Mapping[str, Any], report: Say | None, artifacts: Path | None) -> Result:
    """A task as `Task.to_dict` gives it, done in this process."""
    from isomorph.parity.gate.execute import execute
    from isomorph.parity.gate.tasks import Task

    return execute(Task.from_dict(said), report, artifacts)


class Reached(NamedTuple):
    """A result, and the files that were read for it (`reads`)."""

    result: Result
    read: tuple[str, ...] = ()


def done(name: str, task: Mapping[str, Any], report: Say | None, artifacts: Path | None) -> Reached:
    """A task, done by the function "module:function": another process is told its name."""
    module, _, function = name.partition(":")
    packages = ("isomorph", "isomorph.convert", "isomorph.parity")  # whose sources are known
    own = [Path(path) for package in packages for path in import_module(package).__path__]
    leave_out = own if artifacts is None else [*own, artifacts]
    with reads(Path(task.get("folder", ".")), leave_out) as read:
        result: Result = getattr(import_module(module), function)(task, report, artifacts)
    return Reached(result, (*read.files(), *read.variables()))


def told(error: Exception) -> str:
    """What a result says of an exception that `perform` did not turn into one."""
    return str(error) if isinstance(error, IsomorphError) else f"internal: {one_line(error)}"


def main(descriptor: int) -> None:
    """Do the one task of stdin."""
    os.set_inheritable(descriptor, False)  # a process that outlives this one would keep the pipe open
    faulthandler.enable()
    message = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, args=(message["folder"],), daemon=True).start()
    sys.path.extend(entry for entry in message["path"] if entry not in sys.path)
    artifacts = None if message["artifacts"] is None else Path(message["artifacts"])
    with os.fdopen(descriptor, "w", encoding="utf-8") as answers:
        say = _Reporter(answers)
        answer: dict[str, Any]
        try:
            result, read = done(message["perform"], message["task"], say, artifacts)
            answer = {"result": result.to_dict(), "read": read}
        except Exception as error:
            answer = {"error": told(error)}
        say.write(answer)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # the frameworks' threads and exit handlers have nothing to add, and may hang


class _Reporter:
    """Writes to the gate; the same stage at most ten times a second."""

    def __init__(self, answers: Any) -> None:
        self._answers, self._lock = answers, threading.Lock()
        self._stage, self._next = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage or now >= self._next:
            self._stage, self._next = stage, now + _PAUSE
            self.write({"stage": [stage, done, total]})

    def write(self, message: Mapping[str, Any]) -> None:
        text = json.dumps(message, default=str)
        with self._lock:
            self._answers.write(text + "\n")
            self._answers.flush()


def _end_with_stdin(folder: str) -> None:
    # Past Python's buffer: its lock would be held for the whole life of the process.
    while os.read(0, 1 << 16):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    if os.getpgrp() == os.getpid():  # the group is this process's own
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
