"""Time and memory of a model, measured in fresh processes (`bare`): one for each model, on one thread.

The time is judged by its ratio. Both processes load their model, warm up, and then run in turns, now one first and now
the other, on the same core of the processor, so that what else the machine does meets both. Each turn gives a ratio,
of the medians of its runs; the median over the turns is the figure, and the order statistics of the ratios give its
interval at `CONFIDENCE`. As long as the limit lies in the interval more turns are made; where it still does at the
end, the budget is not kept: it is not known to be.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from isomorph.convert.errors import UsageError
from isomorph.parity.console import QUIET
from isomorph.parity.gate.bare import Load
from isomorph.parity.gate.tasks import Task
from isomorph.parity.record import BudgetLine

__all__ = ["CONFIDENCE", "NotMeasuredError", "Timed", "interval", "latency_ratio", "memory", "ratios"]

Report = Callable[[str, int, int], None]
CONFIDENCE = 0.99  # that the median lies in the interval
ROUNDS = 20  # turns of both before the interval is looked at, and again
MOST = 400
PATIENCE = 60.0  # seconds after which no more turns are begun
SHORTEST = 0.02  # seconds that one turn of one model takes at least: so many runs
WARM = (3, 0.3)  # runs, and seconds, before anything is measured
START = 180.0  # seconds that loading frameworks may take, beside the limit of one run
ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}  # fmt: skip
Timed = Callable[[int], float]  # runs a model so many times: the median seconds of one run


# -------------------------------------------------------------------------------------------------------------- budgets
def latency_ratio(task: Task, limit: float, say: Report) -> BudgetLine:
    """The artifact's time for one run over the source's."""
    with contextlib.ExitStack() as stack:
        loads = stack.enter_context(_loads(task, say))
        say("load", 0, 0)
        first, second = (stack.enter_context(_Process(load, task)) for load in loads)
        found = ratios(first.timed, second.timed, limit, lambda done: say("rounds", done, MOST))
    low, high = interval(found.each)
    value = statistics.median(found.each)
    told = (
        f"median of {len(found.each)} turns, {CONFIDENCE:.0%} interval {low:.3g} to {high:.3g}; "
        f"source {found.first * 1e3:.3g} ms, artifact {found.second * 1e3:.3g} ms for one run, {_how(task)}"
    )
    if low <= limit < high:
        told = f"undecided, as the limit lies in the interval: {value:.3g}, {told}"
        return BudgetLine("latency_ratio", limit, None, "x", told)
    return BudgetLine("latency_ratio", limit, value, "x", told)


def memory(task: Task, limit: float, say: Report) -> BudgetLine:
    """How far a fresh process grows while it loads the artifact and runs it once, its framework being imported."""
    if task.device != "cpu":
        return BudgetLine(
            "memory", limit, None, "bytes", f"it is measured on the cpu only, and the device is {task.device}"
        )
    with contextlib.ExitStack() as stack:
        _, load = stack.enter_context(_loads(task, say))
        say("load", 0, 0)
        seen = stack.enter_context(_Process(load, task)).loaded
    told = f"peak resident memory above the {seen['before'] / 1e6:.0f} MB before loading, {_how(task)}"
    return BudgetLine("memory", limit, float(seen["peak"] - seen["before"]), "bytes", told)


def _how(task: Task) -> str:
    return "one thread" if task.device == "cpu" else task.device


# ----------------------------------------------------------------------------------------------------------- statistics
@dataclass(frozen=True)
class Ratios:
    """each: of every turn, the second model's time over the first's. first, second: median seconds for one run."""

    each: tuple[float, ...]
    first: float
    second: float


def ratios(first: Timed, second: Timed, limit: float, say: Callable[[int], None] = lambda done: None) -> Ratios:
    """Run both in turns until the interval of the median ratio lies on one side of the limit, or it takes too long."""
    counts = [_warm(timed) for timed in (first, second)]
    seconds: list[list[float]] = [[], []]
    until = time.monotonic() + PATIENCE
    while True:
        for turn in range(ROUNDS):
            for side in (0, 1) if turn % 2 else (1, 0):
                seconds[side].append((first, second)[side](counts[side]))
            if turn >= 4 and time.monotonic() > until:
                break
        each = tuple(b / a for a, b in zip(*seconds, strict=True))
        low, high = interval(each)
        say(len(each))
        if not low <= limit < high or len(each) >= MOST or time.monotonic() > until:
            return Ratios(each, statistics.median(seconds[0]), statistics.median(seconds[1]))


def _warm(timed: Timed) -> int:
    """How many runs make one turn."""
    last, total, runs = math.inf, 0.0, 0
    while runs < WARM[0] or (total < WARM[1] and runs < 1000):
        last = max(timed(1), 1e-9)
        total, runs = total + last, runs + 1
    return max(1, math.ceil(SHORTEST / last))


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Order statistics between which the median of what the values are drawn from lies with this confidence or more,
    whatever the distribution; (0, inf) for too few values."""
    ordered, count = sorted(values), len(values)
    tail, rank = 0.0, 0  # the chance that fewer than `rank` values lie below the median
    while rank < count // 2 + 1:
        more = tail + math.comb(count, rank) / 2**count
        if 2 * more > 1 - confidence:
            break
        tail, rank = more, rank + 1
    return (ordered[rank - 1], ordered[count - rank]) if rank else (0.0, math.inf)


