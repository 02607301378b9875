"""A record as GitHub markdown: a step summary, a comment on a pull request. Standard library only.

Names come from models and are escaped: in markdown by backslashes, inside HTML tags as entities. A page has a size that
it may not exceed (GitHub takes 1 MiB for a step and drops a larger one whole): what does not fit is left out from the
end, details before rows, and counted.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from isomorph.parity.record import EXIT_CODES, Record, Result
from isomorph.parity.verdict import Check, Counterexample, Located, Mismatch, Verdict

from .restore import gaps, restore
from .texts import (
    MEANS,
    budget,
    counts,
    finding,
    headline,
    line,
    nonzero,
    plain,
    seconds,
    share,
    waived_by,
    waiver,
    worst,
)

__all__ = ["LIMIT", "draw"]

LIMIT = 1_000_000  # bytes; GitHub's limit is 1,048,576 for all that a step writes
NOTE = 400  # bytes kept for saying what was left out
MISMATCHES = 40  # listed of one result
CELL = 240  # characters of a message in a table
SIGNS = {"PASS": "✅", "FAIL": "❌", "ERROR": "❌"}
_MARK = re.compile(r"([\\`*|\[\]~$])|(?<!\w)(_)|(_)(?!\w)|^(\s*)([#>+-])")


def draw(record: Record, limit: int = LIMIT) -> str:
    """The page, of at most `limit` bytes of UTF-8 (but never less than its headline)."""
    head = "\n".join(_head(record))
    room = limit - _size(head) - NOTE
    # Most grave first, in the order of the record where they are equally so.
    order = sorted(record.results, key=lambda result: list(EXIT_CODES).index(result.status))
    rows, left = _fitting([_row(result) for result in order], min(room, max(room // 2, 2000)))
    room -= sum(map(_size, rows))
    notes = [f"- {_text(note)}" for note in record.notes]
    blocks, left_notes = _fitting(notes, room)
    room -= sum(map(_size, blocks))
    details, left_details = _fitting([_details(result, not result.passed) for result in order], room)
    said = [
        f"{count} {what} left out: this page has at most {limit:,} bytes."
        for count, what in ((left, "rows"), (left_notes, "notes"), (left_details, "results have their details"))
        if count
    ]
    table = ["| | check | says | worst error / allowed | time |", "| --- | --- | --- | --- | ---: |", *rows, ""]
    parts = [head, *(table if rows else ()), *said, "", *blocks, "", *details]
    return "\n".join(parts).rstrip() + "\n"


def _head(record: Record) -> Iterator[str]:
    yield f"## {_sign(record.status)} {record.status}: {_text(record.title)}"
    yield ""
    what = MEANS.get(record.status, ("", ""))[1]
    yield f"{_text(counts(record))}, in {seconds(record.seconds) or 'unknown time'}. {what}".rstrip()
    yield ""
    if record.policy:
        said = ", ".join(f"{name} {value}" for name, value in record.policy.items())
        yield f"Policy: {_text(said)}"
        yield ""
    if record.command:
        yield _fence(record.command, "sh")
        yield ""


def _row(result: Result) -> str:
    said = line(headline(result))
    said = said if len(said) <= CELL else said[: CELL - 3] + "..."
    cached = " (cached)" if result.cached else ""
    name, worst_one = f"<code>{_text(result.name)}</code>", _text(_worst(result))
    status, time = f"{_sign(result.status)} {result.status}", f"{seconds(result.seconds)}{cached}"
    return f"| {status} | {name} | {_text(said)} | {worst_one} | {time} |"


def _worst(result: Result) -> str:
    """The check that used most of its tolerance."""
    verdict = restore(result.verdict)
    found = [] if verdict is None else list(worst(verdict).values())
    if not found:
        return ""
    check = max(found, key=share)
    return f"{check.worst:.1e} / {check.tolerance:.1e} ({check.stage}, {check.quantity})"


def _details(result: Result, opened: bool) -> str:
    name, said = html.escape(line(result.name)), html.escape(headline(result)[:CELL])
    body = "\n".join(_body(result)).strip("\n")
    mark = " open" if opened else ""
    return f"<details{mark}><summary>{result.status} <code>{name}</code>: {said}</summary>\n\n{body}\n\n</details>\n"


def _body(result: Result) -> Iterator[str]:
    verdict = restore(result.verdict)
    if result.original or result.converted:  # a test may end before it has named any
        yield f"{_text(result.original)} = {_text(result.converted)} on {_text(result.device)}"
    if result.place is not None:
        yield f"asked for at {_text(f'{result.place.file}:{result.place.line}')}"
    yield ""
    if not result.passed and MEANS.get(result.status, ("", ""))[1]:
        yield from (MEANS[result.status][1], "")
    yield from _list("Budgets", [budget(row) + _waived(result, f"budget/{row.name}") for row in result.budgets])
    yield from _list("Waived", [waiver(row) for row in result.waived])
    if verdict is not None:
        yield from _verdict(verdict, result)
    yield from _list("Files", [f"{name}: {path}" for name, path in result.artifacts.items()])
    hashes = [f"{s.role} {s.name}: sha256 {s.sha256}" for s in result.subjects if s.sha256]
    yield from _list("Hashes", hashes)


def _verdict(verdict: Verdict, result: Result) -> Iterator[str]:
    if verdict.coverage.get("reason"):
        yield from (f"Reason: {_text(verdict.coverage['reason'])}", "")
    yield from _list("Differences", [_mismatch(m, result) for m in verdict.mismatches[:MISMATCHES]])
    if len(verdict.mismatches) > MISMATCHES:
        yield from (f"... and {len(verdict.mismatches) - MISMATCHES} more differences", "")
    if verdict.counterexample is not None:
        yield from _counterexample(verdict.counterexample)
    for located in verdict.located:
        yield from _located(located)
    yield from _list("Not judged", gaps(verdict))
    if verdict.checks:
        yield from _checks(verdict.checks)


def _mismatch(mismatch: Mismatch, result: Result) -> str:
    return f"{mismatch}{_waived(result, finding(mismatch))}"


def _waived(result: Result, said: str) -> str:
    waived = waived_by(result, said)
    return f" [waived: {waived.name}]" if waived else ""


def _counterexample(found: Counterexample) -> Iterator[str]:
    yield f"**Smallest example** ({_text(found.mode)} mode, {_text(found.case)}, {found.runs} runs)"
    yield ""
    lines = []
    for name, said in found.inputs.items():
        values = said.get("values")
        shown = f"{values}" if values is not None else nonzero(said.get("nonzero"))
        lines.append(line(f"{name} {said.get('dtype', '')}{said.get('shape', '')}: {shown}"))
    yield _fence("\n".join(lines))
    yield ""


def _located(located: Located) -> Iterator[str]:
    where = f"{located.module or 'the model itself'}{f' ({located.kind})' if located.kind else ''}"
    yield f"**Parts {_text(located.direction)}** at {_text(where)}"
    yield ""
    yield from _list("", [f"likely: {cause}" for cause in located.causes])
    if located.note:
        yield from (_text(located.note), "")


def _checks(checks: Sequence[Check]) -> Iterator[str]:
    yield "| stage | quantity | mode | dtype | equal | failed | unclear | empty | worst | allowed | x own |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for check in checks:
        cells = (
            check.stage, check.quantity, check.mode, check.dtype, check.equal, check.failed, check.inconclusive,
            check.vacuous, f"{check.worst:.1e}", f"{check.tolerance:.1e}",
            "" if check.ratio is None else f"{check.ratio:.2g}",
        )  # fmt: skip
        yield f"| {' | '.join(map(_text, cells))} |"
    yield ""


def _list(title: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        if title:
            yield from (f"**{title}**", "")
        yield from (f"- {_text(said)}" for said in lines)
        yield ""


def _sign(status: str) -> str:
    return SIGNS.get(status, "⚠️")


def _text(value: Any) -> str:
    """One line of plain text as markdown, also inside a table cell."""
    said = html.escape(line(value), quote=False)
    return _MARK.sub(lambda m: (m[4] or "") + "\\" + next(m[i] for i in (1, 2, 3, 5) if m[i]), said)


def _fence(text: str, kind: str = "") -> str:
    """A block of code, whose fence is longer than any in it."""
    text = plain(text)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{kind}\n{text}\n{ticks}"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace")) + 1


def _fitting(parts: Sequence[str], room: int) -> tuple[list[str], int]:
    """As many of the first parts as fit, and how many do not."""
    found = []
    for part in parts:
        room -= _size(part)
        if room < 0:
            break
        found.append(part)
    return found, len(parts) - len(found)
