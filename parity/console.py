"""The command's own two streams, and silence around the frameworks.

TensorFlow writes to file descriptor 2 from C++, absl before its logging is set up, torch through `warnings`
and `logging`; a user's factory may print. While the command works, both descriptors lead to a file that is thrown away,
and the command writes through duplicates. ISOMORPH_TRACEBACK=1 leaves everything as it is.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

TRACEBACK = "ISOMORPH_TRACEBACK"
# Read by the frameworks when they are imported; what the user has set stays.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
    "GLOG_minloglevel": "3",
    "TOKENIZERS_PARALLELISM": "false",
    "KERAS_BACKEND": "tensorflow",
}


def debugging() -> bool:
    """Whether ISOMORPH_TRACEBACK asks for tracebacks and for the frameworks' own output."""
    return os.environ.get(TRACEBACK, "") not in ("", "0")


class Console:
    """Results go to `out`, one JSON document at most; messages and progress go to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out = out
        self.err = err

    def line(self, text: str = "") -> None:
        self.out.write(text + "\n")
        self.out.flush()

    def json(self, document: Mapping[str, Any]) -> None:
        self.line(json_text(document))

    def message(self, text: str) -> None:
        self.err.write(text + "\n")
        self.err.flush()

    def table(self, table: Any) -> None:
        """A rich renderable on `out`; as wide as it needs to be where `out` is no terminal."""
        from rich.console import Console as RichConsole

        tty = self.out.isatty()
        RichConsole(file=self.out, width=None if tty else 160, highlight=False).print(table)

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table without a frame."""
        from rich.table import Table

        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(str, row))
        self.table(table)


def json_text(document: Mapping[str, Any]) -> str:
    """One document: keys in the order given, no NaN (JSON has none), anything unknown as its text."""
    return json.dumps(_strict(document), indent=2, ensure_ascii=False, default=str)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_strict(item) for item in value]
    return value


@contextlib.contextmanager
def console() -> Iterator[Console]:
    """A Console; inside, everything else that writes to stdout or stderr is silent. Nests no second time."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if debugging():
        yield Console(sys.stdout, sys.stderr)
        return
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(_own(stream, fd)) for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)))
        log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for fd in (1, 2):
            stack.enter_context(_redirected(fd, log.fileno()))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # A crash inside a framework would otherwise be silent too.
            faulthandler.enable(err.fileno())
            stack.callback(faulthandler.disable)
        yield Console(out, err)


@contextlib.contextmanager
def _own(stream: TextIO, fd: int) -> Iterator[TextIO]:
    """`stream` itself, or a duplicate when it is the descriptor that is about to be redirected."""
    stream.flush()
    try:
        same = stream.fileno() == fd
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        yield stream
        return
    with os.fdopen(os.dup(fd), "w", encoding=stream.encoding or "utf-8", errors="replace") as duplicate:
        yield duplicate


@contextlib.contextmanager
def _redirected(fd: int, target: int) -> Iterator[None]:
    try:
        saved = os.dup(fd)
    except OSError:  # the descriptor is closed (a daemon): there is nothing to silence
        yield
        return
    os.dup2(target, fd)
    try:
        yield
    finally:
        os.dup2(saved, fd)
        os.close(saved)
