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
def within(folder: Path, modules: Mapping[str, Path]) -> Iterator[None]:
    """While open, the folder is the working directory, and the modules are those of its files.

    modules: name -> file, or directory of a package without one, as `identity.code_of` found them. A module of one of
    these names that came from elsewhere, as that of another gate in the same process does, is set aside and put back;
    one whose file has changed is forgotten. OSError: the folder cannot be entered.
    """
    before = Path.cwd()
    os.chdir(folder)
    aside: dict[str, ModuleType] = {}
    try:
        for name, place in modules.items():
            if name in sys.modules and not _is_from(sys.modules[name], place):
                aside |= _taken(name)
        now = {str(place): _hash(place) for place in modules.values() if place.is_file()}
        if any(_READ.get(file, sha256) != sha256 for file, sha256 in now.items()):
            for name in modules:
                _taken(name)
        _READ.update(now)
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


def _is_from(module: ModuleType, place: Path) -> bool:
    """Whether a module is the one of this file, or the package of this directory."""
    file = getattr(module, "__file__", None)
    if file is not None:
        return Path(file).resolve() == place
    return place in [Path(entry).resolve() for entry in getattr(module, "__path__", ())]


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