# ---------------------------------------------------------------------------------------------------------- both models
@contextlib.contextmanager
def _loads(task: Task, say: Report) -> Iterator[tuple[Load, Load]]:
    """What the two processes are to load: the models, and one input that both accept, of the example's sizes."""
    from isomorph.parity.gate.making import sides_of
    from isomorph.parity.runners.device import in_child

    entry = task.entry
    if entry.python is not None:
        raise NotMeasuredError(f"the artifact runs in another interpreter, {entry.python}")
    sides = sides_of(entry, task.device, lambda stage: say(stage, 0, 0))
    with tempfile.TemporaryDirectory(prefix="isomorph-gate-") as name:
        folder = Path(name)
        artifact = entry.artifact if entry.artifact is not None else str(sides.save(folder))
        say("inputs", 0, 0)
        (arrays, names), (others, other_names) = _inputs(task, sides)
        common = Load("", "", inputs=entry.inputs, seed=entry.seed, device=in_child(task.device), core=_core(task))
        source, target = _kept(arrays, folder / "source.npz"), _kept(others, folder / "artifact.npz")
        yield (
            replace(common, text=entry.source, arrays=source, names=names, weights=entry.weights),
            replace(common, text=artifact, arrays=target, names=other_names, weights=entry.artifact_weights),
        )


def _inputs(task: Task, sides: Any) -> Iterator[tuple[Sequence[Any], tuple[str, ...]]]:
    """For each side its input arrays, in its own order and axis order, and their names."""
    from isomorph.parity.contract import prepare
    from isomorph.parity.drawing import strategies
    from isomorph.parity.ledger import Ledger
    from isomorph.parity.settings import Settings

    settings = Settings(
        modes=("eval",), level="quick", backward=False, seed=task.entry.seed, dtype="own", explain=False
    )
    pair = prepare(sides.original, sides.converted, settings, Ledger(), {})
    if pair is None:
        raise NotMeasuredError("the inputs of the two models do not correspond")
    try:
        (case,) = strategies.plan(pair.contract, 1, settings.seed, "eval", shapes=1)
        case = replace(case, distribution="normal", sizes=pair.contract.sizes)
        mode = "eval" if "eval" in pair.original.about().modes else pair.original.about().modes[0]
        example = pair.example(mode, case, backward=False)
        if example is None:
            raise NotMeasuredError(f"the source accepts no input: {pair.refused[-1] if pair.refused else ''}")
        for runner in (pair.converted, pair.original) if pair.swapped else (pair.original, pair.converted):
            request, inner = example.request, runner
            while hasattr(inner, "runner"):  # put into the original's names and axis order
                request = inner.request(request) if hasattr(inner, "request") else request
                inner = inner.runner
            yield request.inputs, tuple(port.name for port in inner.about().inputs)
    finally:
        pair.close()


def _core(task: Task) -> int | None:
    """One core for both processes, where they can be told: the last one, as the first has most of the interrupts."""
    return max(os.sched_getaffinity(0)) if task.device == "cpu" and hasattr(os, "sched_getaffinity") else None


def _kept(arrays: Sequence[Any], file: Path) -> str:
    import numpy as np

    np.savez(file, **{str(index): array for index, array in enumerate(arrays)})
    return str(file)


class NotMeasuredError(UsageError):
    """Something cannot be measured, which fails."""


# -------------------------------------------------------------------------------------------------------------- process
class _Process:
    """A model in a process of its own, loaded and run once. loaded: bytes resident before, and at most since."""

    def __init__(self, load: Load, task: Task) -> None:
        from isomorph.parity.runners.device import child_environment
        from isomorph.parity.runners.spec import ModelSpec

        self._what, self._limit = load.text, task.entry.timeout
        environment = child_environment(ModelSpec(load.text, device=task.device, backend=task.entry.backend))
        threads = ONE_THREAD if task.device == "cpu" else {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._pipe, descriptor = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "isomorph.parity.gate.bare", str(descriptor)], stdin=subprocess.PIPE,
                stdout=self._log, stderr=self._log, pass_fds=(descriptor,), start_new_session=True,
                env={**QUIET, **os.environ, **environment, **threads, "PYTHONPATH": _path()},
            )  # fmt: skip
        finally:
            os.close(descriptor)
        self._answers = os.fdopen(self._pipe, "rb", buffering=0)
        said = {**asdict(load), "path": sys.path}
        try:
            self.loaded = self._ask(json.dumps(said), START + self._limit)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._answers, self._log):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def timed(self, count: int) -> float:
        """The median seconds of one of so many runs."""
        return float(self._ask(str(count), self._limit * count)["seconds"])

    def _ask(self, line: str, limit: float) -> dict[str, Any]:
        stdin: Any = self._process.stdin
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise NotMeasuredError(f"{self._what}: {self._last()}") from None
        answer = self._line(time.monotonic() + limit)
        if "error" in answer:
            raise NotMeasuredError(f"{self._what}: {answer['error']}")
        return answer

    def _line(self, until: float) -> dict[str, Any]:
        parts = b""
        while not parts.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise NotMeasuredError(f"{self._what}: no answer in time")
            part = self._answers.read(1 << 16)
            if not part:
                raise NotMeasuredError(f"{self._what}: {self._last()}")
            parts += part
        answer: dict[str, Any] = json.loads(parts)
        return answer

    def _last(self) -> str:
        self._process.wait(5)
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"its process ended with exit status {self._process.returncode}: {lines[-1][:300] if lines else ''}"


def _path() -> str:
    """PYTHONPATH that finds what this process finds: the new one starts in another folder, where relative entries lead
    elsewhere."""
    return os.pathsep.join(entry for entry in sys.path if os.path.isabs(entry))
