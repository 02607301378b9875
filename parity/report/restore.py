"""A verdict as a record holds it (`Verdict.to_dict()`, perhaps after JSON) back to a `Verdict`. Standard library only.

By the annotations of the dataclasses of parity/verdict.py, so that a field which is added there needs nothing here.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from isomorph.parity.verdict import Verdict

__all__ = ["gaps", "number", "restore"]

# What the lines of `Verdict.summary()` begin with that say what was left open.
GAPS = ("not judged: ", "not checked: ", "warning: ")


def restore(said: Mapping[str, Any] | None) -> Verdict | None:
    """The verdict of a result; None where it has none. Unknown keys are left out, missing ones take their default.

    Raises:
        ValueError, TypeError: this is no verdict.
    """
    if said is None:
        return None
    try:
        found: Verdict = _reader(Verdict)(said)
        found.summary()  # also what `coverage` holds has the form that the faces draw
    except (AttributeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return found


def number(value: Any) -> float | None:
    """A number as JSON holds it, also "nan", "inf" and "-inf"; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def gaps(verdict: Verdict) -> list[str]:
    """What the verdict says nothing about, and its warnings: the lines that `summary` has for them."""
    return [line for line in verdict.summary().splitlines() if line.startswith(GAPS)]


@cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """What makes a value of the annotation: objects to dataclasses, lists to tuples, "nan" and the like to numbers."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = _reader(next(a for a in arguments if a is not type(None)))
        return lambda said: None if said is None else inner(said)
    if origin is tuple:
        return _tuple_reader(arguments)
    if is_dataclass(hint):
        return _object_reader(hint)
    return _number if hint in (int, float) else lambda said: said


def _object_reader(cls: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(cls)
    readers = [(f.name, _reader(hints[f.name])) for f in fields(cls)]

    def read(said: Any) -> Any:
        if not isinstance(said, Mapping):
            raise TypeError(f"{cls.__name__}: {said!r:.60} is no object")
        return cls(**{name: reader(said[name]) for name, reader in readers if name in said})

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    many = arguments[1:] == (...,)
    readers = [_reader(argument) for argument in arguments if argument is not ...]

    def read(said: Any) -> Any:
        if not isinstance(said, list | tuple):
            raise TypeError(f"{said!r:.60} is no list")
        each = readers * len(said) if many else readers
        return tuple(reader(item) for reader, item in zip(each, said, strict=True))

    return read


def _number(said: Any) -> Any:
    found = said if type(said) in (int, float) else number(said)
    if found is None:
        raise TypeError(f"{said!r:.60} is no number")
    return found
