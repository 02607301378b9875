"""One task of a gate, done in this process: `execute(task) -> Result`. Whatever a model does is told by the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from isomorph.convert.errors import IsomorphError, UnsupportedError, first_line, one_line
from isomorph.parity.gate import subjects
from isomorph.parity.gate.folder import within
from isomorph.parity.gate.tasks import Task
from isomorph.parity.record import BudgetLine, Result, Status, gravest

__all__ = ["Report", "execute"]

Report = Callable[[str, int, int], None]
"""Told of progress: what is being done, how many of how many; 0 of 0 where nobody knows."""


def execute(task: Task, report: Report | None = None, artifacts: Path | None = None) -> Result:
    """Do a task: the check of two models, or the measurement of a budget.

    artifacts: a folder, made if need be, for the reproducer of a failure; None for none. The working directory is the
    gate file's folder meanwhile, so that only one task at a time can be done in a process. Never raises for what a
    model does or lacks: that is status NOT_FOUND (it is not there), UNSUPPORTED, ERROR or, of the check, FAIL.
    """
    since = time.perf_counter()
    say = report or (lambda stage, done, total: None)
    entry = task.entry
    plain = Result(
        task.name, "ERROR", original=entry.source, converted=entry.converted, device=task.device, place=task.place,
        settings=task.settings,
    )  # fmt: skip
    result = _tried(task, plain, say, None if artifacts is None else artifacts.absolute())
    return replace(result, seconds=round(time.perf_counter() - since, 3))


def _tried(task: Task, plain: Result, say: Report, artifacts: Path | None) -> Result:
    """The result, an exception put in its place."""

    def failed(status: Status, message: str) -> Result:
        return replace(plain, status=status, message=message)

    try:
        modules = subjects.require(task)
        plain = replace(plain, subjects=subjects.subjects_of(task))
        if task.kind == "check" and subjects.alike(task, plain.subjects):
            return failed("NOTHING_COMPARED", "source and artifact are one and the same model")
        with within(Path(task.folder), modules):
            try:
                result = _check(task, plain, say, artifacts) if task.kind == "check" else _measure(task, plain, say)
                if subjects.subjects_of(task) != plain.subjects:
                    return failed("ERROR", "a file of the models was changed while they were judged")
                return result
            except IsomorphError as error:
                missing = "" if isinstance(error, UnsupportedError) else subjects.unnamed(task)
                if missing:
                    raise subjects.NotFoundError(missing) from error
                raise
    except subjects.NotFoundError as error:
        return failed("NOT_FOUND", str(error))
    except UnsupportedError as error:
        return failed("UNSUPPORTED", _one_line(error))
    except IsomorphError as error:
        return failed("ERROR", _one_line(error))
    except SystemExit as error:
        return failed("ERROR", f"the code of a model ended the interpreter: {one_line(error)}")
    except Exception as error:
        return failed("ERROR", f"internal: {one_line(error)}")


def _one_line(said: object) -> str:
    return " ".join(str(said).split())


# --------------------------------------------------------------------------------------------------------------- check
def _check(task: Task, plain: Result, say: Report, artifacts: Path | None) -> Result:
    from isomorph.parity.check import examine
    from isomorph.parity.gate.making import sides_of
    from isomorph.parity.settings import Settings

    entry = task.entry
    settings = Settings(
        modes=entry.modes, level=entry.level, examples=entry.examples, backward=entry.backward, seed=entry.seed,
        dtype=task.dtype, strict=entry.strict, tolerances=entry.tolerances, steps=entry.steps, profile=True,
    )  # fmt: skip
    say("start", 0, 0)
    sides = sides_of(entry, task.device, lambda stage: say(stage, 0, 0))
    verdict = examine(sides.original, sides.converted, settings, say)
    result = judged(task, plain, verdict.to_dict())
    if verdict.status == "FAIL" and artifacts is not None:
        return _with_reproducer(result, verdict, sides, artifacts)
    return result


def judged(task: Task, plain: Result, verdict: Mapping[str, Any]) -> Result:
    """The result of a check: its verdict, the required checks and the precision budget. verdict:
    `Verdict.to_dict()`."""
    from isomorph.parity.gate import required
    from isomorph.parity.gate.budgets import precision

    found = required.judge(verdict, task.entry, task.dtype)
    limit = task.entry.budgets.precision
    budgets = () if limit is None or task.dtype == "float64" else (precision(verdict, limit),)
    settings = {
        **plain.settings, "required": list(found.names), "unmet": dict(found.unmet), "excused": dict(found.excused)
    }  # fmt: skip
    statuses: list[Status] = [verdict["status"]]
    told = [_verdict_line(verdict)]
    if verdict["status"] == "PASS" and found.unmet:
        statuses.append("NOTHING_COMPARED")
        told = [found.message]
    over = [line for line in budgets if not line.kept]
    if over:
        statuses.append("BUDGET")
        told = [*(told if gravest(statuses) != "BUDGET" else ()), *map(budget_text, over)]
    return replace(
        plain, status=gravest(statuses), message="; ".join(told), verdict=verdict, budgets=tuple(budgets),
        settings=settings,
    )  # fmt: skip


def _verdict_line(verdict: Mapping[str, Any]) -> str:
    if verdict["status"] == "FAIL" and verdict["mismatches"]:
        worst = verdict["mismatches"][0]
        more = len(verdict["mismatches"]) - 1
        said = f": {_one_line(worst['message'])}" if worst["message"] else ""
        return f"{worst['quantity']} {worst['name']}: {worst['kind']}{said}" + (f" (and {more} more)" if more else "")
    return _one_line(verdict["coverage"].get("reason") or "")


def budget_text(line: BudgetLine) -> str:
    """A budget that was not kept, in one line."""
    if line.measured is None:
        return f"budget {line.name}: not measured: {line.detail}"
    if line.unit == "bytes":
        return f"budget {line.name}: {line.measured:.0f} bytes is over the limit of {line.limit:.0f} bytes"
    digits = next((n for n in range(6, 17) if f"{line.measured:.{n}g}" != f"{line.limit:.{n}g}"), 17)
    return f"budget {line.name}: {line.measured:.{digits}g}x is over the limit of {line.limit:.{digits}g}x"


def _with_reproducer(result: Result, verdict: Any, sides: Any, artifacts: Path) -> Result:
    from isomorph.parity.explaining.reproduce import reproduce

    with suppress(OSError):
        artifacts.mkdir(parents=True, exist_ok=True)
    try:
        folder = reproduce(verdict, sides.original, sides.converted, artifacts / "reproducer")
    except Exception as error:  # a failure that cannot be written down is a failure all the same
        settings = {**result.settings, "no reproducer": first_line(error)}
        return replace(result, settings=settings)
    return replace(result, artifacts={**result.artifacts, "reproducer": str(folder)})


# ------------------------------------------------------------------------------------------------------------- budgets
def _measure(task: Task, plain: Result, say: Report) -> Result:
    from isomorph.parity.gate.budgets import measure
    from isomorph.parity.report.texts import amount

    line = measure(task, say)
    if line.kept:
        said = f"{amount(line.measured, line.unit)} of {amount(line.limit, line.unit)}"
        return replace(plain, status="PASS", message=said, budgets=(line,))
    return replace(plain, status="BUDGET", message=budget_text(line), budgets=(line,))
