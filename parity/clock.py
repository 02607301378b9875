"""Where the time of a check went. Standard library only."""

from __future__ import annotations

import time

__all__ = ["Clock"]

DIGITS = 4


class Clock:
    """`start` ends the stage before; `seconds`: stage -> seconds, in the order in which they were first begun, summed
    over the times they came."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()
        self._stage = ""
        self._since = 0.0

    def start(self, stage: str) -> None:
        """What follows belongs to this stage. Naming the one that runs already changes nothing."""
        if stage != self._stage:
            self.stop()
            self._stage, self._since = stage, time.perf_counter()
            self.seconds.setdefault(stage, 0.0)

    def stop(self) -> None:
        """What follows belongs to no stage."""
        if self._stage:
            self.seconds[self._stage] += time.perf_counter() - self._since
            self._stage = ""

    @property
    def total(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._begun

    def table(self) -> dict[str, float]:
        """`seconds`, rounded; the stage that runs is ended."""
        self.stop()
        return {stage: round(taken, DIGITS) for stage, taken in self.seconds.items()}
