"""The text of a failure, from verdicts that are written down here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from isomorph.parity.pytest_plugin.message import failure_text, headline
from isomorph.parity.record import Result
from isomorph.parity.verdict import Case, Counterexample, Located, Mismatch, ModuleError, Verdict

CASE = Case("normal", 3, (("b", 2),))
VALUE = Mismatch(
    "value", "output", "0", "eval", "float64", case=CASE, error=0.5, tolerance=1e-12, position=(1, 0), expected=1.25,
    got=1.75, failing=3, elements=4,
)  # fmt: skip
SHAPE = Mismatch("shape", "output", "logits", message="expected [2, 3], got [3, 2]")


def verdict(*mismatches: Mismatch, **more: Any) -> Verdict:
    return Verdict("FAIL" if mismatches else "PASS", (), mismatches, more.pop("coverage", {}), 7, **more)


def text(said: Verdict, **more: Any) -> list[str]:
    result = Result("t", said.status, headline(said), "Net", "Model", device="cpu")
    lines = failure_text(replace(result, **more), said, "/tmp/r", "pytest t.py::t --parity-seed 7").splitlines()
    assert lines[-2:] == ["reproducer: /tmp/r", "seed 7, cpu; again: pytest t.py::t --parity-seed 7"]
    return lines[:-2]


def test_the_headline_says_expected_and_got() -> None:
    assert headline(verdict(VALUE)) == "output 0 (value): expected 1.25, got 1.75 at [1, 0], 3 of 4 elements"
    assert headline(verdict(SHAPE)) == "output logits (shape): expected [2, 3], got [3, 2]"
    assert headline(verdict()) == ""
    assert headline(replace(verdict(coverage={"reason": "all too chaotic"}), status="ERROR")) == "all too chaotic"


def test_the_headline_is_of_what_the_counterexample_shows() -> None:
    example = Counterexample("value", "output", "0", "eval", CASE, {})
    assert headline(verdict(SHAPE, VALUE, counterexample=example)).startswith("output 0 (value)")
    assert headline(verdict(SHAPE, VALUE)).startswith("output logits (shape)")


def test_the_counterexample_is_shown_as_it_lies_in_its_shape() -> None:
    inputs = {
        "x": {"shape": [2, 2], "dtype": "float32", "nonzero": 1, "values": [0.0, 0.0, 0.0, 1.5]},
        "n": {"shape": [], "dtype": "int64", "nonzero": 1, "values": [3]},
        "odd": {"shape": [2], "dtype": "float32", "nonzero": 2, "values": ["nan", -0.0]},
        "image": {"shape": [1, 9, 9], "dtype": "float32", "nonzero": 5, "values": None},
        "black": {"shape": [1, 9, 9], "dtype": "float32", "nonzero": 0, "values": None},
    }
    example = Counterexample("value", "output", "0", "eval", CASE, inputs, shrunk=True, runs=12)
    lines = text(verdict(VALUE, counterexample=example))
    at = lines.index("smallest example: eval mode, normal seed=3 b=2, values simplified, 12 runs")
    assert lines[at + 1 : at + 6] == [
        "  x = float32[2, 2] [[0, 0], [0, 1.5]]",
        "  n = int64[] 3",
        "  odd = float32[2] [nan, -0]",
        "  image = float32[1, 9, 9] 5 elements are not zero",
        "  black = float32[1, 9, 9] all zero",
    ]


def test_an_empty_example_has_a_shape_and_no_values() -> None:
    inputs = {"x": {"shape": [0, 2], "dtype": "float32", "nonzero": 0, "values": []}}
    example = Counterexample("value", "output", "0", "eval", CASE, inputs)
    assert "  x = float32[0, 2] []" in text(verdict(VALUE, counterexample=example))


def test_the_module_and_its_neighbours_and_causes() -> None:
    modules = tuple(ModuleError(f"m{i}", "Linear", 0, "", 1e-9 * i, None, 1e-12) for i in range(40))
    located = Located(
        "forward", "m20", "Linear", causes=("transposed", "another bias"), modules=modules, note="by hand"
    )
    lines = text(verdict(VALUE, located=(located, Located("backward", "", ""))))
    at = lines.index("parts forward at m20 (Linear)")
    assert lines[at + 1 : at + 4] == ["  likely: transposed", "  likely: another bias", "  by hand"]
    shown = [line for line in lines if "own error" in line]
    assert 3 <= len(shown) <= 8
    assert [line for line in shown if line.startswith(" > ")] == [" > m20: own error 2.0e-08, accumulated -"]
    assert "parts backward at the model itself" in lines


def test_what_is_long_is_cut_and_says_so() -> None:
    coverage = {
        "parameters": {"untested": [f"w{i}" for i in range(9)]}, "not_checked": [f"stage {i}" for i in range(6)],
        "warnings": ["one"],
    }  # fmt: skip
    lines = text(verdict(*[replace(VALUE, name=str(i)) for i in range(9)], coverage=coverage))
    assert sum(line.startswith("  - ") for line in lines) == 5
    assert "  ... and 4 more" in lines
    assert "not judged: the gradient of w0, w1, w2, w3, ..." in lines
    assert lines[-3:] == ["not checked: stage 3", "not checked: ... and 2 more", "warning: one"]


def test_a_regression_leads_with_what_grew() -> None:
    lines = text(verdict(), status="REGRESSION", message="regression: error 3e-9")
    assert lines == ["REGRESSION: Net and Model: regression: error 3e-9"]
