"""`isomorph gate verify VERDICT MODEL...`: was this very file passed? By hash, in a moment, without any framework.

    verify.verify("verdict.json", "net.keras", policy="isomorph.toml")  ->  Verified, which is true only for a PASS

Standard library only. Whatever is not as it should be is a refusal: a Statement of another kind, a key said twice, a
value of another type, a PASS that its own results contradict. What a signature covers is checked by the tools that made
it (cosign); here the payload of an envelope is read and its signature is not looked at, which is said.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from isomorph.convert.errors import UsageError

from ..console import Console
from . import digest
from .reading import Fact, Unreadable, fact_of, moment, read
from .statement import limit as longest
from .statement import timestamp

__all__ = [
    "CHANGED",
    "EXPIRED",
    "NOT_PASSED",
    "OLDER_POLICY",
    "UNREADABLE",
    "Verified",
    "run",
    "verify",
]

PASSED, NOT_PASSED, UNREADABLE, CHANGED, OLDER_POLICY, EXPIRED = 0, 1, 2, 11, 12, 13
Rules = tuple[str, int, str, int]
SKEW = timedelta(minutes=5)  # by which the clock of whoever made the verdict may be ahead


@dataclass(frozen=True)
class Verified:
    """The answer for one file or directory; it is true exactly when that was passed.

    code: the command's exit code, 0, 1, 2, 11, 12 or 13. message: one line. path: what was asked about. model: the
    name in the policy under which it was passed, "" where it was not. notes: what was not checked."""

    code: int
    message: str
    path: str = ""
    model: str = ""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether this very file was passed, under this policy, and the verdict may still be relied on."""
        return self.code == PASSED

    def __bool__(self) -> bool:
        return self.passed


def verify(
    statement: str | os.PathLike[str] | Mapping[str, Any],
    path: str | os.PathLike[str],
    policy: str | os.PathLike[str] | None = None,
    at: datetime | date | str | None = None,
) -> Verified:
    """Whether a verdict passes a model. Raises nothing for what it is given: every defect is a refusal.

    statement: the file, or what was read from it: a Statement, or an envelope that holds one. path: the model, a file
    or a directory. policy: the gate's file that has to hold; without it the version is not looked at. at: when
    (default: now); without a timezone it is UTC, and a date is its last second."""
    try:
        when = _when(at)
        fact = fact_of(statement if isinstance(statement, Mapping) else read(Path(statement)))
        rules = None if policy is None else _policy(Path(policy))
    except (Unreadable, UsageError) as error:
        return Verified(UNREADABLE, " ".join(str(error).split()), str(path))
    refused = _refused(fact, rules, when)
    if refused is not None:
        return Verified(*refused, str(path), notes=fact.notes)
    return _judged(fact, Path(path), (*fact.notes, *_notes(fact, rules)))


def _notes(fact: Fact, policy: Rules | None) -> Iterator[str]:
    if policy is None:
        yield "the policy's version was not checked: no --policy"
    elif fact.version > policy[1]:
        yield f"made under version {fact.version} of the policy; {policy[0]} is version {policy[1]}"


def _refused(fact: Fact, policy: Rules | None, when: datetime) -> tuple[int, str] | None:
    """What stands against the verdict, whatever it is about."""
    if fact.status != "PASS":
        return NOT_PASSED, f"the verdict is no PASS but {fact.status}"
    if policy is not None:
        file, version, sha256, days = policy
        if fact.version < version:
            return OLDER_POLICY, f"made under version {fact.version} of the policy; {file} is version {version}"
        if fact.version == version and fact.sha256 != sha256:
            return OLDER_POLICY, (
                f"made under another policy that is version {version} too; raise version in [gate] of {file} "
                "when it is changed"
            )
        if fact.sha256 == sha256 and fact.expires > longest(fact.created, days):
            return UNREADABLE, f"not a verdict that can be relied on: {file} has one expire after {days} days"
    if when > fact.expires:
        return EXPIRED, f"the verdict expired at {timestamp(fact.expires)}; run isomorph gate again"
    if fact.created - when > SKEW:
        return EXPIRED, f"the verdict is not valid before {timestamp(fact.created)}: is the clock right?"
    return None


