"""The stages of a conversion: the caller is told of each as it begins, and the report how long it took.

Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Progress", "Stages"]

Progress = Callable[[str], None]


class Stages:
    """Called with a stage's name as it begins, which ends the one before. progress: told each name. seconds: filled
    with the seconds of each stage, the sum where one comes again."""

    def __init__(self, progress: Progress | None, seconds: dict[str, float]) -> None:
        self.progress, self.seconds, self.current, self.since = progress, seconds, "", 0.0

    def __call__(self, stage: str) -> None:
        self.done()
        self.current, self.since = stage, time.perf_counter()
        if self.progress is not None:
            self.progress(stage)

    def done(self) -> None:
        """The last stage has ended."""
        if self.current:
            spent = time.perf_counter() - self.since
            self.seconds[self.current] = round(self.seconds.get(self.current, 0.0) + spent, 4)
            self.current = ""
