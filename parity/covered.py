"""What a stage leaves out, said in one place. Standard library only."""

from __future__ import annotations

from typing import Any

__all__ = ["not_checked"]


def not_checked(coverage: dict[str, Any], what: str, reason: str) -> None:
    """Note in coverage["not_checked"], a list of texts, that something was not judged, and why. Said once."""
    held = coverage.setdefault("not_checked", [])
    text = f"{what}: {reason}"
    if text not in held:
        held.append(text)
