"""A model that answers the same question in two ways is noticed on either side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isomorph.parity.judging.determinism import judge_determinism
from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import Request, Response

from .pairs import kinds, make_pair
from .twin import TwinConversion, make_net

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A linear layer; `size` is the noise, from a generator that no seed reaches, that each call adds."""

    def __init__(self, size: float = 0.0, mode: str = "both", width: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(8, width)
        self.size, self.mode = size, mode

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if not self.size or self.mode == ("eval" if self.training else "train"):
            return y
        noise = np.random.default_rng().standard_normal(tuple(y.shape))
        return y + self.size * torch.from_numpy(noise).to(y.dtype)


def judge(*args: Any, **options: Any) -> tuple[Ledger, dict[str, Any]]:
    ledger, coverage = Ledger(), {}
    judge_determinism(make_pair(*args, **options), ledger, coverage)
    return ledger, coverage


def test_deterministic_models_are_bit_identical_with_their_draws_replayed() -> None:
    net = make_net()
    ledger, coverage = judge(net, TwinConversion(net), IMAGE)
    assert not ledger.mismatches
    assert coverage["determinism"] == {mode: {"original": {}, "converted": {}} for mode in ("eval", "train")}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_converted_model_that_draws_is_caught_in_its_mode(mode: str) -> None:
    ledger, coverage = judge(Net(), Net(0.01, mode), X)
    assert {(m.kind, m.quantity, m.mode) for m in ledger.mismatches} == {("nondeterministic", "output", mode)}
    assert 1e-4 < coverage["determinism"][mode]["converted"]["output 0"] < 1


def test_rounding_is_no_nondeterminism() -> None:
    """A reduction in another order each time, as on a GPU."""
    ledger, coverage = judge(Net(), Net(1e-7), X)
    assert not ledger.mismatches
    assert coverage["determinism"]["eval"]["converted"]["output 0"] > 0
    assert judge(Net(), Net(1e-4), X)[0].mismatches


def test_an_original_that_differs_from_itself_sets_the_standard_of_shape_and_dtype_alone() -> None:
    ledger, coverage = judge(Net(0.1), Net(0.1), X)
    assert not ledger.mismatches
    assert coverage["determinism"]["eval"]["original"]["output 0"] > 1e-3
    assert any("two ways" in text for text in ledger.warnings)
    ledger, _ = judge(Net(0.1), Net(0.1, width=5), X)
    assert kinds(ledger) == {("shape", "output")}


def test_gradients_count_too() -> None:
    noise = np.random.default_rng(0)

    def change(request: Request, response: Response) -> Response:
        moved = {n: g + 1e-2 * noise.standard_normal(g.shape) for n, g in response.parameter_gradients.items()}
        return replace(response, parameter_gradients=moved)

    ledger, _ = judge(Net(), Net(), X, change=change)
    assert kinds(ledger) == {("nondeterministic", "parameter gradient")}


class Dropped(Net):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(x), 0.5, self.training)


def test_what_cannot_be_replayed_is_asked_without_dropout() -> None:
    ledger, coverage = judge(Dropped(), Dropped(), X, about={"replays": False})
    assert not ledger.mismatches
    assert coverage["determinism"]["train"]["converted"] == {}
