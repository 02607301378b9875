"""The section "parity" at the end of a run, where anything was checked."""

from __future__ import annotations

from collections import Counter

import pytest

from isomorph.parity.pytest_plugin.merge import Collector
from isomorph.parity.record import Result
from isomorph.parity.report.restore import restore
from isomorph.parity.report.texts import line, seconds, share
from isomorph.parity.verdict import Verdict

__all__ = ["write"]


def write(terminal: pytest.TerminalReporter, collector: Collector) -> None:
    """A line for each check, the totals, where the reports are; with -q the totals and what did not pass."""
    results = collector.results
    told = [*collector.record.notes, *collector.told]
    if not results and not told:
        return
    terminal.write_sep("=", "parity")
    for result in results:
        if not result.passed or terminal.verbosity >= 0:
            terminal.write(result.status, green=result.passed, red=not result.passed)
            terminal.write_line(f" {_line(result)}")
    for text in ([_totals(results)] if results else []) + told:
        terminal.write_line(text)


def _line(result: Result) -> str:
    verdict = restore(result.verdict)
    said = [] if verdict is None else _figures(verdict, result.passed)
    text = f"{result.name}: {', '.join([*said, seconds(result.seconds)])}"
    return line(f"{text}; {result.message}" if result.message else text)


def _figures(verdict: Verdict, passed: bool) -> list[str]:
    """How much was compared, the error that is nearest to what is allowed, and the largest in units of the original's
    own. What failed and was excused is not what a PASS rests on."""
    checks = [check for check in verdict.checks if check.compared]
    said = [f"{sum(check.compared for check in checks)} compared"]
    worst = max((check for check in checks if not (passed and check.failed)), key=share, default=None)
    failed = not passed and any(check.failed for check in checks)
    if worst is not None and not (failed and share(worst) <= 1):  # what is to be zero has no relative error
        said.append(f"worst {worst.worst:.1e} of {worst.tolerance:.1e}")
    ratios = [check.ratio for check in checks if check.ratio is not None]
    return [*said, f"{max(ratios):.2g}x own error"] if ratios else said


def _totals(results: tuple[Result, ...]) -> str:
    counts = Counter(result.status for result in results)
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(results)} parity check{'s' if len(results) != 1 else ''}: {parts}"
