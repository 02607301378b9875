"""Records for the tests of the reports: one of each kind a report must be able to show. Deterministic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from isomorph.parity.record import BudgetLine, Place, Record, Result, Subject, Waived
from isomorph.parity.verdict import Verdict
from tests.report import verdicts

HOSTILE = "<script>alert(1)</script>"
CREATED = "2026-03-01T12:00:00Z"
SETTINGS = {"level": "full", "seed": 0, "dtype": "both", "modes": ["eval", "train"], "examples": 24, "strict": None}


def result(name: str = "digits", verdict: Verdict | None = None, **more: Any) -> Result:
    """A result with the subjects, settings and place that a gate gives it. more: replaces fields."""
    said = None if verdict is None else verdict.to_dict()
    fields: dict[str, Any] = {
        "status": "ERROR" if verdict is None else verdict.status, "original": "package.net:Net",
        "converted": f"{name}.keras", "verdict": said, "place": Place("isomorph.toml", 12), "seconds": 5.47,
        "settings": SETTINGS, "subjects": subjects(name),
    }  # fmt: skip
    return Result(name, **{**fields, **more})


def subjects(name: str) -> tuple[Subject, ...]:
    return (
        Subject("original", "package.net:Net", "code", "3f" * 32, 48_211),
        Subject("converted", f"{name}.keras", "file", "a7" * 32, 1_204_224),
    )


def record(*results: Result, **more: Any) -> Record:
    """A run of these. more: replaces fields."""
    fields: dict[str, Any] = {
        "created": CREATED, "title": "isomorph gate", "command": "isomorph gate isomorph.toml --report report.html",
        "environment": verdicts.ENVIRONMENT, "seconds": sum(item.seconds for item in results),
    }  # fmt: skip
    return Record(results, **{**fields, **more})


def passed() -> Record:
    """One model, PASS, with gaps that must be shown all the same."""
    verdict = verdicts.good(
        not_checked=["gradients of the .onnx artifact: its runtime gives none"],
        warnings=["a kink at 0 of relu was let pass in 2 examples"],
        parameters={"compared": ["stem.weight"], "untested": ["head.bias"], "frozen": [], "chaotic": [], "tied": {}},
    )
    command = "isomorph check package.net:Net digits.keras --level full"
    return record(result("digits", verdict, message=verdict.summary().splitlines()[0]), title="isomorph check",
                  command=command)  # fmt: skip


def failed() -> Record:
    """One model, FAIL: mismatches, a counterexample with an image, located modules, a reproducer."""
    verdict = verdicts.bad()
    message = str(verdict.mismatches[0])
    return record(result("digits", verdict, message=message, artifacts={"reproducer": "reproducers/digits"}))


def gate() -> Record:
    """A run of many results: every status, budgets, waivers, a policy, notes."""
    good, bad = verdicts.good(), verdicts.bad(modules=16, at="blocks.0.mlp.act")
    budgets = (
        BudgetLine("latency_ratio", 1.5, 1.93, "x", "median of 30 runs, side by side"),
        BudgetLine("size", 20e6, 1_204_224, "bytes"),
        BudgetLine("memory", 1e9, None, "bytes", "the worker ended before it was measured"),
    )
    finding = "value/parameter gradient/stem.weight"
    waived = (Waived("gelu-tanh", "the runtime has no erf", "Ada Lovelace", "2027-03-01", (finding,)),)
    precision = (BudgetLine("precision", 4.0, 1.32, "x", "worst ratio of the precision stage"),)
    nothing = replace(good, status="NOTHING_COMPARED", checks=(), evidence=(), modules=(), distributions=(),
                      coverage={"reason": "a planted error was not noticed", "seconds": 0.4})  # fmt: skip
    return record(
        result("digits::check[cpu,both]", good, budgets=precision, message="compared 24 outputs"),
        result("resnet::check[cpu,both]", bad, message=str(bad.mismatches[0])),
        result("resnet::check[cpu,float64]", bad, status="PASS", waived=waived, message="1 finding is waived"),
        result("digits::budget[latency_ratio]", budgets=budgets, status="BUDGET", message="1.93x of 1.5x allowed"),
        result("ghost::check[cpu,both]", status="NOT_FOUND", message="no such file: ghost.keras", subjects=()),
        result("odd::check[cpu,both]", status="UNSUPPORTED", message="no rule for aten.fft_c2c"),
        result("crash::check[cpu,both]", status="ERROR", message="the worker ended with signal 9"),
        result("mute::check[cpu,both]", nothing, message="a planted error was not noticed"),
        result("drift::check[cpu,both]", good, status="REGRESSION", message="output 0: 2.1e-7, baseline 4.0e-8",
               cached=True),
        result("waiver old", status="WAIVER_EXPIRED", message="expired on 2026-02-01", subjects=()),
        result("waiver spare", status="WAIVER_UNUSED", message="matches nothing any more", subjects=()),
        policy={"file": "isomorph.toml", "version": 3, "sha256": "5c" * 32},
        notes=("2 results were taken from the cache",),
    )  # fmt: skip


def large(modules: int = 2000) -> Record:
    """One failing model of so many modules."""
    verdict = verdicts.bad(modules=modules, at="blocks.100.mlp.act" if modules > 1100 else "blocks.1.mlp.act")
    return record(result("large", verdict, message=str(verdict.mismatches[0])))


def hostile() -> Record:
    """What a model says of itself is markup: names of modules, inputs and results, messages, causes."""
    verdict = verdicts.bad(at=f"blocks.{HOSTILE}")
    said = _spoiled(verdict.to_dict())
    name = f"{HOSTILE}</title><img src=x onerror=alert(2)>"
    return record(
        result(name, verdict=None, status="FAIL", message=f"{HOSTILE} --> {name}", original=name, converted=name),
        replace(result(HOSTILE, verdict), verdict=said, message=name, artifacts={HOSTILE: name}),
        title=name, notes=(name,), command=name,
    )  # fmt: skip


def _spoiled(said: Any) -> Any:
    """Every name of the first block, wherever it stands, becomes markup."""
    if isinstance(said, dict):
        return {_spoiled(key): _spoiled(value) for key, value in said.items()}
    if isinstance(said, list):
        return [_spoiled(item) for item in said]
    return said.replace("blocks", HOSTILE) if isinstance(said, str) else said
