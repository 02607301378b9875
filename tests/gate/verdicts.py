"""A run of a gate as data, for tests of what is made of it: no model is run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isomorph.parity.gate import digest, statement
from isomorph.parity.record import BudgetLine, Record, Result, Status, Subject, Waived

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
POLICY = """\
[gate]
version = 3
valid_days = 30
[[model]]
name = "digits"
source = "net.py:Net"
artifact = "net.keras"
inputs = ["x=float32[b,3]"]
"""
VERDICT: dict[str, Any] = {
    "schema": "isomorph.verdict/1",
    "status": "PASS",
    "seed": 7,
    "environment": {"torch": "2.13.0"},
    "coverage": {"modes": ["eval", "train"], "cases": [{"mode": "eval"}] * 37, "parameters": {"compared": 1}},
    "checks": [
        {"stage": "structure", "quantity": "output", "mode": "eval", "dtype": "float64", "compared": 24, "equal": 24,
         "failed": 0, "inconclusive": 0, "vacuous": 0, "names": 1, "worst": 0.0, "tolerance": 2.9e-11, "ratio": None}
    ],
    "mismatches": [],
}  # fmt: skip


def result(folder: Path, name: str = "digits::check[cpu,both]", status: Status = "PASS", **more: Any) -> Result:
    """Of a model whose files are net.keras and net.pt in the folder."""
    if "subjects" not in more:
        roles = {"original": "net.pt", "converted": "net.keras"}
        more["subjects"] = tuple(s for role, file in roles.items() for s in digest.subjects(role, file, folder / file))
    return Result(name, status, verdict={**VERDICT, "status": status}, **more)


def record(*results: Result, version: int = 3, sha256: str = "b" * 64) -> Record:
    return Record(results, policy={"file": "isomorph.toml", "version": version, "sha256": sha256})


def passed(folder: Path, now: datetime | None = NOW, **policy: Any) -> dict[str, Any]:
    """The statement of a complete run in which everything passed, made at `now`; the model's files are made."""
    for name in ("net.pt", "net.keras"):
        (folder / name).write_text(name)
    found = result(
        folder,
        budgets=(BudgetLine("size", 20e6, 512.0, "bytes"),),
        waived=(Waived("gelu", "known", "ann", "2027-03-01", ("value/output/0",)),),
        settings={"level": "full"},
    )
    return statement.of(record(found, **policy), [found.name], 30, now)


__all__ = ["NOW", "POLICY", "VERDICT", "Subject", "passed", "record", "result"]
