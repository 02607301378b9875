"""A verdict as a record holds it (`Verdict.to_dict()`, perhaps after JSON) back to a `Verdict`. Standard library only.

By the annotations of the dataclasses of parity/verdict.py, so that a field which is added there needs nothing here.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
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
        found: Verdict = _build(Verdict, said)
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
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(cls: Any, said: Any) -> Any:
    if not isinstance(said, Mapping):
        raise TypeError(f"{cls.__name__}: {said!r:.60} is no object")
    hints = _hints(cls)
    return cls(**{f.name: _value(hints[f.name], said[f.name]) for f in fields(cls) if f.name in said})


def _value(hint: Any, said: Any) -> Any:
    """`said` as the annotation wants it: objects to dataclasses, lists to tuples, "nan" and the like to numbers."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if said is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), said)
    if origin is tuple:
        if not isinstance(said, list | tuple):
            raise TypeError(f"{said!r:.60} is no list")
        inner = arguments[:1] * len(said) if arguments[1:] == (...,) else arguments
        return tuple(_value(a, item) for a, item in zip(inner, said, strict=True))
    if is_dataclass(hint):
        return _build(hint, said)
    if hint in (int, float):
        found = number(said)
        if found is None:
            raise TypeError(f"{said!r:.60} is no number")
        return said if isinstance(said, int) else found
    return said
