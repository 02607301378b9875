"""Budgets: what is measured of a model, and how it stands to its limit. What cannot be measured is not kept.

| budget | unit | what is measured |
| --- | --- | --- |
| precision | x | of the check: the largest `ratio` of the precision stage, over outputs and gradients |
| size | bytes | the artifact on disk; a model that is converted now as it is saved |
| latency_ratio | x | the artifact's time for one run over the source's, side by side |
| memory | bytes | how far a fresh process grows while it loads the artifact and runs it once |
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isomorph.parity.gate import digest
from isomorph.parity.gate.policy_keys import UNITS
from isomorph.parity.gate.tasks import Task
from isomorph.parity.record import BudgetLine

__all__ = ["COMPARED", "measure", "precision"]

Report = Callable[[str, int, int], None]
COMPARED = ("output", "input gradient", "parameter gradient")


def precision(verdict: Mapping[str, Any], limit: float) -> BudgetLine:
    """The precision budget of a verdict (`to_dict`): the median over arrays of the converted model's error in units of
    the original's own, in the worst quantity and mode."""
    seen = [c for c in verdict["checks"] if c["stage"] == "precision" and c["quantity"] in COMPARED]
    ratios = {f"{c['quantity']}s, {c['mode']} mode, {c['dtype']}": c["ratio"] for c in seen if c["ratio"] is not None}
    if not ratios:
        why = "the original has no error to compare with" if seen else "the precision stage compared nothing"
        return BudgetLine("precision", limit, None, "x", why)
    worst = max(ratios, key=lambda where: _number(ratios[where]))
    value = _number(ratios[worst])
    if not math.isfinite(value):
        return BudgetLine("precision", limit, None, "x", f"the error of {worst} is not finite")
    return BudgetLine("precision", limit, value, "x", f"median over arrays, {worst}")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)  # a verdict says "inf" for what JSON has no number for


def measure(task: Task, say: Report) -> BudgetLine:
    """The budget that a task is about. The working directory is the gate file's folder. IsomorphError: its models
    cannot be had."""
    limit = task.limit or 0.0
    if task.kind == "size":
        return _size(task, limit, say)
    from isomorph.parity.gate import measure as running

    try:
        return (
            running.latency_ratio(task, limit, say)
            if task.kind == "latency_ratio"
            else running.memory(task, limit, say)
        )
    except running.NotMeasuredError as error:
        return BudgetLine(task.kind, limit, None, UNITS[task.kind], str(error))


def _size(task: Task, limit: float, say: Report) -> BudgetLine:
    if task.entry.artifact is not None:
        return _on_disk(Path(task.entry.artifact), limit, "on disk")
    from isomorph.parity.gate.making import sides_of

    sides = sides_of(task.entry, task.device, lambda stage: say(stage, 0, 0))
    with tempfile.TemporaryDirectory(prefix="isomorph-gate-") as folder:
        say("write", 0, 0)
        file = sides.save(Path(folder))
        return _on_disk(file, limit, f"as it is saved, {file.suffix}")


def _on_disk(path: Path, limit: float, detail: str) -> BudgetLine:
    if not path.exists():
        return BudgetLine("size", limit, None, "bytes", f"{path} is no file and no directory")
    said = digest.subjects("converted", str(path), path)
    more = f", with {len(said) - 1} file(s) of external data" if len(said) > 1 else ""
    return BudgetLine("size", limit, float(sum(subject.size for subject in said)), "bytes", detail + more)
