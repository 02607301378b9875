"""What several faces say in the same words: a record's counts, a result's figures, the findings of a verdict. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from isomorph.parity.record import EXIT_CODES, BudgetLine, Record, Result, Waived
from isomorph.parity.verdict import Check, Located, Mismatch, Verdict

from .restore import number, restore

__all__ = [
    "MEANS", "amount", "answers_for", "budget", "counts", "figures", "finding", "headline", "line", "located_lines",
    "nonzero", "plain", "seconds", "share", "waived_by", "waiver", "worst",
]  # fmt: skip

MODULES = 8  # listed of a located difference
# What each status means, and what is to be done about it.
MEANS: Mapping[str, tuple[str, str]] = {
    "PASS": ("the same model", ""),
    "FAIL": ("not the same model", "Look at the differences, the smallest example and the module where they part."),
    "UNSUPPORTED": ("one of the models cannot be run", "Install what its format needs, or give it in another format."),
    "ERROR": ("a model or its process failed", "The message says where; isomorph doctor says what is installed."),
    "NOTHING_COMPARED": (
        "no conclusive comparison",
        "Nothing was proven: give inputs on which the model does something, or more examples.",
    ),
    "NOT_FOUND": ("a model is not there", "The path or name does not lead to a model: mend it or make the model."),
    "BUDGET": ("a budget is not kept", "Make the model fit its budget, or change the budget where it is stated."),
    "REGRESSION": (
        "worse than its baseline",
        "The error grew beyond noise though it is within the tolerance: find the change, or record a new baseline.",
    ),
    "WAIVER_EXPIRED": ("a waiver has expired", "Mend what it waives, or have its owner state a new date."),
    "WAIVER_UNUSED": ("a waiver waives nothing", "What it waived is mended: remove it."),
}
# No XML holds these (C0 controls, half of a surrogate pair, ...), and no terminal should be sent them;
# what turns the direction of writing, or breaks a line, makes a name look like another one.
_CONTROL = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u2028-\u202e\u2066-\u2069]")
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def plain(text: Any) -> str:
    r"""Text that every format can hold: a control character as \x1b."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], str(text))


def line(text: Any) -> str:
    """`plain`, and in one line."""
    return " ".join(plain(text).split())


def amount(value: Any, unit: str = "") -> str:
    """A figure for people; unit "bytes" as kB, MB or GB. "not measured" for None."""
    found = number(value)
    if found is None:
        return "not measured"
    if unit == "bytes" and math.isfinite(found):
        size, name = next(((s, n) for s, n in _UNITS if abs(found) >= s), (1.0, "bytes"))
        return f"{found / size:.4g} {name}"
    return f"{found:.3g}{unit}" if unit == "x" else f"{found:.3g} {unit}".rstrip()


def nonzero(count: Any) -> str:
    """What is said of an array whose values are too many to list."""
    return "1 element is not zero" if count == 1 else f"{'?' if count is None else count} elements are not zero"


def seconds(value: Any) -> str:
    found = number(value)
    return "" if found is None else f"{found:.1f} s"


def counts(record: Record) -> str:
    """ "3 results: 1 FAIL, 2 PASS", the gravest first."""
    total = len(record.results)
    if total == 1:
        return f"1 result: {record.status}"
    found = [(status, sum(r.status == status for r in record.results)) for status in EXIT_CODES]
    parts = ", ".join(f"{count} {status}" for status, count in found if count)
    return f"{total} results" + (f": {parts}" if parts else ", so nothing was proven")


def headline(result: Result) -> str:
    """The line to lead with: the message, else what the verdict compared, else what the status means."""
    if result.message:
        return line(result.message)
    verdict = restore(result.verdict)
    if verdict is None:
        return MEANS.get(result.status, (result.status, ""))[0]
    return line(verdict.summary().splitlines()[0].partition(": ")[2])


def finding(mismatch: Mismatch) -> str:
    """kind/quantity/name: what waivers and reports call it by."""
    return f"{mismatch.kind}/{mismatch.quantity}/{mismatch.name}"


def waived_by(result: Result, said: str) -> Waived | None:
    """The waiver that answers for a finding."""
    return next((waived for waived in result.waived if said in waived.findings), None)


