"""One run as data: the record that every report is drawn from, whoever made it (check, gate, pytest plugin).

    Record(results) -> to_dict() -> JSON -> from_dict() -> Record        one record, many faces: parity/report/

Standard library only. A `Result` holds its verdict as `Verdict.to_dict()` gives it, so that a record that was read from
a file, sent by a worker or kept in a cache is the same as one that was just made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

__all__ = ["EXIT_CODES", "SCHEMA", "BudgetLine", "Place", "Record", "Result", "Status", "Subject", "Waived"]

SCHEMA = "isomorph.report/1"

Status = Literal[
    "PASS", "FAIL", "UNSUPPORTED", "ERROR", "NOTHING_COMPARED",
    "NOT_FOUND", "BUDGET", "REGRESSION", "WAIVER_EXPIRED", "WAIVER_UNUSED",
]  # fmt: skip
# The gravest first: a run has the status of its gravest result.
EXIT_CODES: Mapping[Status, int] = {
    "ERROR": 4,
    "FAIL": 1,
    "NOT_FOUND": 6,
    "UNSUPPORTED": 3,
    "NOTHING_COMPARED": 5,
    "REGRESSION": 8,
    "BUDGET": 7,
    "WAIVER_EXPIRED": 9,
    "WAIVER_UNUSED": 10,
    "PASS": 0,
}


@dataclass(frozen=True)
class Place:
    """Where a result is asked for: a gate's `[[model]]`, a test. file: relative, with slashes. line: from 1."""

    file: str
    line: int = 1


@dataclass(frozen=True)
class Subject:
    """A model that was judged. role: "original" or "converted". name: as it was given. sha256: of the file, of a
    directory's listing (`gate.digest`), or of the code and weights it is made from; "" where it is an object. kind:
    "file", "directory", "code" or "object". size: bytes on disk, 0 where it has none."""

    role: str
    name: str
    kind: str = "object"
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class BudgetLine:
    """A limit and what was measured. name: "precision", "latency_ratio", "size" or "memory". unit: "x" or "bytes".
    measured: None where it could not be measured, which fails. detail: how it was measured, or why it was not."""

    name: str
    limit: float
    measured: float | None
    unit: str
    detail: str = ""

    @property
    def kept(self) -> bool:
        """Whether it was measured and is within the limit."""
        return self.measured is not None and self.measured <= self.limit


@dataclass(frozen=True)
class Waived:
    """Findings that somebody answers for. expires: ISO date, the last day on which it holds. findings: as texts."""

    name: str
    reason: str
    owner: str
    expires: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One model, checked once.

    name: unique in its record, for example "resnet::check[cpu,both]" or a test's node id. status: with budgets,
    baselines and waivers counted in; the verdict has its own. message: the line to lead with. original, converted: as
    they were given. verdict: `Verdict.to_dict()`, None where none was reached. device: "cpu", "cuda:0", ...
    cached: taken from an earlier run. artifacts: name -> path, relative to the report's folder, of files that belong to
    the result ("reproducer").
    """

    name: str
    status: Status
    message: str = ""
    original: str = ""
    converted: str = ""
    verdict: Mapping[str, Any] | None = None
    device: str = "cpu"
    budgets: tuple[BudgetLine, ...] = ()
    waived: tuple[Waived, ...] = ()
    subjects: tuple[Subject, ...] = ()
    place: Place | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False
    artifacts: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing stands against it."""
        return self.status == "PASS"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("budgets", "waived", "subjects"):
            found[name] = [_fields(item) for item in found[name]]
        found["place"] = None if self.place is None else _fields(self.place)
        return {**found, "settings": dict(self.settings), "artifacts": dict(self.artifacts)}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Result:
        """What `to_dict` gave, also after JSON. TypeError, KeyError: it is none; unknown keys are left out."""
        known = {f.name: said[f.name] for f in fields(cls) if f.name in said}
        place = known.get("place")
        known["place"] = None if place is None else Place(**place)
        known["budgets"] = tuple(_budget(item) for item in known.get("budgets", ()))
        known["subjects"] = tuple(Subject(**item) for item in known.get("subjects", ()))
        known["waived"] = tuple(
            Waived(**{**item, "findings": tuple(item.get("findings", ()))}) for item in known.get("waived", ())
        )
        return cls(**known)


@dataclass(frozen=True)
class Record:
    """A whole run. created: ISO 8601, UTC. title: what was run, for a heading. command: as it can be run again.
    environment: versions and settings of the process that made it. policy: {"file", "version", "sha256"} of a gate.
    notes: what concerns no single result."""

    results: tuple[Result, ...]
    created: str = ""
    title: str = "isomorph"
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """That of the gravest result; NOTHING_COMPARED where there is none: nothing was proven."""
        return gravest(result.status for result in self.results)

    @property
    def exit_code(self) -> int:
        """The command's exit code."""
        return EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, versioned by the key "schema"."""
        return {
            "schema": SCHEMA, "status": self.status, "exit_code": self.exit_code, "title": self.title,
            "created": self.created, "command": self.command, "seconds": self.seconds,
            "environment": dict(self.environment), "policy": None if self.policy is None else dict(self.policy),
            "notes": list(self.notes), "results": [result.to_dict() for result in self.results],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Record:
        """What `to_dict` gave. ValueError: it is no record of this schema."""
        if said.get("schema") != SCHEMA:
            raise ValueError(f"no record of the schema {SCHEMA}")
        known = {f.name: said[f.name] for f in fields(cls) if f.name in said}
        known["results"] = tuple(Result.from_dict(item) for item in said["results"])
        known["notes"] = tuple(said.get("notes", ()))
        return cls(**known)


def gravest(statuses: Iterable[Status]) -> Status:
    """The status that stands for all of them; NOTHING_COMPARED for none."""
    found = set(statuses)
    return next((status for status in EXIT_CODES if status in found), "NOTHING_COMPARED")


def _budget(said: Mapping[str, Any]) -> BudgetLine:
    """JSON has no infinity: it stands there as a text."""
    numbers = {name: float(said[name]) for name in ("limit", "measured") if said[name] in ("inf", "-inf", "nan")}
    return BudgetLine(**{**said, **numbers})


def _fields(item: Any) -> dict[str, Any]:
    found = {f.name: getattr(item, f.name) for f in fields(item)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
