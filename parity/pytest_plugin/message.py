"""What a failed check says in a test's output: what differs, on what, where, and how to see it again. Plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isomorph.parity.record import Result
from isomorph.parity.report.texts import located_lines, nonzero
from isomorph.parity.verdict import Counterexample, Mismatch, Verdict

__all__ = ["failure_text", "headline"]

MISMATCHES = 5  # listed
GAPS = 4  # of each kind


def headline(verdict: Verdict) -> str:
    """One line: what differs, or why nothing could be said; "" for a PASS."""
    if verdict.mismatches:
        return _differs(shown(verdict))
    return "" if verdict.status == "PASS" else str(verdict.coverage.get("reason") or "")


def failure_text(result: Result, verdict: Verdict, reproducer: str, again: str) -> str:
    """Everything, line by line. reproducer: its folder, or why there is none. again: the command that runs the test
    once more."""
    head = f"{result.status}: {result.original} and {result.converted}"
    lines = [f"{head}: {result.message}" if result.message else head]
    lines += _mismatches(verdict)
    if verdict.counterexample is not None:
        lines += _counterexample(verdict.counterexample)
    for located in verdict.located:
        lines += (said for said, _ in located_lines(located))
    lines += _gaps(verdict.coverage)
    if reproducer:
        lines.append(f"reproducer: {reproducer}")
    lines.append(f"seed {verdict.seed}, {result.device}; again: {again}")
    return "\n".join(lines)


def shown(verdict: Verdict) -> Mismatch:
    """The mismatch to lead with: the one that the counterexample shows, else the first."""
    example = verdict.counterexample
    if example is not None:
        for mismatch in verdict.mismatches:
            if (mismatch.kind, mismatch.quantity, mismatch.name) == (example.kind, example.quantity, example.name):
                return mismatch
    return verdict.mismatches[0]


def _differs(mismatch: Mismatch) -> str:
    where = f"{mismatch.quantity} {mismatch.name} ({mismatch.kind})".replace("  ", " ")
    if not mismatch.elements:
        return f"{where}: {mismatch.message}" if mismatch.message else where
    at = list(mismatch.position)
    text = f"expected {mismatch.expected:.9g}, got {mismatch.got:.9g} at {at}"
    return f"{where}: {text}, {mismatch.failing} of {mismatch.elements} elements"


def _mismatches(verdict: Verdict) -> Iterator[str]:
    for mismatch in verdict.mismatches[:MISMATCHES]:
        yield f"  - {mismatch}"
    if len(verdict.mismatches) > MISMATCHES:
        yield f"  ... and {len(verdict.mismatches) - MISMATCHES} more"


def _counterexample(found: Counterexample) -> Iterator[str]:
    how = "values simplified" if found.shrunk else "as drawn"
    yield f"smallest example: {found.mode} mode, {found.case}, {how}, {found.runs} runs"
    for name, said in found.inputs.items():
        values = said["values"]
        text = nonzero(said["nonzero"]) if said["nonzero"] else "all zero"
        text = _nested(values, said["shape"]) if values is not None else text
        yield f"  {name} = {said['dtype']}{list(said['shape'])} {text}"


def _nested(values: Sequence[Any], shape: Sequence[int]) -> str:
    """A flat list as it lies in its shape, numbers as short as they can be read."""
    if not shape:
        return _number(values[0])
    if len(shape) == 1:
        return f"[{', '.join(map(_number, values))}]"
    size = len(values) // shape[0] if shape[0] else 0
    rows = [values[i * size : (i + 1) * size] for i in range(shape[0])]
    return f"[{', '.join(_nested(row, shape[1:]) for row in rows)}]"


def _number(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _gaps(coverage: Mapping[str, Any]) -> Iterator[str]:
    """What the verdict does not speak of."""
    untested = coverage.get("parameters", {}).get("untested", ())
    if untested:
        more = ", ..." if len(untested) > GAPS else ""
        yield f"not judged: the gradient of {', '.join(list(untested)[:GAPS])}{more}"
    for kind, name in (("not checked", "not_checked"), ("warning", "warnings")):
        said = list(coverage.get(name, ()))
        yield from (f"{kind}: {text}" for text in said[:GAPS])
        if len(said) > GAPS:
            yield f"{kind}: ... and {len(said) - GAPS} more"
