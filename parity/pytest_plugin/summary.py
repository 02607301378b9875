"""The section "parity" at the end of a run, where anything was checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from isomorph.parity.pytest_plugin.figures import figures
from isomorph.parity.pytest_plugin.merge import Collector

__all__ = ["write"]


def write(terminal: pytest.TerminalReporter, collector: Collector) -> None:
    """A line for each check, the totals, where the reports are; with -q the totals and what did not pass."""
    results = [result.to_dict() for result in collector.results]
    told = [*collector.record.notes, *collector.told]
    if not results and not told:
        return
    terminal.section("parity")
    for result in results:
        passed = result["status"] == "PASS"
        if not passed or terminal.verbosity >= 0:
            terminal.write(result["status"], green=passed, red=not passed)
            terminal.write_line(f" {_line(result)}")
    for line in ([_totals(results)] if results else []) + told:
        terminal.write_line(line)


def _line(result: Mapping[str, Any]) -> str:
    found = figures(result)
    said = [f"{found.compared} compared"] if result["verdict"] is not None else []
    if found.worst is not None:
        said.append(f"worst {found.worst:.1e} of {found.tolerance:.1e}")
    if found.ratio is not None:
        said.append(f"{found.ratio:.2g}x own error")
    said.append(f"{result['seconds']:.1f} s")
    line = f"{result['name']}: {', '.join(said)}"
    return f"{line}; {result['message']}" if result["message"] else line


def _totals(results: list[dict[str, Any]]) -> str:
    counts = Counter(result["status"] for result in results)
    parts = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(results)} parity check{'s' if len(results) != 1 else ''}: {parts}"
