"""Code that the user names: `pkg.module:attribute` or `path/to/file.py:attribute` to the object. Nothing else is run,
and whatever that code raises becomes one line that says where. Standard library only."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .errors import IsomorphError, UsageError

__all__ = ["cwd_importable", "find", "kind_of", "suggest", "user_code"]

T = TypeVar("T")


def find(text: str) -> tuple[ModuleType, Any]:
    """The Python module and the object in it that `text` names; open `cwd_importable` around it. UsageError: there is
    none, or importing it raised."""
    target, _, attribute = text.rpartition(":")
    home = _import(target, text)
    found: Any = home
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{text}: {target} has no {attribute!r}{suggest(attribute, _callables(home))}")
        found = getattr(found, part)
    return home, found


@contextmanager
def cwd_importable() -> Iterator[None]:
    """The working directory first on sys.path, as `python -m` has it, and taken away again."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _import(target: str, text: str) -> ModuleType:
    if target.endswith(".py") or "/" in target or "\\" in target:
        path = Path(target)
        if not path.is_file():
            raise UsageError(f"{text}: no such file: {target}")
        spec = importlib.util.spec_from_file_location(f"isomorph_source_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{text}: {target} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        # dataclasses and pickling look their module up by name.
        sys.modules[spec.name] = module
        user_code(lambda: spec.loader.exec_module(module), f"{text}: importing {target}")  # type: ignore[union-attr]
        return module
    try:
        found = importlib.util.find_spec(target)
    except (ImportError, ValueError, AttributeError):
        found = None
    except Exception as error:
        raise _user_error(error, f"{text}: importing {target}") from error
    if found is None:
        raise UsageError(f"{text}: no module named {target!r} in {Path.cwd()} or among the installed packages")
    return user_code(lambda: importlib.import_module(target), f"{text}: importing {target}")


def user_code(call: Callable[[], T], doing: str) -> T:
    """Run code that the user named. UsageError: it raised; the line says what and where."""
    try:
        return call()
    except (KeyboardInterrupt, IsomorphError):
        raise
    except BaseException as error:
        raise _user_error(error, doing) from error


def _user_error(error: BaseException, doing: str) -> UsageError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}:{error.lineno})"
    first = (str(error).strip().splitlines() or [""])[0]
    said = f": {first}" if first else ""
    return UsageError(f"{doing} raised {type(error).__name__}{said}{where}")


def kind_of(value: Any) -> str:
    """What an object is, for a message: "an object of type int"."""
    if isinstance(value, tuple):
        return f"a tuple of ({', '.join(type(item).__name__ for item in value)})"
    return f"an object of type {type(value).__name__}"


def _callables(home: ModuleType) -> list[str]:
    return [name for name, value in vars(home).items() if callable(value) and not name.startswith("_")]


def suggest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean ...?", or nothing where no known name is near."""
    close = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
