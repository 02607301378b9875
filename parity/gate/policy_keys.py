"""What may stand in a gate file: each key, and how its value is read. Standard library only.

A reader takes the value that TOML gave and returns it as the policy holds it, or raises ValueError with what it must
be.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.convert.inputspec import parse_all
from isomorph.parity.settings import LEVELS, QUANTISED

__all__ = [
    "BUDGETS",
    "CHECKS",
    "CONVERT",
    "GATE",
    "IDENTITY",
    "MODEL",
    "NEEDED_OF_WAIVER",
    "SETTINGS",
    "UNITS",
    "WAIVER",
    "Reader",
    "finding_parts",
    "matches",
    "size",
]

Reader = Callable[[Any], Any]

CHECKS = (
    "outputs", "gradients", "buffers", "train", "special", "randomised", "steps", "relations", "determinism", "dropout",
)  # fmt: skip
UNITS: Mapping[str, str] = {"precision": "x", "latency_ratio": "x", "size": "bytes", "memory": "bytes"}
# Kinds and quantities of `verdict.Mismatch`, which a waiver names.
KINDS = (
    "structure", "missing", "shape", "dtype", "frozen", "value", "nonfinite", "leak", "kink", "precision", "imprecise",
    "random", "raised", "tied", "integer", "nondeterministic", "batch",
)  # fmt: skip
QUANTITIES = ("signature", "output", "input gradient", "parameter gradient", "parameter", "buffer")
POWERS: Mapping[str, int] = {"": 1, "b": 1} | {
    f"{letter}{infix}b": int(base**power)
    for base, infix in ((1000, ""), (1024, "i"))
    for power, letter in enumerate("kmgt", 1)
}
LONGEST = 10**8  # seconds that a limit may be: some operating systems can wait no longer than 2**31
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_NAME = re.compile(r"\w[\w.+@-]*")


# ------------------------------------------------------------------------------------------------------------- readers
def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be a name of letters, digits and . _ + @ -")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(low: int, below: int = 2**63) -> Reader:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < below:
            most = "" if below == 2**63 else f", and less than {below}"
            raise ValueError(f"must be a whole number of {low} or more{most}")
        return value

    return read


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError("must be a number above 0")
    return float(value)


def _seconds(value: Any) -> float:
    found = _positive(value)
    if found > LONGEST:
        raise ValueError(f"must be a number of seconds up to {LONGEST}")
    return found


def size(value: Any) -> int:
    """Bytes, of a number or of a text such as "20 MB" (1000 each) or "20 MiB" (1024 each). ValueError: it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = None if match is None else POWERS.get(match[2].lower())
    if match is None or unit is None or not float(match[1]):
        raise ValueError('must be a number of bytes, or a text such as "20 MB" or "512 KiB"')
    return round(float(match[1]) * unit)


def _one_of(known: Sequence[str]) -> Reader:
    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return str(value)

    return read


