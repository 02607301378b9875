"""Numbers and commands as the page writes them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from isomorph.parity.record import Record, Result

__all__ = ["commands", "count", "figure", "finite", "ratio", "seconds", "size", "tone"]

NONE = "–"


def tone(status: str) -> str:
    """ "good", "bad", or "unsure" for what was not decided."""
    if status == "PASS":
        return "good"
    return "bad" if status in ("FAIL", "ERROR", "REGRESSION", "BUDGET") else "unsure"


def finite(value: Any) -> float:
    """A number of a verdict, whose non-finite ones are texts."""
    return float(value)


def figure(value: Any, digits: int = 2) -> str:
    """An error or a value: so many significant digits, in powers of ten where it is very small or large."""
    if value is None:
        return NONE
    number = finite(value)
    if not math.isfinite(number) or number == 0:
        return "0" if number == 0 else str(number)
    if digits > 2 and number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    if digits > 2 and 1e-4 <= abs(number) < 10**digits:
        return f"{number:.{digits}g}"
    head, _, power = f"{number:.{digits - 1}e}".partition("e")
    return f"{head}e{int(power)}"


def ratio(value: Any) -> str:
    """How many times the original's own error."""
    return "" if value is None else f"{finite(value):.2g}×"


def count(value: Any) -> str:
    """An integer with thin spaces between its thousands."""
    return f"{value:,}".replace(",", "\u2009") if isinstance(value, int) else str(value)


def size(value: float) -> str:
    """Bytes, in powers of 1000; "" for none."""
    if not value:
        return ""
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def seconds(value: float) -> str:
    """A duration."""
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def commands(result: Result, record: Record, verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what it does, command) of the ways to see a result again."""
    found = []
    reproducer = result.artifacts.get("reproducer")
    if reproducer:
        found.append(("The counterexample alone, as a test", f"python -m pytest {shlex.quote(reproducer)}"))
    named = [subject for subject in result.subjects if subject.kind != "object" and subject.name]
    if len(named) == 2 and verdict:
        found.append(("These two models", shlex.join(_check(result, verdict))))
    if record.command:
        found.append(("The whole run", record.command))
    return found


def _check(result: Result, verdict: Mapping[str, Any]) -> list[str]:
    """`isomorph check` with the settings that differ from its defaults."""
    said, command = result.settings, ["isomorph", "check", result.original, result.converted]
    if said.get("weights"):
        command += ["--weights", str(said["weights"])]
    inputs = said.get("inputs") or ()
    for text in inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else ():
        command += ["--input", str(text)]
    for key, default in {"level": "full", "examples": None, "dtype": "both"}.items():
        if said.get(key) not in (None, default):
            command += [f"--{key}", str(said[key])]
    modes: Sequence[Any] = said.get("modes") or ()
    if len(modes) == 1:
        command += ["--mode", str(modes[0])]
    if said.get("strict") is not None:
        command.append("--strict" if said["strict"] else "--no-strict")
    if result.device != "cpu":
        command += ["--device", result.device]
    return [*command, "--seed", str(verdict.get("seed", 0))]
