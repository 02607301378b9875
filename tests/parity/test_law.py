"""The law of dropout: honest pairs are let pass, each way of getting it wrong is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity.judging.law import LEVEL, compare_samples, judge_dropout
from isomorph.parity.ledger import Ledger

from .pairs import kinds, make_pair
from .twin import TwinConversion, make_net

DRAWS = 64
HONEST = 1000


def masks(rng: np.random.Generator, rate: float, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.random(shape) >= rate) / (1 - rate)


@pytest.mark.slow
def test_a_thousand_honest_pairs_raise_no_alarm() -> None:
    """A round may exceed its level once in 1000 pairs; a check needs two rounds that do."""
    rng = np.random.default_rng(0)
    beyond = 0
    for index in range(HONEST):
        width, rate = int(rng.choice([1, 2, 5, 20])), float(rng.choice([0.01, 0.1, 0.5, 0.9]))
        values = rng.standard_normal(width) * 10.0 ** rng.uniform(-3, 3, width)
        first, second = (values * masks(rng, rate, (DRAWS, width)) for _ in range(2))
        if index % 3 == 0:  # heavy tails, and elements that depend on each other
            first, second = (np.exp(3 * rng.standard_normal((DRAWS, 1))) * a for a in (first, second))
        beyond += compare_samples(first, second, rng).differs
    assert beyond <= 6, beyond  # expected 1 at most; P(more than 6) is below 1e-4
    assert LEVEL**2 <= 1e-6


def test_the_p_values_of_honest_pairs_are_uniform_in_the_tail() -> None:
    rng = np.random.default_rng(1)
    found = [
        compare_samples(rng.standard_normal((16, 4)), rng.standard_normal((16, 4)), rng).p["mean"] for _ in range(400)
    ]
    assert 0.02 < np.mean(np.asarray(found) <= 0.05) < 0.09


OTHER_LAWS: dict[str, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "rate 0.1 and 0.2": lambda r: (masks(r, 0.1, (DRAWS, 32)), masks(r, 0.2, (DRAWS, 32))),
    "scale": lambda r: (masks(r, 0.1, (DRAWS, 32)), 0.9 * masks(r, 0.1, (DRAWS, 32))),
    "one mask for the batch": lambda r: (masks(r, 0.5, (DRAWS, 32)), np.tile(masks(r, 0.5, (DRAWS, 8)), (1, 4))),
    "channels, not elements": lambda r: (
        np.repeat(masks(r, 0.5, (DRAWS, 8)), 4, axis=1), masks(r, 0.5, (DRAWS, 32))),
    "off": lambda r: (masks(r, 0.1, (DRAWS, 32)), np.ones((DRAWS, 32))),
    "the same mask each time": lambda r: (masks(r, 0.5, (DRAWS, 32)), np.repeat(masks(r, 0.5, (1, 32)), DRAWS, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_LAWS)
def test_other_laws_are_told_apart(name: str) -> None:
    rng = np.random.default_rng(2)
    caught = sum(compare_samples(*OTHER_LAWS[name](rng), rng).differs for _ in range(10))
    assert caught == 10


class Dropped(nn.Module):
    """(n, 8, 4) -> the same: a convolution, a random layer, and something behind it."""

    def __init__(self, layer: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.conv(x), self.training))


X = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(0))


def rate(p: float) -> Callable[[Tensor, bool], Tensor]:
    return lambda y, training: F.dropout(y, p, training)


def shared(y: Tensor, training: bool) -> Tensor:
    return y * F.dropout(torch.ones_like(y[:1]), 0.1, training)


LAYERS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "rate": rate(0.2),
    "scale": lambda y, training: F.dropout(y, 0.1, training) * (0.9 if training else 1.0),
    "one mask for the batch": shared,
    "channels": lambda y, training: F.dropout1d(y, 0.1, training),
    "off": lambda y, training: y,
}


def judge(*args: Any, **options: Any) -> tuple[Ledger, dict[str, Any]]:
    ledger, coverage = Ledger(), {}
    judge_dropout(make_pair(*args, **options), ledger, coverage)
    return ledger, coverage


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_honest_models_pass(p: float) -> None:
    ledger, coverage = judge(Dropped(rate(p)), Dropped(rate(p)), X)
    assert not ledger.mismatches, ledger.mismatches
    assert coverage["random"]["train"]["elements"] == X.numel()
    assert "eval" not in coverage["random"]


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_dropout_is_caught(name: str) -> None:
    ledger, _ = judge(Dropped(rate(0.1)), Dropped(LAYERS[name]), X)
    assert {(m.kind, m.quantity, m.mode) for m in ledger.mismatches} == {("random", "output", "train")}


@pytest.mark.parametrize("name", ["", "rate", "off"])
def test_a_model_whose_draws_cannot_be_replayed_is_judged_by_its_law(name: str) -> None:
    converted = Dropped(LAYERS[name] if name else rate(0.1))
    ledger, coverage = judge(Dropped(rate(0.1)), converted, X, about={"replays": False})
    assert kinds(ledger) == ({("random", "output")} if name else set()), coverage


def test_dropout_left_on_in_eval_mode_is_caught() -> None:
    ledger, _ = judge(Dropped(rate(0.1)), Dropped(lambda y, training: F.dropout(y, 0.1, True)), X)
    assert {m.mode for m in ledger.mismatches} == {"eval"}
    assert "draws at random where the original does not" in ledger.mismatches[0].message


@pytest.mark.parametrize("fault", ["", "dropout scale", "dropout off"])
def test_the_draws_of_a_conversion_are_judged_too(fault: str) -> None:
    """Its sites' own draws, which the structure stage never sees: there they are replayed."""
    image = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    net = make_net()
    ledger, coverage = judge(net, TwinConversion(net, fault), image)
    assert kinds(ledger) == ({("random", "output")} if fault else set()), (ledger.mismatches, coverage)
    assert coverage["random"]["train"]["elements"] == 20


def test_a_level_without_draws_says_so() -> None:
    ledger, coverage = judge(Dropped(rate(0.1)), Dropped(rate(0.2)), X, level="quick")
    assert not ledger.mismatches
    assert "quick" in coverage["not_checked"][0]
