"""What a batch owes its rows, judged on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isomorph.parity.drawing.strategies import Contract
from isomorph.parity.judging.metamorphic import judge_relations
from isomorph.parity.ledger import Ledger

from .pairs import kinds, make_pair
from .twin import TwinConversion, make_net

IMAGE = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
LAWS = {
    "rows do not influence each other", "permuted rows permute the outputs", "a batch equals its parts",
    "no gradient crosses rows",
}  # fmt: skip


class Rows(nn.Module):
    """A function of a linear layer's output."""

    def __init__(self, function: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(8, 6)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.linear(x))


def judge(*args: Any, **options: Any) -> tuple[Ledger, dict[str, Any]]:
    ledger, coverage = Ledger(), {}
    judge_relations(make_pair(*args, **options), ledger, coverage)
    return ledger, coverage


@pytest.mark.parametrize("about", [None, {"float64": False}])
def test_the_honest_twin_keeps_every_law(about: dict[str, Any] | None) -> None:
    net = make_net()
    ledger, coverage = judge(net, TwinConversion(net), IMAGE, about=about)
    assert not ledger.mismatches, ledger.mismatches
    assert set(coverage["relations"]["held"]) == LAWS
    assert all(coverage["relations"]["held"].values()), coverage
    assert not any(coverage["relations"]["no law"].values()), coverage
    assert coverage["relations"]["batch"] == "b"


WRONG = {
    "mean of the batch": lambda y: y + 1e-2 * y.mean(0, keepdim=True),
    "statistics of the batch": lambda y: (y - y.mean(0)) / (y.var(0, unbiased=False) + 1),
    "mixed by position": lambda y: y + torch.arange(len(y))[:, None],
    "one row leaks": lambda y: torch.cat([y[:1] + 0.01 * y[-1:], y[1:]]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("about", [None, {"float64": False}])
def test_rows_that_influence_each_other_are_caught(name: str, about: dict[str, Any] | None) -> None:
    ledger, _ = judge(Rows(), Rows(WRONG[name]), X, about=about)
    assert ("batch", "output") in kinds(ledger), ledger.mismatches


class Leaking(torch.autograd.Function):
    """The identity, with the gradient of the whole batch for every row."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient + 1e-3 * gradient.mean(0, keepdim=True)


def test_a_gradient_that_crosses_rows_is_caught() -> None:
    ledger, _ = judge(Rows(), Rows(lambda y: Leaking.apply(y)), X)
    assert kinds(ledger) == {("batch", "input gradient")}
    assert "no gradient crosses rows" in ledger.mismatches[0].message


def test_a_batch_that_is_not_its_parts_is_caught() -> None:
    """A twin that treats a batch of one differently."""

    def change(request: Any, response: Any) -> Any:
        if request.inputs[0].shape[0] == 1:
            return type(response)(tuple(o * 1.001 for o in response.outputs), response.dtypes, response.structure)
        return response

    net = make_net()
    ledger, _ = judge(net, TwinConversion(net), IMAGE, change=change)
    assert {(m.kind, m.name) for m in ledger.mismatches} == {("batch", "0"), ("batch", "1")}
    assert "parts" in ledger.mismatches[0].message


def test_what_is_no_law_of_the_original_is_not_asked_of_the_other() -> None:
    across = WRONG["mean of the batch"]
    ledger, coverage = judge(Rows(lambda y: (across(y), y)), Rows(lambda y: (across(y), y)), X)
    assert not ledger.mismatches
    no_law = coverage["relations"]["no law"]
    assert no_law["rows do not influence each other"] == ["output 0"]
    assert coverage["relations"]["held"]["rows do not influence each other"] == ["output 1"]
    assert no_law["no gradient crosses rows"] == ["input gradient x"]


def judge_fixed(x: Tensor) -> dict[str, Any]:
    """Coverage of an honest pair whose inputs have the example's sizes and no other."""
    pair = make_pair(Rows(), Rows(), x)
    fixed = tuple(replace(spec, dims=tuple(x.shape)) for spec in pair.contract.inputs)
    ledger, coverage = Ledger(), {}
    judge_relations(replace(pair, contract=Contract(fixed)), ledger, coverage)
    assert not ledger.mismatches
    return coverage


def test_fixed_shapes_are_judged_but_for_their_parts() -> None:
    coverage = judge_fixed(X)
    assert set(coverage["relations"]["held"]) == LAWS - {"a batch equals its parts"}
    assert any("fixed" in text for text in coverage["not_checked"])


def test_no_batch_is_said() -> None:
    coverage = judge_fixed(X[:1])
    assert "no batch of two" in coverage["not_checked"][0]
    assert "relations" not in coverage
