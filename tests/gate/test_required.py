"""Which checks a verdict must hold: pure, on verdicts that say what each stage did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from isomorph.parity.gate.policy import ModelEntry
from isomorph.parity.gate.policy_keys import CHECKS
from isomorph.parity.gate.required import judge, names
from isomorph.parity.verdict import Check, Verdict

ENTRY = ModelEntry("net", "a:b", artifact="c.keras")


def check(stage: str, quantity: str, mode: str = "eval", **counts: int) -> Check:
    given = {"equal": 0, "failed": 0, "inconclusive": 0, "vacuous": 0, **counts}
    return Check(stage, quantity, mode, "float64", sum(given.values()), **given, names=1)


FULL = (
    check("structure", "output", equal=24), check("structure", "output", "train", equal=8),
    check("structure", "parameter gradient", equal=24), check("structure", "buffer", "train", equal=8),
    check("randomised", "output", equal=3),
)  # fmt: skip
COVERED: Mapping[str, Any] = {
    "parameters": {"compared": ["w"], "untested": [], "chaotic": []},
    "buffers": {"compared": ["b"], "absent": []},
    "special": {"cases": 4},
    "relations": {"held": {"rows": ["output 0"]}},
    "determinism": {"eval": {"original": {}, "converted": {}}},
    "random": {"train": {"elements": 9}},
    "steps": {"optimizers": {"SGD": {"compared": 3, "inconclusive": ["parameter w"]}}},
    "not_checked": [],
}


def verdict(checks: tuple[Check, ...] = FULL, status: Any = "PASS", **covered: Any) -> dict[str, Any]:
    return Verdict(status, checks, (), {**COVERED, **covered}, 0, {}).to_dict()


def without(**fields: str) -> tuple[Check, ...]:
    """All that was compared but for what has these values."""
    return tuple(c for c in FULL if any(getattr(c, name) != value for name, value in fields.items()))


def asked(*checks: str) -> ModelEntry:
    return ModelEntry("net", "a:b", artifact="c.keras", checks=checks)


def test_everything_compared_something() -> None:
    for entry in (ENTRY, asked(*CHECKS)):
        found = judge(verdict(), entry, "both")
        assert (found.names, dict(found.unmet), dict(found.excused)) == (CHECKS, {}, {})


@pytest.mark.parametrize(
    ("name", "said", "own"),
    [
        ("outputs", verdict((check("structure", "output", inconclusive=3, vacuous=2),)), False),
        ("outputs", verdict((check("special", "output", equal=5),)), False),
        ("gradients", verdict(without(quantity="parameter gradient")), False),
        ("gradients", verdict(without(quantity="parameter gradient"), parameters={"compared": [], "untested": ["w"]}),
         False),
        ("gradients", verdict((*without(quantity="parameter gradient"), check("structure", "input gradient", equal=3)),
                              parameters={"compared": [], "untested": ["w"], "chaotic": []}), False),
        ("gradients", verdict(without(quantity="parameter gradient"), parameters={},
                              not_checked=["gradients: the second model gives none (onnx has none)"]), True),
        ("gradients", verdict(without(quantity="parameter gradient"), no_gradient={"eval": "no backward"}), True),
        ("gradients", verdict(without(quantity="parameter gradient"), parameters={}), True),
        ("buffers", verdict(without(quantity="buffer"), buffers={"compared": [], "absent": []}), True),
        ("buffers", verdict((*without(quantity="buffer"), check("structure", "buffer", vacuous=3))), False),
        ("train", verdict(without(mode="train", quantity="output")), False),
        ("train", verdict(without(mode="train", quantity="output"),
                          not_checked=["train mode: the second model has none"]), True),
        ("special", verdict(special={"cases": 0}, not_checked=["special values: the original refuses them"]), True),
        ("special", verdict(special=None, not_checked=["special values: no input takes them"]), True),
        ("special", verdict(special=None), False),
        ("randomised", verdict(without(stage="randomised")), False),
        ("randomised", verdict(without(stage="randomised"),
                               not_checked=["randomised weights: the converted model has none that could be set"]),
         True),
        ("randomised", verdict((*without(stage="randomised"), check("randomised", "output", vacuous=2))), False),
        ("steps", verdict(steps=None, not_checked=["optimizer steps: no parameter is trainable"]), True),
        ("steps", verdict(steps={"optimizers": {"SGD": {"compared": 1, "inconclusive": ["parameter w"]}}}), False),
        ("steps", verdict(steps={"optimizers": {"SGD": {"raised": "boom"}}}), False),
        ("relations", verdict(relations={"held": {"rows": []}}), True),
        ("relations", verdict(relations=None, not_checked=["relations of a batch: no input has an axis"]), True),
        ("relations", verdict(relations=None), False),
        ("determinism", verdict(determinism={"eval": {"original": {}}}), False),
        ("determinism", verdict(determinism={}, not_checked=["determinism of the converted model in train mode: x"]),
         True),
        ("dropout", verdict(random=None), True),
        ("dropout", verdict(random={"train": {"elements": 0}}), False),
        ("dropout", verdict(random={"train": {"elements": 0}},
                            not_checked=["the law of random draws in train mode: no output varies with them"]), True),
    ],
)  # fmt: skip
def test_what_compared_nothing(name: str, said: dict[str, Any], own: bool) -> None:
    """A policy that names the check is told; one that names none is told where the models could have done it."""
    explicit = judge(said, asked(name), "both")
    assert name in explicit.unmet
    assert explicit.excused == {}
    assert name in explicit.message
    default = judge(said, ENTRY, "both")
    assert (name in default.excused, name in default.unmet, name in default.names) == (own, not own, not own)


def test_outputs_are_always_required() -> None:
    assert names(asked(), "both") == ("outputs",)
    assert names(asked("steps"), "both") == ("outputs", "steps")
    assert judge(verdict(()), asked(), "both").unmet == {"outputs": "no output was judged"}


def test_time_that_was_short_is_no_excuse() -> None:
    said = verdict(special=None, not_checked=["special values: the budget of 3 s was spent"])
    assert "special" in judge(said, ENTRY, "both").unmet


def test_a_model_that_nothing_is_compared_of_after_a_mismatch() -> None:
    """Later stages are not begun: whoever requires them by name is told so, also if the mismatch is waived."""
    said = verdict(without(stage="randomised"), status="FAIL", special=None, steps=None, relations=None, random=None)
    found = judge(said, ENTRY, "both")
    assert found.unmet == {}
    assert set(found.excused) == {"special", "randomised", "steps", "relations", "dropout"}
    assert set(judge(said, asked("steps", "gradients"), "both").unmet) == {"steps"}


@pytest.mark.parametrize(
    ("change", "dtype", "gone"),
    [
        ({}, "both", set()),
        ({"level": "quick"}, "both", {"special", "randomised", "steps", "relations", "determinism", "dropout"}),
        ({"level": "quick", "steps": 1}, "both", {"special", "randomised", "relations", "determinism", "dropout"}),
        ({"steps": 0}, "both", {"steps"}),
        ({"modes": ("eval",)}, "both", {"train", "steps", "dropout"}),
        ({"modes": ("train",)}, "both", {"special", "relations"}),
        ({"backward": False}, "both", {"gradients", "steps"}),
        ({}, "own", {"randomised"}),
    ],
)
def test_what_is_required_by_default(change: dict[str, Any], dtype: str, gone: set[str]) -> None:
    assert set(CHECKS) - set(names(ModelEntry("net", "a:b", artifact="c", **change), dtype)) == gone