def _judged(fact: Fact, path: Path, notes: tuple[str, ...]) -> Verified:
    """The model itself against the hashes."""
    try:
        kind, sha256, _ = digest.of(path)
    except UsageError as error:
        return Verified(UNREADABLE, str(error), str(path), notes=notes)
    found = [artifact for artifact in fact.converted if (artifact.kind, artifact.sha256) == (kind, sha256)]
    if not found:
        return Verified(CHANGED, _stranger(fact, path, kind, sha256), str(path), notes=notes)
    for artifact in found:
        for location, expected in artifact.parts.items():
            message = _part(path, location, expected)
            if message:
                return Verified(CHANGED, message, str(path), notes=notes)
    model = ", ".join(dict.fromkeys(artifact.model for artifact in found))
    message = f"passed as {model}, until {timestamp(fact.expires)}"
    return Verified(PASSED, message, str(path), model, notes)


def _part(path: Path, location: str, expected: str) -> str:
    """What is wrong with a file beside the model that belongs to it; "" for nothing."""
    file = path.parent.joinpath(*PurePosixPath(location).parts)
    try:
        kind, sha256, _ = digest.of(file)
    except UsageError as error:
        return f"{location}, which belongs to {path.name}: {error}"
    if (kind, sha256) != ("file", expected):
        return f"{file} belongs to {path.name} and is not the one that was passed: its SHA-256 is {sha256}"
    return ""


def _stranger(fact: Fact, path: Path, kind: str, sha256: str) -> str:
    if (kind, sha256) in fact.originals:
        return f"{path} is an original, which others were compared with: no verdict was asked for on itself"
    if (kind, sha256) in fact.parts:
        return f"{path} is a part of a model that was passed; give the model itself"
    same = [artifact for artifact in fact.converted if PurePosixPath(artifact.name).name == path.name]
    if same:
        return f"{path} is not the {path.name} that was passed: {sha256} is not {same[0].sha256}"
    passed = ", ".join(artifact.name for artifact in fact.converted[:3]) or "it passes no file and no directory"
    return f"{path} is none of the models of this verdict ({passed}): {sha256}"


def _when(at: datetime | date | str | None) -> datetime:
    if at is None:
        return datetime.now(UTC)
    if isinstance(at, str):
        return moment(at, "--at")
    if not isinstance(at, datetime):
        return datetime.combine(at, time.max, UTC)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _policy(path: Path) -> Rules:
    """Name, version, hash and days of a gate's file, as the run that made the verdict saw them."""
    from .policy import load

    policy = load(path)
    return path.name, policy.version, policy.sha256, policy.valid_days


def run(options: argparse.Namespace, streams: Console) -> int:
    """The command: one line for each model; the exit code is that of the first that is refused."""
    answers = [verify(options.verdict, model, options.policy, options.at) for model in options.models]
    code = next((answer.code for answer in answers if answer.code), PASSED)
    if options.json:
        streams.json({"status": "PASS" if code == PASSED else "REFUSED", "exit_code": code,
                      "verdict": str(options.verdict), "models": [_said(answer) for answer in answers]})  # fmt: skip
        return code
    for answer in answers:
        streams.line(f"{'PASS' if answer.passed else 'REFUSED'} {answer.path}: {answer.message}")
    for note in dict.fromkeys(note for answer in answers for note in answer.notes):
        streams.message(f"note: {note}")
    return code


def _said(answer: Verified) -> dict[str, Any]:
    return {"path": answer.path, "passed": answer.passed, "exit_code": answer.code, "message": answer.message,
            "model": answer.model, "notes": list(answer.notes)}  # fmt: skip
