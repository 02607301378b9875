"""Entries of a gate file that are well formed, and make no sense together. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isomorph.convert.routes import is_code
from isomorph.parity.settings import LEVELS

if TYPE_CHECKING:
    from isomorph.parity.gate.policy import ModelEntry

__all__ = ["contradictions", "undone"]

# What the level leaves out, and what the modes, gradients and dtypes asked for leave out.
OF_REST = ("special", "randomised", "relations", "determinism")
OF_MODE = {"eval": ("special", "relations"), "train": ("train", "steps", "dropout")}
OF_BACKWARD = ("gradients", "steps")
OF_FLOAT64 = ("randomised",)


def undone(entry: ModelEntry, dtypes: Sequence[str]) -> dict[str, str]:
    """Check -> why this entry's own settings leave it out in one of these dtypes."""
    found: dict[str, str] = {}
    if "own" in dtypes:
        found |= dict.fromkeys(OF_FLOAT64, 'dtype "own" compares nothing in float64')
    if not entry.backward:
        found |= dict.fromkeys(OF_BACKWARD, "backward = false")
    for mode, checks in OF_MODE.items():
        if mode not in entry.modes:
            found |= dict.fromkeys(checks, f"modes leaves {mode!r} out")
    level = LEVELS[entry.level]
    steps = level.steps if entry.steps is None else entry.steps
    left_out = f"level {entry.level!r} leaves it out"
    if not level.rest:
        found |= dict.fromkeys(OF_REST, left_out)
    if not steps:
        found["steps"] = "steps = 0" if entry.steps == 0 else left_out
    if not level.draws:
        found["dropout"] = left_out
    return found


def contradictions(entry: ModelEntry) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of an entry."""
    left_out = undone(entry, entry.dtypes)
    for check in entry.checks or ():
        if check in left_out:
            yield "checks", f"checks: {check!r} is required, and {left_out[check]}"
    if entry.budgets.precision is not None and set(entry.dtypes) == {"float64"}:
        yield (
            "precision",
            'budgets: precision is measured in the artifact\'s own dtype; dtypes must name "both" or "own"',
        )
    if entry.convert is not None:
        for key in ("artifact_weights", "backend", "python"):
            if getattr(entry, key) is not None:
                yield (
                    key,
                    f"{key} is for an 'artifact'; a model that is converted now is made in the gate's own process",
                )
        for key in ("isolate", "memory_limit"):
            if getattr(entry, key):
                yield key, f"{key} is for models that are opened from files or code, not for one that is converted now"
    elif entry.artifact is not None and entry.budgets.size is not None and is_code(entry.artifact):
        yield "size", f"budgets: size is of a file or directory, and the artifact {Path(entry.artifact)} is code"
