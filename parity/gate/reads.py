"""The files that a task opens while it runs: what its models are made of is not all written in their code.

    with reads(folder, leave_out) as read: ...      read.files() -> the paths, when it is over

Python tells of every file that Python code opens (`sys.addaudithook`, event "open"), imported modules included. A file
that a library in C or Rust opens by itself is not heard of, nor one of another process. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["Reads", "reads"]

_INSTALLED = frozenset({"site-packages", "dist-packages"})  # the versions of what lies there are known
_SYSTEM = ("/proc", "/sys", "/dev", "/etc")
_current: list[Reads] = []
_hooked: list[bool] = []


class Reads:
    """What was opened to be read. folder: of the task; what lies there counts also where temporary files are."""

    def __init__(self, folder: Path, leave_out: Iterable[Path]) -> None:
        self._folder, self._opened = folder.resolve(), set[str]()
        known = sysconfig.get_paths()
        out: list[str | Path] = [*_SYSTEM, known["stdlib"], known["platstdlib"], *leave_out]
        self._out = [Path(path).resolve() for path in out]
        self._temporary = Path(tempfile.gettempdir()).resolve()

    def opened(self, path: Any, flags: int) -> None:
        """A file is opened; a relative path means another one later."""
        if isinstance(path, str | bytes) and flags & os.O_ACCMODE != os.O_WRONLY:
            self._opened.add(os.path.abspath(os.fsdecode(path)))

    def files(self) -> tuple[str, ...]:
        """The files that are there still, but for the standard library, installed packages and the system's. Those of
        modules that were loaded before, which are not opened again, are among them."""
        loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        opened = self._opened | {os.path.abspath(path) for path in loaded if isinstance(path, str)}
        return tuple(sorted({str(path) for path in map(_source, opened) if self._counts(path)}))

    def _counts(self, path: Path) -> bool:
        if _INSTALLED & set(path.parts) or any(path.is_relative_to(folder) for folder in self._out):
            return False
        return path.is_file() and (path.is_relative_to(self._folder) or not path.is_relative_to(self._temporary))


@contextmanager
def reads(folder: Path, leave_out: Iterable[Path] = ()) -> Iterator[Reads]:
    """Listen meanwhile. leave_out: folders whose files do not count."""
    if not _hooked:  # a hook cannot be taken away again
        sys.addaudithook(_heard)
        _hooked.append(True)
    found = Reads(folder, leave_out)
    _current.append(found)
    try:
        yield found
    finally:
        _current.remove(found)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _current:
        path, _, flags = arguments
        try:
            _current[-1].opened(path, flags)
        except Exception:  # what a hook raises would stop the file from being opened
            return


def _source(path: str) -> Path:
    """Of compiled code, the code; a link's target."""
    if path.endswith(".pyc"):
        with suppress(ValueError):
            path = importlib.util.source_from_cache(path)
    return Path(path).resolve()
