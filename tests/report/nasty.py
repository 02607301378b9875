"""Records that a face must bear: every sign a name can hold, figures that are no numbers, results without anything."""

from __future__ import annotations

from dataclasses import replace

from isomorph.parity.record import BudgetLine, Place, Record, Result, Subject, Waived
from isomorph.parity.verdict import Case, Mismatch, Verdict
from tests.report import records, verdicts

NAN, INF = float("nan"), float("inf")
# Controls, half of a surrogate pair, a non-character, markup of XML, HTML, markdown, rich and SARIF, a wide sign.
SIGNS = "a\x00b\x1b[31m\ud800\ufffe|`<b>&\"'*_~[x](y){0}\\ ]]> :x: [red] é 模型\n## second line"


def verdict() -> Verdict:
    """FAIL with names of all signs and figures that are no numbers."""
    found = verdicts.bad(modules=16, at="blocks.0.mlp.act")
    mismatch = Mismatch("value", "output", SIGNS, "eval", "float64", SIGNS, Case(SIGNS, 1), NAN, INF, NAN, (0,), NAN,
                        -INF, 1, 2)  # fmt: skip
    checks = tuple(replace(check, worst=NAN, tolerance=0.0, ratio=INF) for check in found.checks)
    modules = tuple(replace(m, path=SIGNS, forward=NAN, gradient=INF, gradient_floor=None) for m in found.modules)
    coverage = {**found.coverage, "not_checked": [SIGNS], "warnings": [SIGNS], "chaotic": [SIGNS]}
    counterexample = found.counterexample
    assert counterexample is not None
    inputs = {SIGNS: {"shape": [1], "dtype": "float32", "nonzero": 1, "values": ["nan"]}}
    return replace(
        found, mismatches=(mismatch,), checks=checks, modules=modules, coverage=coverage,
        counterexample=replace(counterexample, inputs=inputs), environment={SIGNS: SIGNS},
        located=tuple(replace(item, module=SIGNS, note=SIGNS, causes=(SIGNS,)) for item in found.located),
    )  # fmt: skip


def record() -> Record:
    """Three results: with everything, without a verdict, without anything."""
    budgets = (BudgetLine("size", INF, NAN, "bytes", SIGNS), BudgetLine("memory", 1.0, None, SIGNS, SIGNS))
    full = Result(
        SIGNS, "FAIL", SIGNS, SIGNS, SIGNS, verdict().to_dict(), SIGNS, budgets,
        (Waived(SIGNS, SIGNS, SIGNS, "2027-01-01", (f"value/output/{SIGNS}",)),),
        (Subject("converted", SIGNS, "file", "ab" * 32, 3),), Place(SIGNS, 3), {SIGNS: NAN}, 1e9, True, {SIGNS: SIGNS},
    )  # fmt: skip
    return Record(
        (full, Result(SIGNS, "ERROR"), Result("", "NOT_FOUND")), "yesterday", SIGNS, SIGNS, {SIGNS: SIGNS},
        {"file": SIGNS, "version": 1}, 0.0, (SIGNS,),
    )  # fmt: skip


def empty() -> Record:
    """Nothing was run: nothing was proven."""
    return records.record(title="isomorph gate", seconds=0.0)
