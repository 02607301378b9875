"""Quantised artifacts against their stated budget, half-precision ones norm-wise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isomorph.parity.drawing.strategies import plan
from isomorph.parity.judging.quantised import budgeted, compare_to_budget, judge_budget, judge_quantised
from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import Request, Response

from .pairs import kinds, make_pair

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """(n, 8) -> (n, 5)."""

    def __init__(self, scale: float = 1.0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 5)
        self.scale, self.dtype = scale, dtype

    def forward(self, x: Tensor) -> Tensor:
        if self.dtype is None:
            return self.scale * self.second(torch.tanh(self.first(x)))
        half = [p.to(self.dtype) for p in self.parameters()]
        hidden = torch.tanh(nn.functional.linear(x.to(self.dtype), half[0], half[1]))
        return self.scale * nn.functional.linear(hidden, half[2], half[3]).to(x.dtype)


def rounded(bits: int, low: float = -3.0, high: float = 3.0) -> Callable[[Request, Response], Response]:
    """Outputs as an integer artifact of that many bits gives them, saturating at the ends of its range."""
    step = (high - low) / (2**bits - 1)

    def change(request: Request, response: Response) -> Response:
        outputs = tuple(np.clip(np.round(o / step) * step, low, high).astype(o.dtype) for o in response.outputs)
        return replace(response, outputs=outputs)

    return change


def judge(converted: nn.Module, precision: str, **options: Any) -> tuple[Ledger, dict[str, Any]]:
    ledger, coverage = Ledger(), {}
    about = {"precision": precision, "float64": False, "gradients": False}
    pair = make_pair(Net(), converted, X, about=about, **options)
    assert budgeted(pair)
    for case in plan(pair.contract, 6, 0, "eval"):
        example = pair.example("eval", replace(case, distribution="normal"), backward=precision == "bfloat16")
        assert example is not None
        judge_quantised(pair, example, ledger)
    judge_budget(pair, ledger, coverage)
    ledger.settle()
    return ledger, coverage


def test_eight_bits_are_within_their_budget() -> None:
    ledger, coverage = judge(Net(), "int8", change=rounded(8))
    assert not ledger.mismatches, ledger.mismatches
    found = coverage["quantised"]["0"]
    assert 0.001 < found["error"] < found["budget"] == 0.1
    assert found["argmax"] > 0.95
    assert found["saturated"] == 0.0
    assert {c.stage for c in ledger.checks} == {"precision", "quantised"}


@pytest.mark.parametrize("wrong", ["three bits", "scale", "saturated"])
def test_what_is_beyond_the_budget_is_rejected(wrong: str) -> None:
    change = {"three bits": rounded(3), "scale": rounded(8), "saturated": rounded(8, -0.3, 0.3)}[wrong]
    ledger, coverage = judge(Net(1.2 if wrong == "scale" else 1.0), "int8", change=change)
    assert kinds(ledger) == {("precision", "output")}
    assert (coverage["quantised"]["0"]["saturated"] > 0.1) == (wrong == "saturated")


def test_another_budget_can_be_stated() -> None:
    assert judge(Net(1.02), "int8", change=rounded(8))[0].mismatches == ()
    assert judge(Net(1.02), "int8", change=rounded(8), tolerances={"int8": 0.01})[0].mismatches
    assert judge(Net(1.02), "float16-weights")[0].mismatches


def test_inputs_stay_in_the_range_that_the_artifact_states() -> None:
    """Beyond it the artifact saturates by right."""

    def clipped(request: Request, response: Response) -> Response:
        assert all(float(np.abs(a).max()) <= 1.0 for a in request.inputs)
        return response

    pair = make_pair(Net(), Net(), X, about={"precision": "int8", "float64": False}, change=clipped)
    ports = tuple(replace(port, low=-1.0, high=1.0) for port in pair.converted.about().inputs)
    pair = make_pair(Net(), Net(), X, about={"precision": "int8", "float64": False, "inputs": ports}, change=clipped)
    ledger, coverage = Ledger(), {}
    judge_budget(pair, ledger, coverage)
    assert coverage["quantised"]["0"]["error"] < 1e-6


def test_examples_of_other_kinds_are_run_but_no_evidence() -> None:
    pair = make_pair(Net(), Net(1.5), X, about={"precision": "int8", "float64": False})
    ledger = Ledger()
    for case in plan(pair.contract, 6, 0, "eval"):
        example = pair.example("eval", replace(case, distribution="large"), backward=False)
        assert example is not None
        assert judge_quantised(pair, example, ledger) == {("output", "0"): "inconclusive"}
    ledger.settle()
    assert not ledger.mismatches
    assert not ledger.checks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_judged_by_its_own_rounding(dtype: torch.dtype) -> None:
    name = str(dtype).rpartition(".")[2]
    ledger, _ = judge(Net(1.0, dtype), name)
    assert not ledger.mismatches, ledger.mismatches
    assert sum(c.equal for c in ledger.checks if c.quantity == "output") == 6
    ledger, _ = judge(Net(1.1 if name == "bfloat16" else 1.02, dtype), name)
    assert {m.quantity for m in ledger.mismatches} >= {"output"}


def test_the_budget_is_the_root_mean_square_over_the_deviation() -> None:
    reference = np.asarray([9.0, 10.0, 11.0])
    finding = compare_to_budget(reference, reference + 0.1, 0.2)
    assert finding.outcome == "equal"
    assert finding.relative == pytest.approx(0.1 / np.std(reference))
    assert compare_to_budget(reference, reference + 0.2, 0.2).outcome == "precision"
    assert compare_to_budget(reference, reference * np.nan, 0.2).outcome == "nonfinite"
    assert compare_to_budget(reference, reference[:2], 0.2).outcome == "shape"
    assert compare_to_budget(0 * reference, reference, 0.2).outcome == "vacuous"
