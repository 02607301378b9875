"""The tasks that `--only` names. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from isomorph.convert.errors import UsageError
from isomorph.convert.named_code import suggest
from isomorph.parity.gate.tasks import Task

__all__ = ["select"]


def select(tasks: Sequence[Task], only: Sequence[str]) -> tuple[Task, ...]:
    """The tasks that some pattern names. UsageError: a pattern names none."""
    for pattern in only:
        if not any(_named(task, pattern) for task in tasks):
            what = "task" if "::" in pattern else "model"
            known = list(dict.fromkeys(task.name if what == "task" else task.model for task in tasks))
            hint = suggest(pattern, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"--only {pattern}: no {what} of that name{hint}")
    return tuple(task for task in tasks if not only or any(_named(task, pattern) for pattern in only))


def _named(task: Task, pattern: str) -> bool:
    if "::" not in pattern:
        return fnmatchcase(task.model, pattern)
    # The brackets of a task's name are brackets.
    return fnmatchcase(task.name, pattern.replace("[", "[[]"))