def budget(row: BudgetLine) -> str:
    """A budget in one line: kept or not, what was measured and what is allowed."""
    said = f"{row.name}: {amount(row.measured, row.unit)} of {amount(row.limit, row.unit)} allowed"
    return line(said + ("" if row.kept else ", not kept") + (f" ({row.detail})" if row.detail else ""))


def waiver(waived: Waived) -> str:
    """A waiver in one line: who answers for what, why and until when."""
    what = ", ".join(waived.findings) or "nothing"
    return line(f"{waived.name}: {what} ({waived.reason}; {answers_for(waived)})")


def answers_for(waived: Waived) -> str:
    """Who, and until when if it has an end."""
    return waived.owner + (f", until {waived.expires}" if waived.expires else "")


def worst(verdict: Verdict) -> dict[tuple[str, str], Check]:
    """(stage, quantity) -> its worst check, in units of its tolerance. What failed and was excused is not what a PASS
    rests on."""
    found: dict[tuple[str, str], Check] = {}
    for check in verdict.checks:
        key = (check.stage, check.quantity)
        if verdict.status == "PASS" and check.failed:
            continue
        if check.compared and (key not in found or share(check) > share(found[key])):
            found[key] = check
    return found


def share(check: Check) -> float:
    """A check's worst error in units of its tolerance; infinite where there is an error and no tolerance."""
    error = math.inf if math.isnan(check.worst) else check.worst
    if check.tolerance > 0:
        return error / check.tolerance
    return math.inf if error > 0 else 0.0


def figures(result: Result) -> dict[str, str]:
    """The properties of a test case that stands for the result: names begin with "parity.", numbers in full."""
    verdict = restore(result.verdict)
    found = {"parity.status": result.status, "parity.device": result.device}
    found["parity.cached"] = str(result.cached).lower()
    if verdict is not None:
        found["parity.verdict"] = verdict.status
        found["parity.compared"] = str(sum(check.compared for check in verdict.checks))
        found["parity.failed"] = str(sum(check.failed for check in verdict.checks))
        found["parity.examples"] = str(len(verdict.coverage.get("cases", ())))
        found["parity.seed"] = str(verdict.seed)
        for (stage, quantity), check in worst(verdict).items():
            name = f"{stage}.{quantity.replace(' ', '_')}"
            found[f"parity.worst.{name}"] = repr(check.worst)
            found[f"parity.tolerance.{name}"] = repr(check.tolerance)
            if check.ratio is not None:
                found[f"parity.ratio.{name}"] = repr(check.ratio)
    found.update(_named("parity.budget.", ((row.name, f"{row.measured} of {row.limit}") for row in result.budgets)))
    found.update(_named("parity.waiver.", ((row.name, waiver(row)) for row in result.waived)))
    found.update(_named("parity.sha256.", _hashes(result)))
    found.update(_named("parity.artifact.", result.artifacts.items()))
    return {line(name): plain(value) for name, value in found.items()}


def _hashes(result: Result) -> Iterable[tuple[str, str]]:
    """Of a file beside the model (external data), role and name; of the model itself the role."""
    seen: set[str] = set()
    for subject in result.subjects:
        name = f"{subject.role}.{subject.name}" if subject.role in seen else subject.role
        seen.add(subject.role)
        if subject.sha256:
            yield name, subject.sha256


def _named(prefix: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    return {prefix + str(name): str(value) for name, value in pairs}


def located_lines(located: Located) -> Iterator[tuple[str, str]]:
    """Where two models part: the lines that say it, each with its style."""
    kind = f" ({located.kind})" if located.kind else ""
    yield f"parts {located.direction} at {located.module or 'the model itself'}{kind}", "bold"
    yield from ((f"  likely: {cause}", "yellow") for cause in located.causes)
    if located.note:
        yield f"  {located.note}", ""
    at = next((i for i, m in enumerate(located.modules) if m.path == located.module), len(located.modules))
    first = max(0, at - MODULES // 2)
    for error in located.modules[first : first + MODULES]:
        local = "-" if error.local is None else f"{error.local:.1e}"
        total = "-" if error.accumulated is None else f"{error.accumulated:.1e}"
        here = ">" if error.path == located.module else " "
        yield f" {here} {error.path or '(model)'}: own error {local}, accumulated {total}", ""
