"""The files that a task opens while it runs: what its models are made of is not all written in their code.

    with reads(folder, leave_out) as read: ...      read.files() -> the paths, when it is over      state(path)

Python tells of every file that Python code opens and every folder that it lists (`sys.addaudithook`), imported modules
included, and of a file that is not there as well: what was sought in vain may be there the next time. A file that a
library in C or Rust opens by itself is not heard of, nor one of another process, nor a question whether a file is
there. Of the environment, the variables count that the task's own code asks for, as "$NAME". Standard library only.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isomorph.parity.gate.digest import of

__all__ = ["ABSENT", "Reads", "reads", "state"]

ABSENT = "absent"
_INSTALLED = frozenset({"site-packages", "dist-packages"})  # the versions of what lies there are known
_SYSTEM = ("/proc", "/sys", "/dev", "/etc")
_LISTED = ("os.listdir", "os.scandir")
_COMPILED = "__pycache__"
_PASSING = frozenset({"TMPDIR", "PWD", "OLDPWD", "_"})  # variables that are others in each process
_ASKING = frozenset({os.getenv.__code__.co_filename, Mapping.get.__code__.co_filename})  # on its behalf
_IMPORTS = ("<frozen importlib", os.path.dirname(importlib.__file__ or "importlib"))  # who looks for modules
_current: list[Reads] = []
_hooked: list[bool] = []


def state(path: str | os.PathLike[str]) -> str:
    """What a result may depend on of a path: the SHA-256 of a file; of a folder, which names it lists; that there is
    none. Likewise of a variable, "$NAME". UsageError, OSError: it cannot be read."""
    if str(path).startswith("$"):
        value = os.environ.get(str(path)[1:])
        return ABSENT if value is None else hashlib.sha256(os.fsencode(value)).hexdigest()
    path = Path(path)
    if path.is_dir():
        names = sorted(os.fsencode(name) for name in os.listdir(path) if name != _COMPILED)
        return f"lists {hashlib.sha256(b'/'.join(names)).hexdigest()}"
    return of(path).sha256 if path.exists() else ABSENT


class Reads:
    """What was opened to be read, or listed. folder: of the task; what lies there counts also where temporary files
    are."""

    def __init__(self, folder: Path, leave_out: Iterable[Path]) -> None:
        self._folder, self._opened, self._missed = folder.resolve(), set[str](), set[str]()
        self._asked = set[tuple[str, str]]()  # of the environment: what, and the file of the code that asked
        known = sysconfig.get_paths()
        out: list[str | Path] = [*_SYSTEM, known["stdlib"], known["platstdlib"], *leave_out]
        self._out = [Path(path).resolve() for path in out]
        self._temporary = Path(tempfile.gettempdir()).resolve()

    def opened(self, path: Any, flags: int = os.O_RDONLY) -> None:
        """A file is opened, or a folder listed; a relative path means another one later."""
        if isinstance(path, str | bytes | os.PathLike) and flags & os.O_ACCMODE != os.O_WRONLY:
            name = os.path.abspath(os.fsdecode(path))
            (self._opened if os.path.exists(name) else self._missed).add(name)

    def asked(self, name: Any, file: str) -> None:
        """Code of a file asks for a variable."""
        if isinstance(name, str) and name not in _PASSING:
            self._asked.add((name, file))

    def variables(self) -> tuple[str, ...]:
        """Those that the task's own code asked for, as "$NAME"."""
        own = {file for file in {file for _, file in self._asked} if os.path.isfile(file) and self._counts(Path(file))}
        return tuple(sorted({f"${name}" for name, file in self._asked if file in own}))

    def files(self) -> tuple[str, ...]:
        """The files, folders, and names that led nowhere, but for the standard library, installed packages and the
        system's. The files of modules that were loaded before, which are not opened again, are among them. A link is
        named as itself: it may lead elsewhere the next time."""
        loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        opened = self._opened | {os.path.abspath(path) for path in loaded if isinstance(path, str)}
        there = {path for path in map(_source, opened | self._missed) if os.path.exists(path)}
        gone = {path for path in self._missed if not os.path.exists(path)}  # not what the task made for a while
        return tuple(sorted(path for path in there | gone if self._counts(Path(path))))

    def _counts(self, path: Path) -> bool:
        return any(self._is_own(place) for place in (path, path.resolve()))

    def _is_own(self, path: Path) -> bool:
        if (_INSTALLED | {_COMPILED}) & set(path.parts) or any(path.is_relative_to(folder) for folder in self._out):
            return False
        if path.exists() and not (path.is_file() or path.is_dir()):
            return False  # a pipe or device
        return path.is_relative_to(self._folder) or not path.is_relative_to(self._temporary)


@contextmanager
def reads(folder: Path, leave_out: Iterable[Path] = ()) -> Iterator[Reads]:
    """Listen meanwhile. leave_out: folders whose files do not count."""
    if not _hooked:  # a hook cannot be taken away again
        sys.addaudithook(_heard)
        _hooked.append(True)
    found = Reads(folder, leave_out)
    _current.append(found)
    plain = os._Environ.__getitem__

    def told(self: Any, name: Any) -> Any:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename in _ASKING:
            frame = frame.f_back
        found.asked(name, frame.f_code.co_filename)
        return plain(self, name)

    os._Environ.__getitem__ = told  # type: ignore[method-assign]
    try:
        yield found
    finally:
        os._Environ.__getitem__ = plain  # type: ignore[method-assign]
        _current.remove(found)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _current or (event != "open" and event not in _LISTED):
        return
    try:
        if event == "open":
            path, _, flags = arguments
            _current[-1].opened(path, flags)
        elif not sys._getframe(1).f_code.co_filename.startswith(_IMPORTS):
            _current[-1].opened(arguments[0] or ".")
    except Exception:  # what a hook raises would stop the file from being opened
        return


def _source(path: str) -> str:
    """Of compiled code, the code."""
    if path.endswith(".pyc"):
        with suppress(ValueError):
            path = importlib.util.source_from_cache(path)
    return path
