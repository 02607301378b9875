"""Bars on a terminal: the stages of a conversion, with the seconds of each in any case; the examples of a check."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TextIO

STAGES = (
    "start", "load", "capture", "passes", "layout", "emit", "trace", "keras", "lower", "finish", "read", "layers",
    "verify", "write",
)  # fmt: skip


class Stages:
    """Context manager. Calling it with a stage's name ends the one before. `seconds` holds what each took, summed over
    its calls ("start", loading the frameworks, comes twice). The bar shows when `show` and `stream` is a terminal."""

    def __init__(self, stream: TextIO, show: bool = True, stages: tuple[str, ...] = STAGES) -> None:
        self.seconds: dict[str, float] = {}
        self._stages = stages
        self._stream = stream
        self._show = show and stream.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._current = ""
        self._since = 0.0
        self._done = 0

    def __enter__(self) -> Self:
        if self._show:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=len(self._stages))
        return self

    def __call__(self, stage: str) -> None:
        self._finish()
        self._current, self._since = stage, time.perf_counter()
        if self._bar is not None:
            if stage in self._stages:
                # A stage that comes again does not pull the bar back.
                self._done = max(self._done, self._stages.index(stage))
            self._bar.update(self._task, description=stage, completed=self._done)

    def _finish(self) -> None:
        if self._current:
            elapsed = time.perf_counter() - self._since
            self.seconds[self._current] = round(self.seconds.get(self._current, 0.0) + elapsed, 3)
            self._current = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        if self._bar is not None:
            self._bar.stop()


class Counter:
    """Context manager. Calling it with (what, done, total) moves the bar; total 0 is a stage of unknown length. The bar
    shows when `show` and `stream` is a terminal."""

    def __init__(self, stream: TextIO, show: bool = True) -> None:
        self._stream = stream
        self._show = show and stream.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._show:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            columns = (SpinnerColumn(), TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(),
                       TimeElapsedColumn())  # fmt: skip
            self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=stage, completed=done, total=total or None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
