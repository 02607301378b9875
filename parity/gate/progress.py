"""What is said while a gate runs: a live table on a terminal, a line for each result elsewhere, or nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TextIO

from isomorph.parity.record import Result

__all__ = ["Progress", "Shown", "line"]


class Progress:
    """Context manager that is told of a run and shows nothing. done, total: results so far, cached ones included."""

    def __init__(self) -> None:
        self.done = self.total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def expects(self, total: int) -> None:
        """How many results there will be."""
        self.total = total

    def started(self, name: str) -> None:
        """A task begins."""

    def stage(self, name: str, stage: str, done: int, total: int) -> None:
        """How far a task is; total 0 where nobody knows."""

    def finished(self, result: Result) -> None:
        """A task has its result."""
        self.done += 1


class Shown(Progress):
    """On `stream`: where it is a terminal, a bar for all and one for each task that runs, with the results above."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._bars: Any = None
        self._all: Any = None
        self._tasks = dict[str, Any]()

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(),
                       TimeElapsedColumn())  # fmt: skip
            self._bars = Bars(*columns, console=Console(file=self._stream, highlight=False), transient=True)
            self._bars.start()
            self._all = self._bars.add_task("gate", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def expects(self, total: int) -> None:
        """See `Progress`."""
        super().expects(total)
        if self._bars is not None:
            self._bars.update(self._all, total=total)

    def started(self, name: str) -> None:
        """See `Progress`."""
        if self._bars is not None:
            self._tasks[name] = self._bars.add_task(_plain(name), total=None)

    def stage(self, name: str, stage: str, done: int, total: int) -> None:
        """See `Progress`."""
        if self._bars is not None and name in self._tasks:
            said = _plain(f"{name} {stage}")
            self._bars.update(self._tasks[name], description=said, completed=done, total=total or None)

    def finished(self, result: Result) -> None:
        """See `Progress`."""
        super().finished(result)
        said = line(result, self.done, self.total)
        if self._bars is None:
            self._stream.write(said + "\n")
            self._stream.flush()
            return
        if (bar := self._tasks.pop(result.name, None)) is not None:
            self._bars.remove_task(bar)
        self._bars.update(self._all, completed=self.done)
        self._bars.console.print(said, markup=False)


def line(result: Result, done: int, total: int) -> str:
    """Of the form "[3/12] PASS digits::check[cpu,both] 12.1 s", with the message where it is no PASS."""
    how = "cached" if result.cached else f"{result.seconds:.1f} s"
    said = result.message.strip().splitlines()
    why = f": {said[0]}" if said and not result.passed else ""
    width = len(str(total))
    return f"[{done:>{width}}/{total}] {result.status} {result.name} {how}{why}"


def _plain(text: str) -> str:
    """Brackets as they are: rich reads them as markup."""
    from rich.markup import escape

    return escape(text)
