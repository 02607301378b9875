"""A gate file's folder as the place where its models are: the working directory, and where its modules come from.
Standard library only. One at a time in a process: the working directory is the process's."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

__all__ = ["within"]

_READ: dict[str, str] = {}  # file of a module that a gate imported -> SHA-256 of what it held then


@contextlib.contextmanager
def within(folder: Path, modules: Mapping[str, Path | None]) -> Iterator[None]:
    """While open, the folder is the working directory, and the modules are those of its files.

    modules: name -> file (None for a package without one), as `identity.code_of` found them. A module of one of these
    names that came from another file, as that of another gate in the same process does, is set aside and put back; one
    whose file has changed is forgotten. OSError: the folder cannot be entered.
    """
    before = Path.cwd()
    os.chdir(folder)
    aside: dict[str, ModuleType] = {}
    try:
        for name, file in modules.items():
            if name in sys.modules and not _is_from(sys.modules[name], file, folder / Path(*name.split("."))):
                aside |= _taken(name)
        if any(_changed(file) for file in modules.values()):
            for name in modules:
                _taken(name)
        _READ.update({str(file): _hash(file) for file in modules.values() if file is not None})
        yield
    finally:
        os.chdir(before)
        for name in list(sys.modules):
            if any(name == taken or name.startswith(f"{taken}.") for taken in aside):
                del sys.modules[name]
        sys.modules.update(aside)


def _taken(name: str) -> dict[str, ModuleType]:
    """A module and those inside it, taken out."""
    names = [other for other in sys.modules if other == name or other.startswith(f"{name}.")]
    return {other: sys.modules.pop(other) for other in names}


def _is_from(module: ModuleType, file: Path | None, home: Path) -> bool:
    """Whether a module is the one of this file, or a package without one of this directory."""
    own = getattr(module, "__file__", None)
    if file is None or own is None:
        places = [Path(place).resolve() for place in getattr(module, "__path__", ())]
        return file is None and own is None and home.resolve() in places
    return Path(own).resolve() == file


def _changed(file: Path | None) -> bool:
    return file is not None and _READ.get(str(file), _hash(file)) != _hash(file)


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
