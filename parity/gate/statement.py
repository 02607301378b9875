"""The verdict of a gate as a deployable fact: an in-toto Statement, which cosign and others sign and store.

    statement.of(record, expected, valid_days) -> {"_type", "subject", "predicateType", "predicate"}

One statement for a run, and one decision: `predicate.status` is PASS only where every check that the policy asks for
was made and nothing stands against any of its models. So whoever reads the status alone, as a policy of an admission
controller does, reads the right thing for every subject. Each model's own part is in `predicate.models`.
docs/verdict_predicate.md describes each field. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import Any

from isomorph.convert.errors import UsageError

from ..record import Record, Result, Subject, gravest
from .digest import DATA

__all__ = ["ALGORITHMS", "HASH", "INCOMPLETE", "PREDICATE", "TYPE", "limit", "of", "timestamp"]

TYPE = "https://in-toto.io/Statement/v1"
# A TypeURI need not resolve but must not collide, and this project owns no host: a random UUID, the version after it.
PREDICATE = "urn:uuid:e7246d65-06e1-47c4-8f09-f45b5d222afa#isomorph-gate-verdict/v1"
# The kind of a subject -> the name of its hash in a DigestSet. "code" is this project's own: no file holds it.
ALGORITHMS: Mapping[str, str] = {"file": "sha256", DATA: "sha256", "directory": "dirHash", "code": "isomorphCode"}
INCOMPLETE = "INCOMPLETE"  # nothing stands against it, but not all that the policy asks for was done
HASH = re.compile("[0-9a-f]{64}")
NAMES, SIGNS, MISMATCHES = 32, 500, 8  # of a list, of a text, and how many findings are kept: the report has them all


def of(record: Record, expected: Iterable[str], valid_days: float, now: datetime | None = None) -> dict[str, Any]:
    """The statement of a run.

    expected: the names of all results that the policy asks for; where one is missing the status is not PASS.
    valid_days: how long the verdict may be relied on. now: when it is made (default: now), with a timezone.
    UsageError: the record has no policy."""
    policy = dict(record.policy or {})
    if not HASH.fullmatch(str(policy.get("sha256"))):
        raise UsageError("a record without a policy gives no verdict to deploy by: it was not made by isomorph gate")
    made = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    until = min(limit(made, valid_days), *_waived_until(record.results, made))
    missing = sorted(set(expected) - {result.name for result in record.results})
    models = [_model(name, results) for name, results in _by_model(record.results)]
    subjects = _subjects(models)
    status: str = gravest([record.status, *(model["status"] for model in models)])
    if status == "PASS" and (missing or not subjects):
        status = INCOMPLETE
    return {
        "_type": TYPE,
        # a Statement has at least one subject: the policy, where no model was found
        "subject": subjects or [{"name": str(policy.get("file")), "digest": {"sha256": policy["sha256"]}}],
        "predicateType": PREDICATE,
        "predicate": {
            "status": status,
            "complete": not missing,
            "missing": missing,
            "created": timestamp(made),
            "expires": timestamp(until),
            "policy": {name: policy.get(name) for name in ("file", "version", "sha256")},
            "verifier": {"name": "isomorph", "version": _version()},
            "environment": {name: str(value) for name, value in record.environment.items()},
            "seconds": round(record.seconds, 3),
            "models": models,
            "notes": _short(record.notes),
        },
    }


def limit(made: datetime, valid_days: float) -> datetime:
    """Until when a policy lets a verdict be relied on."""
    return made + timedelta(days=min(valid_days, (datetime.max.replace(tzinfo=UTC) - made).days))


def _waived_until(results: Iterable[Result], made: datetime) -> Iterator[datetime]:
    """The last second of each waiver that was needed: after it nobody answers for what was found."""
    yield datetime.max.replace(tzinfo=UTC)
    for waived in (waived for result in results for waived in result.waived):
        last = datetime.combine(date.fromisoformat(waived.expires), time.max, UTC)
        yield max(made, last.replace(microsecond=0))


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, as in-toto writes it."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat()}Z"


def _version() -> str:
    import isomorph

    return isomorph.__version__


def _by_model(results: Iterable[Result]) -> Iterator[tuple[str, list[Result]]]:
    """Results by what stands before "::" in their names: a `[[model]]`, or what a run adds of its own."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.name.partition("::")[0], []).append(result)
    yield from found.items()


