"""What does not pass, and why; what passes and has no gradient. A line that no longer holds fails the tests."""

from __future__ import annotations

__all__ = ["FAILS", "UNREACHED"]

# reason -> the cases it explains, as kind/name
_FAILS: dict[str, tuple[str, ...]] = {}

# reason -> cases with floating inputs and outputs in which autograd reaches no input
_UNREACHED: dict[str, tuple[str, ...]] = {}

FAILS = {case: reason for reason, cases in _FAILS.items() for case in cases}
UNREACHED = {case: reason for reason, cases in _UNREACHED.items() for case in cases}
