"""Budgets: what is measured, and what becomes of what cannot be measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isomorph.parity.gate import measure
from isomorph.parity.gate.budgets import precision
from isomorph.parity.record import BudgetLine

from .gate_files import PAIR, executed, gate
from .test_required import check, verdict


def ratios_of(**given: Any) -> dict[str, Any]:
    """A verdict whose precision stage has these ratios, by quantity."""
    from dataclasses import replace

    return verdict(tuple(replace(check("precision", q.replace("_", " "), equal=3), ratio=r) for q, r in given.items()))


@pytest.mark.parametrize(
    ("said", "measured", "told"),
    [
        (ratios_of(output=1.5, input_gradient=3.0, parameter_gradient=2.0), 3.0, "input gradients, eval mode, float64"),
        (ratios_of(output=1.5, parameter_gradient=None), 1.5, "outputs"),
        (ratios_of(output=1.5, buffer=9.0), 1.5, "outputs"),
        (ratios_of(output=None), None, "the original has no error to compare with"),
        (ratios_of(output=float("inf")), None, "not finite"),
        (verdict(), None, "the precision stage compared nothing"),
    ],
)
def test_precision(said: dict[str, Any], measured: float | None, told: str) -> None:
    line = precision(said, 2.0)
    assert (line.name, line.limit, line.measured, line.unit) == ("precision", 2.0, measured, "x")
    assert told in line.detail
    assert line.kept is (measured is not None and measured <= 2.0)


# ----------------------------------------------------------------------------------------------------------------- size
ARTIFACT = '[[model]]\nname = "a"\nsource = "a.pt2"\nartifact = "{}"\n[model.budgets]\nsize = {}\n'


@pytest.mark.parametrize(("name", "size"), [("model.keras", 700), ("saved", 800)])
def test_size(tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / "a.pt2").write_bytes(b"")
    (tmp_path / "model.keras").write_bytes(bytes(700))
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "saved" / "saved_model.pb").write_bytes(bytes(300))
    (tmp_path / "saved" / "variables" / "data").write_bytes(bytes(500))
    for limit, status in ((size, "PASS"), (size - 1, "BUDGET")):
        result = executed(gate(tmp_path, ARTIFACT.format(name, limit)), "a::budget[size]")
        assert (result.status, result.budgets) == (
            status, (BudgetLine("size", limit, float(size), "bytes", "on disk"),)
        )  # fmt: skip
    assert result.message == f"budget size: {size} bytes is over the limit of {size - 1} bytes"


# -------------------------------------------------------------------------------------------------------------- latency
def clock(times: Iterator[float]) -> measure.Timed:
    return lambda count: next(times)


def steady(seconds: float, noise: float = 0.0, seed: int = 0) -> Iterator[float]:
    rng = random.Random(seed)
    while True:
        yield seconds * (1 + rng.uniform(-noise, noise))


@pytest.mark.parametrize(("limit", "kept"), [(1.5, False), (2.5, True)])
def test_a_ratio_that_is_clear(limit: float, kept: bool) -> None:
    found = measure.ratios(clock(steady(0.1, 0.05)), clock(steady(0.2, 0.05, 1)), limit)
    low, high = measure.interval(found.each)
    assert len(found.each) == measure.ROUNDS
    assert 1.8 < low <= high < 2.2
    assert (found.first, found.second) == (pytest.approx(0.1, rel=0.05), pytest.approx(0.2, rel=0.05))


def test_a_ratio_near_the_limit_is_measured_longer() -> None:
    found = measure.ratios(clock(steady(0.1, 0.2)), clock(steady(0.2, 0.2, 1)), 2.03)
    assert measure.ROUNDS < len(found.each) < measure.MOST
    undecided = measure.ratios(clock(steady(0.1, 0.2)), clock(steady(0.1, 0.2, 1)), 1.0)
    assert len(undecided.each) == measure.MOST


def test_short_runs_are_repeated() -> None:
    asked: list[int] = []

    def timed(count: int) -> float:
        asked.append(count)
        return 0.001

    measure.ratios(timed, timed, 5.0)
    assert set(asked) == {1, 20}, "twenty runs of a millisecond make one turn"


def test_what_is_measured_first_changes() -> None:
    order: list[str] = []

    def named(name: str) -> measure.Timed:
        def timed(count: int) -> float:
            order.append(name)
            return 1.0

        return timed

    measure.ratios(named("a"), named("b"), 5.0)
    turns = order[-2 * measure.ROUNDS :]
    assert turns[:4] == ["b", "a", "a", "b"]


def test_the_interval_holds_the_median() -> None:
    """In at least 99 of 100 samples of whatever distribution; too few values say nothing."""
    assert measure.interval([1.0] * 5) == (0.0, float("inf"))
    assert measure.interval([1.0] * 7 + [9.0]) == (1.0, 9.0)
    values = list(range(20))
    assert measure.interval(values) == (3, 16)
    rng = random.Random(0)
    misses = 0
    for _ in range(2000):
        low, high = measure.interval([rng.expovariate(1.0) for _ in range(20)])
        misses += not low <= 0.6931 <= high
    assert misses <= 20


def test_latency_of_two_functions(tmp_path: Path) -> None:
    text = PAIR.format("slow").replace("float32[b,4]", "float32[2000,4]") + "[model.budgets]\nlatency_ratio = 3\n"
    result = executed(gate(tmp_path, text), "pair::budget[latency_ratio]")
    (line,) = result.budgets
    assert result.status == "BUDGET"
    assert line.measured is not None
    assert line.measured > 10
    assert "interval" in line.detail
    assert line.detail.endswith("one thread")


# --------------------------------------------------------------------------------------------------------------- memory
HEAVY = """
import numpy as np

def make():
    held = np.ones(25_000_000)

    def heavy(x):
        return x * held[0]

    return heavy

def dies(x):
    import os
    import sys

    if sys.argv[0].endswith("bare.py"):
        print("no more", file=sys.stderr, flush=True)
        os._exit(7)
    return x * 1

def tanh(x):
    return x * 1
"""


def test_memory(tmp_path: Path) -> None:
    text = PAIR.format("make") + "[model.budgets]\nmemory = '150 MB'\n"
    result = executed(gate(tmp_path, text, functions=HEAVY), "pair::budget[memory]")
    assert result.status == "BUDGET"
    assert result.budgets[0].measured == pytest.approx(200e6, rel=0.1)


def test_what_cannot_be_measured_fails(tmp_path: Path) -> None:
    text = PAIR.format("tanh") + "python = 'python3'\n[model.budgets]\nmemory = '1 GB'\n"
    result = executed(gate(tmp_path, text, functions=HEAVY), "pair::budget[memory]")
    assert (result.status, result.budgets[0].measured) == ("BUDGET", None)
    assert result.message == "budget memory: not measured: the artifact runs in another interpreter, python3"


def test_a_model_that_dies_while_it_is_measured(tmp_path: Path) -> None:
    """It lives in the gate's own process, where the two models are matched."""
    text = PAIR.format("dies") + "[model.budgets]\nmemory = '1 GB'\n"
    result = executed(gate(tmp_path, text, functions=HEAVY), "pair::budget[memory]")
    assert result.status == "BUDGET"
    assert result.message.endswith("functions:dies: its process ended with exit status 7: no more")
