"""K optimizer steps stay together, or the stage says where they part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity.judging.training import Adam, Momentum, judge_steps
from isomorph.parity.ledger import Ledger

from .pairs import kinds, make_pair
from .twin import TwinConversion, make_net

IMAGE = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def judge(*args: Any, **options: Any) -> tuple[Ledger, dict[str, Any]]:
    ledger, coverage = Ledger(), {}
    judge_steps(make_pair(*args, **options), ledger, coverage)
    return ledger, coverage


def test_the_honest_twin_stays_together_and_really_moves() -> None:
    net = make_net()
    conversion = TwinConversion(net)
    before = [np.array(v) for v in conversion.model.variables]
    ledger, coverage = judge(net, conversion, IMAGE)
    assert not ledger.mismatches, ledger.mismatches
    found = {c.quantity: c for c in ledger.checks}
    assert set(found) == {"parameter", "buffer"}
    assert found["parameter"].equal >= 14  # of 2 x 8: the bias before the batch norm has no gradient but rounding
    assert found["buffer"].equal == 6
    assert coverage["steps"]["mode"] == "train"
    assert coverage["steps"]["optimizers"]["Adam"]["moved"] == 7
    assert all(np.array_equal(a, np.array(v)) for a, v in zip(before, conversion.model.variables, strict=True))


# bug -> (kind, quantity): what a single forward and backward may show too is caught here again
BUGS = {
    "swapped momentum": ("value", "buffer"),
    "buffer not updated": ("value", "buffer"),
    "biased variance": ("value", "buffer"),
    "running statistics": ("value", "parameter"),
    "frozen": ("value", "parameter"),
    "dropout scale": ("value", "parameter"),
    "epsilon": ("value", "parameter"),
    "dropout off": ("raised", "signature"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_part(bug: str) -> None:
    ledger, _ = judge(make_net(), TwinConversion(make_net(), bug), IMAGE)
    assert BUGS[bug] in kinds(ledger), (ledger.mismatches, ledger.checks)


def test_a_frozen_parameter_that_is_trained_is_caught_and_names_the_optimizer() -> None:
    net = make_net()
    net.conv.weight.requires_grad_(False)
    ledger, _ = judge(net, TwinConversion(net), IMAGE)
    assert not ledger.mismatches
    ledger, _ = judge(net, TwinConversion(net, "thawed"), IMAGE)
    wrong = [m for m in ledger.mismatches if m.name == "conv.weight"]
    assert wrong
    assert "steps of" in wrong[0].message


class Tied(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight if tied else nn.Parameter(self.first.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_an_untied_weight_parts_at_the_first_step() -> None:
    assert not judge(Tied(True), Tied(True), X)[0].mismatches
    ledger, _ = judge(Tied(True), Tied(False), X)
    assert {m.name for m in ledger.mismatches} >= {"first.weight", "second.weight"}


class Stateful(nn.Module):
    """Scales by a buffer that it updates: whether the buffer is carried from step to step shows at the second step."""

    def __init__(self, used: bool, dropout: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(8, 4)
        self.register_buffer("scale", torch.ones(()))
        self.used, self.dropout = used, dropout

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.clone() if self.used else 1.0
        if self.training:
            self.scale = self.scale * 1.5
        y = self.linear(x) * scale
        return F.dropout(y, 0.5, self.training) if self.dropout else y


def test_a_buffer_that_is_updated_but_not_used_shows_at_the_second_step() -> None:
    assert not judge(Stateful(True), Stateful(True), X)[0].mismatches
    ledger, _ = judge(Stateful(True), Stateful(False), X)
    assert {(m.kind, m.name) for m in ledger.mismatches} == {("value", "linear.weight"), ("value", "linear.bias")}


class Chaotic(nn.Module):
    def __init__(self, expanded: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 8))
        self.expanded = expanded

    def forward(self, x: Tensor) -> Tensor:
        z = torch.sigmoid(x * self.weight)
        for _ in range(45):
            z = 3.99 * z - 3.99 * z * z if self.expanded else 3.99 * z * (1 - z)
        return z


def test_chaos_is_inconclusive() -> None:
    ledger, coverage = judge(Chaotic(False), Chaotic(True), X)
    assert not ledger.mismatches
    assert sum(c.inconclusive for c in ledger.checks) == 2
    assert coverage["steps"]["optimizers"]["SGD"]["inconclusive"] == ["parameter weight"]


class Tie(nn.Module):
    """A parameter at the kink of a ReLU, with torch's subgradient there or the other one."""

    def __init__(self, other: bool) -> None:
        super().__init__()
        self.bias, self.scale = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.ones(8))
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.where(self.bias >= 0, self.bias, 0 * self.bias) if self.other else F.relu(self.bias)
        return x * self.scale + bias


@pytest.mark.parametrize("excused", [False, True])
def test_what_follows_from_an_excused_kink_is_excused(excused: bool) -> None:
    ledger = Ledger(strict=False)
    if excused:
        ledger.kinds["kink"] = 1  # the structure stage has met it
    judge_steps(make_pair(Tie(False), Tie(True), X), ledger, {})
    assert bool(ledger.mismatches) is not excused, ledger.mismatches
    assert any("kink" in text for text in ledger.warnings) is excused


def test_without_float64_it_is_judged_at_the_models_own_precision() -> None:
    net = make_net()
    ledger, _ = judge(net, TwinConversion(net), IMAGE, about={"float64": False})
    assert not ledger.mismatches, ledger.mismatches
    assert sum(c.equal for c in ledger.checks) >= 20
    for bug in ("frozen", "swapped momentum", "dropout scale"):
        ledger, _ = judge(net, TwinConversion(net, bug), IMAGE, about={"float64": False})
        assert ledger.mismatches, bug


def test_what_cannot_be_replayed_is_trained_without_dropout() -> None:
    pair = make_pair(Stateful(True, True), Stateful(True, True), X, about={"replays": False})
    ledger, coverage = Ledger(), {}
    judge_steps(pair, ledger, coverage)
    assert not ledger.mismatches, ledger.mismatches
    assert coverage["steps"]["mode"] == "train"


def test_what_is_left_out_is_said() -> None:
    net = make_net()
    for options, word in (
        ({"level": "quick"}, "quick"),
        ({"about": {"gradients": False, "missing": {"gradients": "LiteRT has no gradients"}}}, "LiteRT"),
    ):
        ledger, coverage = judge(net, TwinConversion(net), IMAGE, **options)
        assert word in coverage["not_checked"][0]
        assert not ledger.checks


def test_the_optimizers_are_torchs() -> None:
    start, gradients = torch.tensor([1.0, -2.0]), [torch.tensor([0.3, -1.0]), torch.tensor([0.1, 0.4])]
    for mine, make in (
        (Momentum(0.1), lambda p: torch.optim.SGD([p], 0.1, momentum=0.9)),
        (Adam(0.1, 1e-8), lambda p: torch.optim.Adam([p], 0.1)),
    ):
        parameter = nn.Parameter(start.double())
        theirs, here = make(parameter), start.double().numpy().copy()
        for gradient in gradients:
            parameter.grad = gradient.double()
            theirs.step()
            here = here + mine.step("p", gradient.double().numpy())
        assert np.allclose(here, parameter.detach().numpy(), rtol=1e-7)