def _model(name: str, results: Sequence[Result]) -> dict[str, Any]:
    status = gravest(result.status for result in results)
    artifacts: dict[str, list[dict[str, Any]]] = {}
    for role in ("original", "converted"):
        seen = [found for result in results if (found := list(_artifacts(result.subjects, role)))]
        if any(_hashes(found) != _hashes(seen[0]) for found in seen):
            status = gravest((status, "ERROR"))  # it is not one model that was judged: a file changed in between
        artifacts[role] = seen[0] if seen else []
    return {"name": name, "status": status, **artifacts, "results": [_result(result) for result in results]}


def _artifacts(subjects: Iterable[Subject], role: str) -> Iterator[dict[str, Any]]:
    """Each model of this role, with the files that belong to it as its parts."""
    last: dict[str, Any] | None = None
    for subject in subjects:
        if subject.role != role:
            continue
        said = {"name": subject.name, "kind": subject.kind, "size": subject.size, "digest": _digest(subject)}
        if subject.kind == DATA and last is not None:
            last["parts"].append({key: said[key] for key in ("name", "size", "digest")})
            continue
        if last is not None:
            yield last
        last = {**said, "parts": []}
    if last is not None:
        yield last


def _hashes(artifacts: Iterable[Mapping[str, Any]]) -> list[Any]:
    """What makes models the same ones, whatever they are called."""
    return [(artifact["kind"], artifact["digest"], [part["digest"] for part in artifact["parts"]])
            for artifact in artifacts]  # fmt: skip


def _digest(subject: Subject) -> dict[str, str]:
    algorithm = ALGORITHMS.get(subject.kind)
    return {algorithm: subject.sha256} if algorithm and subject.sha256 else {}


def _subjects(models: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every artifact with a hash, once: first what was converted, then the originals; parts follow their model."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    models = list(models)
    for artifact in [artifact for role in ("converted", "original") for model in models for artifact in model[role]]:
        for item in (artifact, *artifact["parts"]):
            if item["digest"]:
                key = (item["name"], *item["digest"].values())
                found.setdefault(key, {"name": item["name"], "digest": dict(item["digest"])})
    return list(found.values())


def _result(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "status": result.status,
        "message": _short(result.message),
        "device": result.device,
        "seconds": round(result.seconds, 3),
        "cached": result.cached,
        "settings": _short(result.settings),
        "budgets": [
            {"name": line.name, "limit": line.limit, "measured": line.measured, "unit": line.unit, "kept": line.kept,
             "detail": _short(line.detail)}
            for line in result.budgets
        ],
        "waivers": [
            {"name": waived.name, "reason": waived.reason, "owner": waived.owner, "expires": waived.expires,
             "findings": _short(waived.findings)}
            for waived in result.waived
        ],
        "verdict": None if result.verdict is None else _verdict(result.verdict),
    }  # fmt: skip


def _verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What a verdict rests on, without what only a report needs: arrays, per-module profiles, each single case."""
    coverage = {name: value for name, value in verdict.get("coverage", {}).items() if name != "cases"}
    coverage["cases"] = len(verdict.get("coverage", {}).get("cases", ()))
    mismatches = list(verdict.get("mismatches", ()))
    return {
        "status": verdict.get("status"),
        "seed": verdict.get("seed"),
        "environment": {name: str(value) for name, value in verdict.get("environment", {}).items()},
        "coverage": _short(coverage),
        "checks": [dict(check) for check in verdict.get("checks", ())],
        "mismatches": [
            {key: _short(found.get(key)) for key in ("kind", "quantity", "name", "mode", "dtype", "error", "tolerance")}
            for found in mismatches[:MISMATCHES]
        ],
        "mismatches_in_all": len(mismatches),
    }


def _short(value: Any) -> Any:
    """The same with long lists and texts cut: a statement has to stay small enough for a transparency log."""
    if isinstance(value, str):
        return value if len(value) <= SIGNS else value[:SIGNS] + "..."
    if isinstance(value, Mapping):
        kept = {str(key): _short(item) for key, item in islice(value.items(), NAMES)}
        return kept if len(value) <= NAMES else {**kept, "...": f"and {len(value) - NAMES} more"}
    if isinstance(value, list | tuple):
        kept_items = [_short(item) for item in value[:NAMES]]
        return kept_items if len(value) <= NAMES else [*kept_items, f"... and {len(value) - NAMES} more"]
    return value
