"""A record as SARIF 2.1.0 (OASIS, 2020), so that code review shows a mismatch where the model is asked for. Pure.

A rule is a way in which two models differ (`Mismatch.kind`), a budget, or a status without a verdict. A result has the
place that asks for the check, the array and the modules as logical locations, and a fingerprint of what differs, not of
its figures: the same finding in the next run is the same alert. A waived finding is a note, suppressed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from isomorph.parity.record import Place, Record, Result, Waived
from isomorph.parity.verdict import Mismatch, Verdict

from .restore import restore
from .texts import MEANS, answers_for, budget, counts, finding, headline, line, plain, waived_by

__all__ = ["RESULTS", "draw"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT = "%SRCROOT%"  # the name by which GitHub and others know the root of the repository
RESULTS = 5000  # GitHub shows no more of one run
# Ways in which two models differ: a line, and what to do.
KINDS: Mapping[str, tuple[str, str]] = {
    "structure": ("the number or nesting of inputs or outputs differs", "Compare the signatures of the two models."),
    "shape": ("an array has another shape", "Look at the operation that makes it, and at its axis order."),
    "dtype": ("an array has another dtype", "Look for a cast on one side only."),
    "missing": ("a parameter, buffer or output is absent", "Look for what was dropped or renamed."),
    "frozen": ("trainable on one side only", "Set requires_grad or trainable alike."),
    "tied": ("shared on one side only", "Let both places use one variable."),
    "value": (
        "values differ in float64, beyond what conditioning explains",
        "The two compute different things: look at the module where they part and its likely causes.",
    ),
    "precision": (
        "less accurate than the original in its own dtype",
        "The same in float64: look for a lower precision or an unstable formula.",
    ),
    "imprecise": (
        "somewhat less accurate than the original in its own dtype",
        "The same in float64: look for a lower precision or an unstable formula.",
    ),
    "leak": ("float64 results that are rounded to float32", "Look for a float32 cast or constant inside."),
    "kink": ("another subgradient at a tie or bound", "Look at what the gradient is where the function has a corner."),
    "nonfinite": ("NaN or infinity in different places", "Look for a division, logarithm or mask that differs."),
    "integer": ("integer or boolean elements differ", "Look at comparisons, rounding and indexing."),
    "random": ("random draws do not correspond", "Compare the rates, shapes and order of dropout and noise."),
    "batch": ("the rows of a batch influence each other", "Look for a reduction or normalisation over axis 0."),
    "nondeterministic": ("two equal runs answer differently", "Look for random draws without a seed."),
    "raised": ("the converted model raised an exception", "Run it on the smallest example."),
}


def draw(record: Record) -> str:
    """The document: JSON."""
    results = (replace(result, place=result.place or _asked(record, result)) for result in record.results)
    found = [item for result in results for item in _findings(result)]
    notes = list(record.notes)
    if not record.results:
        notes.append(f"{record.status}: {counts(record)}")
    if len(found) > RESULTS:
        notes.append(f"{len(found) - RESULTS} of {len(found)} findings are left out: one run has at most {RESULTS}")
        found = found[:RESULTS]
    rules = _rules(found)
    order = {rule["id"]: index for index, rule in enumerate(rules)}
    run = {
        "tool": {"driver": {"name": "isomorph", **_version(record), "rules": rules}},
        "invocations": [_invocation(record, notes)],
        "originalUriBaseIds": {ROOT: {"description": {"text": "the root of the repository"}}},
        "artifacts": list(_artifacts(record)),
        "results": [{**item, "ruleIndex": order[item["ruleId"]]} for item in found],
        "columnKind": "unicodeCodePoints",
        "properties": {"status": record.status, "title": plain(record.title)},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _asked(record: Record, result: Result) -> Place:
    """Of a result without a place: GitHub refuses a whole file for one alert that has none."""
    policy = (record.policy or {}).get("file")
    return Place(str(policy or result.original or result.converted or result.name or "isomorph"))


def _version(record: Record) -> dict[str, str]:
    import isomorph

    return {"version": line(record.environment.get("isomorph") or isomorph.__version__)}


def _invocation(record: Record, notes: list[str]) -> dict[str, Any]:
    failed = any(result.status == "ERROR" for result in record.results)
    said: dict[str, Any] = {"executionSuccessful": bool(record.results) and not failed, "exitCode": record.exit_code}
    if record.command:
        said["commandLine"] = plain(record.command)
    ended = _utc(record.created)
    if ended:
        said["endTimeUtc"] = ended
    if notes:
        said["toolExecutionNotifications"] = [
            {"level": "note" if record.results else "error", "message": {"text": plain(note)}} for note in notes
        ]
    said["properties"] = {line(name): plain(value) for name, value in record.environment.items()}
    return said


def _utc(created: str) -> str:
    try:
        found = datetime.fromisoformat(created)
    except ValueError:
        return ""
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")


def _artifacts(record: Record) -> Iterator[dict[str, Any]]:
    """The models that were judged, with their hashes."""
    subjects = dict.fromkeys(s for result in record.results for s in result.subjects if s.sha256 and s.kind == "file")
    for subject in subjects:
        yield {
            "location": _location(subject.name), "length": subject.size, "roles": ["analysisTarget"],
            "hashes": {"sha-256": line(subject.sha256)}, "description": {"text": f"the {plain(subject.role)} model"},
        }  # fmt: skip


def _findings(result: Result) -> Iterator[dict[str, Any]]:
    """What stands against a result, or is waived. One that fails has at least one."""
    verdict = restore(result.verdict)
    count = 0
    for mismatch in verdict.mismatches if verdict is not None else ():
        count += 1
        yield _mismatch(mismatch, verdict, result)
    for row in result.budgets:
        if not row.kept:
            count += 1
            name = f"budget/{row.name}"
            yield _eased(_finding(result, name, name, budget(row)), result, name)
    if not result.passed and (not count or result.status not in ("FAIL", "BUDGET")):
        yield _finding(result, f"status/{result.status}", "", headline(result))


def _mismatch(mismatch: Mismatch, verdict: Verdict | None, result: Result) -> dict[str, Any]:
    said = str(mismatch)
    where = [_logical(f"{mismatch.quantity}/{mismatch.name}", mismatch.quantity)]
    located_in = () if verdict is None else verdict.located
    for located in located_in:
        name = located.module or "the model itself"
        said += f"; parts {located.direction} at {name}"
        where.append(_logical(name, "module"))
    causes = dict.fromkeys(cause for located in located_in for cause in located.causes[:2])
    said += "".join(f"; likely {cause}" for cause in causes)
    key = "/".join((finding(mismatch), mismatch.mode, mismatch.dtype))
    found = _eased(_finding(result, f"mismatch/{mismatch.kind}", key, said, where), result, finding(mismatch))
    figures = {name: getattr(mismatch, name) for name in ("error", "tolerance", "scale", "failing", "elements")}
    # JSON has no NaN or infinity.
    found["properties"] |= {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
    return found


def _eased(found: dict[str, Any], result: Result, name: str) -> dict[str, Any]:
    """What is waived, and what a result has though it passed, is nothing for a review to stop at."""
    waived = waived_by(result, name)
    if result.passed or waived is not None:
        found["level"] = "note"
    if waived is not None:
        found["suppressions"] = [{"kind": "external", "status": "accepted", "justification": _reason(waived)}]
    return found


def _reason(waived: Waived) -> str:
    return plain(f"{waived.name}: {waived.reason} ({answers_for(waived)})")


def _finding(
    result: Result, rule: str, key: str, said: str, where: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    logical = [_logical(result.name, "module"), *(where or ())]
    location = {
        "physicalLocation": _physical(result.place or Place("isomorph")),
        "logicalLocations": [item for index, item in enumerate(logical) if item not in logical[:index]],
    }
    mark = hashlib.sha256("\0".join((result.name, rule, key)).encode("utf-8", "backslashreplace")).hexdigest()[:32]
    return {
        "ruleId": line(rule), "level": "error", "kind": "fail", "message": {"text": _text(f"{result.name}: {said}")},
        "locations": [location],
        # The second is what GitHub tells alerts apart by; without it, it would take the text of the line, and two
        # findings at one [[model]] would be one.
        "partialFingerprints": {"isomorphFinding/v1": mark, "primaryLocationLineHash": f"{mark[:16]}:1"},
        "properties": {"check": plain(result.name), "status": result.status},
    }  # fmt: skip


def _text(said: str) -> str:
    """A message without links: what looks like one, [text](place), is escaped."""
    return re.sub(r"\[([^\[\]]*)\](?=\()", r"\\[\1\\]", plain(said))


def _logical(name: str, kind: str) -> dict[str, str]:
    return {"fullyQualifiedName": line(name), "kind": line(kind)}


def _physical(place: Place) -> dict[str, Any]:
    return {"artifactLocation": _location(place.file), "region": {"startLine": max(1, int(place.line))}}


def _location(name: str) -> dict[str, str]:
    """A path as a URI: relative ones from the root of the repository."""
    name = plain(name)
    if PurePath(name).is_absolute():
        return {"uri": "file://" + quote(PurePath(name).as_posix())}
    return {"uri": quote(PurePosixPath(name.replace("\\", "/")).as_posix()), "uriBaseId": ROOT}


def _rules(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each that is used, in the order of their first use."""
    return [_rule(name) for name in dict.fromkeys(item["ruleId"] for item in found)]


def _rule(rule: str) -> dict[str, Any]:
    family, _, name = rule.partition("/")
    if family == "mismatch":
        what, do = KINDS.get(name, (f"the two models differ ({name})", "Look at the message."))
    elif family == "budget":
        what, do = f"the budget {name} is not kept", MEANS["BUDGET"][1]
    else:
        what, do = MEANS.get(name, (name, ""))
    return {
        "id": rule, "name": "".join(part.capitalize() for part in rule.replace("_", "/").split("/")),
        "shortDescription": {"text": what[0].upper() + what[1:]}, "fullDescription": {"text": f"{what}. {do}".strip()},
        "help": {"text": do or what, "markdown": f"**{what[0].upper() + what[1:]}.** {do}".strip()},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["model-parity", family], "precision": "very-high"},
    }  # fmt: skip