def _some(check: Callable[[str], bool], form: str, empty: bool = False) -> Reader:
    """A list of different texts."""

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be a list of texts: {form}")
        if not value and not empty:
            raise ValueError(f"must not be empty: {form}")
        wrong = next((item for item in value if not check(item)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not known: {form}")
        if len(set(value)) < len(value):
            raise ValueError("names something twice")
        return tuple(value)

    return read


def _some_of(known: Sequence[str], empty: bool = False) -> Reader:
    return _some(known.__contains__, f"some of {', '.join(known)}", empty)


def _inputs(value: Any) -> tuple[str, ...]:
    texts: tuple[str, ...] = _some(lambda text: True, 'such as ["x=float32[b,3,224,224]"]')(value)
    try:
        parse_all(texts)
    except UsageError as error:
        raise ValueError(str(error).removeprefix("--input").lstrip(": ")) from error
    return texts


def _tolerances(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or set(value) - set(QUANTISED):
        raise ValueError(f"must be a table of {', '.join(QUANTISED)}")
    for name, number in value.items():
        if _positive(number) > 1:
            raise ValueError(f"{name} must be a relative error of 1 or less: one above it is no agreement")
    return {name: float(number) for name, number in value.items()}


def _date(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        raise ValueError("must be a date without a time: 2027-03-01")
    try:
        return (value if isinstance(value, datetime.date) else datetime.date.fromisoformat(value)).isoformat()
    except (TypeError, ValueError):
        raise ValueError("must be a date: 2027-03-01") from None


def finding_parts(pattern: str) -> tuple[str, str, str]:
    """kind, quantity and name of a pattern; "budget", "" and its name. ValueError: it names nothing that there is."""
    kind, slash, rest = pattern.partition("/")
    if kind == "budget" and slash:
        if rest not in UNITS:
            raise ValueError(f"{pattern!r}: budgets are {', '.join(UNITS)}")
        return kind, "", rest
    quantity, slash, name = rest.partition("/")
    if not slash or not name:
        raise ValueError(f'{pattern!r}: the form is KIND/QUANTITY/NAME, as "value/output/*", or "budget/NAME"')
    for part, known in ((kind, KINDS), (quantity, QUANTITIES)):
        if not any(matches(part, word) for word in known):
            raise ValueError(f"{pattern!r}: {part!r} is not known: {', '.join(known)}")
    return kind, quantity, name


def matches(pattern: str, text: str) -> bool:
    """Whether `*` and `?` of a pattern stand for what the text has there. Brackets are brackets."""
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def _findings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    texts: tuple[str, ...] = _some(lambda text: True, 'such as "value/output/*"')(value)
    parts = [finding_parts(text) for text in texts]
    wide = [(kind, quantity) for kind, quantity, name in parts if kind != "budget" and not name.strip("*?")]
    everything = ((kind, quantity) for kind in KINDS for quantity in QUANTITIES)
    if all(any(matches(a, kind) and matches(b, quantity) for a, b in wide) for kind, quantity in everything):
        raise ValueError("would cover whatever goes wrong: name a kind, a quantity or a name")
    return texts


# ---------------------------------------------------------------------------------------------------------------- keys
GATE: Mapping[str, Reader] = {"version": _whole(1), "valid_days": _whole(1)}
CONVERT: Mapping[str, Reader] = {
    "to": _one_of(("keras", "onnx", "torch")),
    "layout": _one_of(("keras", "torch", "source")),
    "mode": _one_of(("both", "eval")),
    "dtype": _one_of(("float64", "float32", "float16", "bfloat16")),
    "batchnorm": _one_of(("torch", "keras")),
    "opset": _whole(1),
    "trainable": _one_of(("auto", "all", "none")),
}
BUDGETS: Mapping[str, Reader] = {"precision": _positive, "latency_ratio": _positive, "size": size, "memory": size}
IDENTITY: Mapping[str, Reader] = {"name": _name, "source": _text, "artifact": _text}  # and "convert": of one model
SETTINGS: Mapping[str, Reader] = {
    "weights": _text,
    "artifact_weights": _text,
    "inputs": _inputs,
    "level": _one_of(tuple(LEVELS)),
    "examples": _whole(1),
    "steps": _whole(0),
    "seed": _whole(0, 2**32),  # NumPy's and Keras' seeds are no larger
    "modes": _some_of(("eval", "train")),
    "backward": _flag,
    "strict": _flag,
    "tolerances": _tolerances,
    "timeout": _seconds,
    "memory_limit": size,
    "isolate": _flag,
    "backend": _one_of(("tensorflow", "jax", "torch")),
    "python": _text,
    "devices": _some(lambda text: bool(_DEVICE.fullmatch(text)), "cpu, cuda or cuda:N"),
    "dtypes": _some_of(("both", "float64", "own")),
    "checks": _some_of(CHECKS, empty=True),
}
MODEL: Mapping[str, Reader] = {**IDENTITY, **SETTINGS}
WAIVER: Mapping[str, Reader] = {
    "name": _name, "model": _text, "reason": _text, "owner": _text, "expires": _date, "finding": _findings,
}  # fmt: skip
NEEDED_OF_WAIVER = tuple(WAIVER)
