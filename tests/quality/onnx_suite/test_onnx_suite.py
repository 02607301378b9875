"""The ONNX project's backend tests, strictly: the model as it is given; number, shape, dtype and value of outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.quality.onnx_suite import judge as module
from tests.quality.onnx_suite.cases import Case, cases
from tests.quality.onnx_suite.expected import FAILS, UNREACHED
from tests.quality.onnx_suite.judge import judge

PASSING = 1850  # of 2024; the best importer elsewhere passes 1701


def listed(case: Case) -> object:
    marks = [pytest.mark.xfail(reason=FAILS[case.id], strict=True)] if case.id in FAILS else []
    return pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", map(listed, cases()))
def test_a_case_passes_and_its_gradient_flows(case: Case) -> None:
    outcome = judge(case)
    assert outcome.passed, f"{outcome.result}: {outcome.text}"
    if outcome.gradient is not None:
        assert outcome.gradient == (case.id not in UNREACHED), (
            f"{UNREACHED.get(case.id, 'no gradient')}: {outcome.text}"
        )


def test_the_tables_name_cases_of_the_suite_and_leave_enough() -> None:
    """With the strict marks above this is the number that passes: each listed case fails, each other one passes."""
    ids = [case.id for case in cases()]
    assert len(set(ids)) == len(ids) == 2024
    assert set(FAILS) <= set(ids)
    assert set(UNREACHED) <= set(ids) - set(FAILS)
    assert all(reason.strip() for reason in (*FAILS.values(), *UNREACHED.values()))
    assert len(ids) - len(FAILS) >= PASSING


@pytest.mark.parametrize(
    ("spoil", "result"),
    [
        (lambda y: y, "pass"),
        (lambda y: y * 1.01, "value"),
        (lambda y: y.double(), "dtype"),
        (lambda y: y[None], "shape"),
        (lambda y: (y, y), "number"),
        (lambda y: [y], "dtype"),
        (lambda y: y.numpy().tolist().missing, "run"),
        (lambda y: time.sleep(2), "time"),
    ],
    ids=["right", "value", "dtype", "shape", "number", "sequence", "error", "hang"],
)
def test_the_judge_sees_what_is_wrong(
    spoil: Callable[[Any], Any], result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(module, "SECONDS", 1)
    case = next(c for c in cases() if c.id == "node/test_softplus")
    outcome = judge(case, lambda model: lambda x: spoil(torch.nn.functional.softplus(x)))
    assert outcome.result == result, outcome.text
    assert outcome.gradient is (True if result == "pass" else None)
    assert judge(case, lambda model: 1 / 0).result == "load"
    cut = judge(case, lambda model: lambda x: torch.nn.functional.softplus(x.detach()))
    assert (cut.passed, cut.gradient) == (True, False)
