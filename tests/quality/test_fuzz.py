"""Random modules: torch, converted, and the verdict on it. `python -m tests.quality.fuzz` runs as many as you like."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from isomorph.parity.fuzzing.modules import Program, grow, modules
from tests.quality import fuzz

PROGRAMS = 25


@settings(
    max_examples=PROGRAMS,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),  # python -m tests.quality.fuzz shrinks
    suppress_health_check=list(HealthCheck),
)
@given(modules(max_size=6))
def test_a_random_module_is_converted_and_passes(program: Program) -> None:
    result, details = fuzz.outcome(program)
    assume(result != "NOTHING_COMPARED")  # its output is a constant, up to rounding: the sum of what is normalised
    assert result == "PASS", f"{program}\n{details}"


@pytest.mark.parametrize("number", range(2))
def test_a_genome_is_the_same_for_the_same_seed(number: int) -> None:
    assert fuzz.genome(number).program().source() == fuzz.genome(number).program().source()
    assert fuzz.genome(number).program().source() != fuzz.genome(number + 2).program().source()


def test_failures_are_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the one step that is needed, in its simplest form."""

    def judged(program: Program, level: str = "quick") -> tuple[str, str]:
        return ("FAIL" if any(step.production == "softmax" for step in program.steps) else "PASS"), ""

    monkeypatch.setattr(fuzz, "outcome", judged)
    found = next(g for g in map(fuzz.genome, range(1000)) if judged(g.program())[0] == "FAIL" and len(g.genes) > 6)
    small = fuzz.shrink(found, "FAIL", "quick", 30.0).program()
    assert [step.production for step in small.steps].count("softmax") == 1
    assert len(small.steps) <= 2, str(small)


def test_a_wrong_conversion_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net is not so coarse that anything passes: a conversion of another program fails."""
    import isomorph

    right = grow([("linear", 0), ("softmax", 0)], ["vector"])
    wrong = grow([("linear", 0), ("softmax", 8)], ["vector"])
    assert wrong.source() != right.source()
    convert = isomorph.to_keras
    monkeypatch.setattr(isomorph, "to_keras", lambda module, inputs: convert(*wrong.build()))
    assert fuzz.outcome(right)[0] == "FAIL value output"
