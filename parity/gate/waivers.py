"""Waivers: findings that somebody answers for, until a day. Pure; standard library only.

A waiver covers what its patterns name, of its own model alone: mismatches of a verdict ("kind/quantity/name") and
budgets that were not kept ("budget/NAME"). Nothing else can be waived: a model that is not there, a check that
compared nothing or could not be done stands against the model whoever answers for it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from isomorph.parity.gate.policy import Policy, Waiver
from isomorph.parity.gate.policy_keys import finding_parts, matches
from isomorph.parity.gate.required import unmet_text
from isomorph.parity.gate.tasks import tasks_of
from isomorph.parity.record import Place, Result, Waived

__all__ = ["apply", "findings_of"]

JUDGED = frozenset({"PASS", "FAIL", "BUDGET", "NOTHING_COMPARED"})  # statuses that say what the findings are


def apply(
    results: Sequence[Result], policy: Policy, today: datetime.date | None = None
) -> tuple[tuple[Result, ...], tuple[Result, ...]]:
    """(the results with what is waived, extra results `waiver::NAME` about the waivers themselves).

    A result whose every finding is covered passes, with `waived` filled; its verdict stays as it is. An expired waiver
    covers nothing and is WAIVER_EXPIRED, once its model was looked at; one that covers nothing in a complete run of
    its model is WAIVER_UNUSED. today: a day in UTC, by default the current one.
    """
    today = today or datetime.datetime.now(datetime.UTC).date()
    tasks = tasks_of(policy)
    models = {task.name: task.model for task in tasks}
    valid = [waiver for waiver in policy.waivers if not _expired(waiver, today)]
    used: set[str] = set()
    judged = []
    for result in results:
        own = [waiver for waiver in valid if waiver.model == models.get(result.name)]
        judged.append(_waived(result, own, used))
    extra = []
    for waiver in policy.waivers:
        of_model = [result for result in results if models.get(result.name) == waiver.model]
        wanted = {task.name for task in tasks if task.model == waiver.model}
        if _expired(waiver, today):
            if of_model:
                extra.append(_extra(waiver, policy, "WAIVER_EXPIRED"))
        elif waiver.name not in used and _complete(of_model, wanted):
            extra.append(_extra(waiver, policy, "WAIVER_UNUSED"))
    return tuple(judged), tuple(extra)


def findings_of(result: Result) -> tuple[str, ...]:
    """What stands against a model in one result, as waivers name it; each once."""
    mismatches: Iterable[Mapping[str, Any]] = (result.verdict or {}).get("mismatches", ())
    named = [f"{m['kind']}/{m['quantity']}/{m['name']}" for m in mismatches]
    named += [f"budget/{line.name}" for line in result.budgets if not line.kept]
    return tuple(dict.fromkeys(named))


def _waived(result: Result, waivers: Sequence[Waiver], used: set[str]) -> Result:
    """The result with what is covered of it; `used` takes the names of the waivers that cover something."""
    findings = findings_of(result)
    covered = {w: tuple(f for f in findings if any(_covers(p, f) for p in w.findings)) for w in waivers}
    covered = {waiver: found for waiver, found in covered.items() if found}
    if not covered:
        return result
    used |= {waiver.name for waiver in covered}
    waived = tuple(Waived(w.name, w.reason, w.owner, w.expires, found) for w, found in covered.items())
    open_ = [f for f in findings if not any(f in found for found in covered.values())]
    if open_ or result.status not in ("FAIL", "BUDGET"):
        more = f"not waived: {', '.join(open_[:3])}{', ...' if len(open_) > 3 else ''}" if open_ else ""
        return replace(result, waived=waived, message="; ".join(filter(None, (result.message, more))))
    unmet: Mapping[str, str] = result.settings.get("unmet", {})
    if unmet:  # what is waived hides nothing else that the policy requires
        return replace(result, status="NOTHING_COMPARED", waived=waived, message=unmet_text(unmet))
    names = ", ".join(waiver.name for waiver in covered)
    skipped = [name for name, reason in result.settings.get("excused", {}).items() if reason.startswith("not begun")]
    more = f"; not begun after the difference that is waived: {', '.join(skipped)}" if skipped else ""
    return replace(result, status="PASS", waived=waived, message=f"waived by {names}{more}")


def _covers(pattern: str, finding: str) -> bool:
    """Part by part, so that a `*` in one part does not reach into the next; the name is the rest."""
    wanted, found = finding_parts(pattern), _parts(finding)
    return all(matches(a, b) for a, b in zip(wanted, found, strict=True))


def _parts(finding: str) -> tuple[str, str, str]:
    kind, _, rest = finding.partition("/")
    if kind == "budget":
        return kind, "", rest
    quantity, _, name = rest.partition("/")
    return kind, quantity, name


def _expired(waiver: Waiver, today: datetime.date) -> bool:
    return today > datetime.date.fromisoformat(waiver.expires)


def _complete(results: Sequence[Result], wanted: set[str]) -> bool:
    """Whether all of a model was done, and came to an answer: only then is it known what there is to waive."""
    return {result.name for result in results} >= wanted and all(result.status in JUDGED for result in results)


def _extra(waiver: Waiver, policy: Policy, status: Any) -> Result:
    what = {
        "WAIVER_EXPIRED": f"expired on {waiver.expires}: mend the model, or have {waiver.owner} answer for it again",
        "WAIVER_UNUSED": "covers nothing any more: take it out",
    }[status]
    entry = policy.model(waiver.model)
    return Result(
        f"waiver::{waiver.name}", status, f"waiver {waiver.name!r} of {waiver.model} {what}",
        original=entry.source, converted=entry.converted, place=Place(policy.file, waiver.line),
        settings={"model": waiver.model, "findings": list(waiver.findings), "owner": waiver.owner},
    )  # fmt: skip
