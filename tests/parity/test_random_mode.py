"""The original's draws, recorded and replayed; and a float32 program run in true float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity.modes.random_mode import (
    Float64Mode,
    IndexBounds,
    RandomReplayError,
    RandomTape,
    WithoutDropout,
    eager_control_flow,
    torch_dtype_limits_of,
)

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

DRAWING = {
    "dropout": (lambda x: F.dropout(x, 0.4, True), ["aten.bernoulli_.float"]),
    "dropout2d": (lambda x: F.dropout2d(x, 0.4, True), ["aten.bernoulli_.float"]),
    "alpha_dropout": (lambda x: F.alpha_dropout(x, 0.4, True), ["aten.bernoulli_.float"]),
    "rrelu": (lambda x: F.rrelu(x, training=True), ["aten.rrelu_with_noise.default"]),
    "rand": (lambda x: x * torch.rand(4), ["aten.rand.default"]),
    "randn_like": (lambda x: x + torch.randn_like(x), ["aten.randn_like.default"]),
    "bernoulli": (lambda x: x * torch.bernoulli(torch.full((4,), 0.5)), ["aten.bernoulli.default"]),
    "randperm": (lambda x: x[..., torch.randperm(4)], ["aten.randperm.default"]),
    "normal_": (lambda x: x + torch.empty(4).normal_(), ["aten.normal_.default"]),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3), ["aten.bernoulli_.float"]),
    "gumbel": (lambda x: F.gumbel_softmax(x), ["aten.exponential_.default"]),
    "two": (lambda x: F.dropout(torch.randn_like(x) + x), ["aten.randn_like.default", "aten.bernoulli_.float"]),
}
SILENT = {
    "eval dropout": lambda x: F.dropout(x, 0.4, False),
    "rate 0": lambda x: F.dropout(x, 0.0, True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "eval rrelu": lambda x: F.rrelu(x, training=False),
}


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("double", [False, True])
def test_a_replay_gives_the_recorded_numbers(name: str, double: bool) -> None:
    function, ops = DRAWING[name]
    torch.manual_seed(1)
    with RandomTape() as tape:
        expected = function(X)
    assert [draw.op for draw in tape.draws] == ops
    torch.manual_seed(2)
    if double:
        with Float64Mode(), RandomTape(tape.draws) as again:
            got = function(X.double())
        assert got.dtype == torch.float64
    else:
        with RandomTape(tape.draws) as again:
            got = function(X)
    assert len(again.draws) == len(ops)
    assert torch.allclose(got.float(), expected, atol=1e-5)
    assert not torch.equal(function(X), expected)  # without a replay it draws anew


@pytest.mark.parametrize("name", SILENT)
def test_what_draws_nothing_is_not_recorded(name: str) -> None:
    with RandomTape() as tape:
        SILENT[name](X)
    assert tape.draws == []


def test_another_order_shape_or_number_is_refused() -> None:
    with RandomTape() as tape:
        torch.rand(3)
    with pytest.raises(RandomReplayError, match=r"aten\.randn"), RandomTape(tape.draws):
        torch.randn(3)
    with pytest.raises(RandomReplayError, match=r"\[4\]"), RandomTape(tape.draws):
        torch.rand(4)
    with RandomTape(tape.draws):
        torch.rand(3)
        with pytest.raises(RandomReplayError, match="was not recorded"):
            torch.rand(3)


class Casting(nn.Module):
    """All the ways in which a float32 program names its dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).float() * torch.tensor(0.1)
        y = y / torch.arange(1, 5) + torch.arange(4) / 3 + torch.ones(4) / 3
        y = (
            y
            + torch.linspace(0, 1, 4)
            + torch.full((4,), 0.3)
            + torch.zeros(4, dtype=torch.float32)
            + 1 / torch.arange(1, 5)
        )
        return torch.softmax(y, -1, dtype=torch.float32) + y.to(torch.float32).sum(dtype=torch.float32)


def test_a_program_that_names_float32_runs_in_true_float64() -> None:
    module = Casting()
    twin = Casting().double()
    twin.load_state_dict(module.state_dict())
    x = torch.randn(3, 4)
    with Float64Mode():
        got = twin(x.double())
    tenth = np.float64(np.float32(0.1))  # the constant is the float32 one
    w, b = (p.detach().double().numpy() for p in (module.linear.weight, module.linear.bias))
    y = (x.double().numpy() @ w.T + b) * tenth
    y = y / np.arange(1, 5) + np.arange(4) / 3 + 1 / 3
    y = y + np.linspace(0, 1, 4) + 0.3 + 1 / np.arange(1, 5)
    e = np.exp(y - y.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True) + y.sum()
    assert got.dtype == torch.float64
    assert np.allclose(got.detach().numpy(), expected, rtol=1e-13)


def test_an_assigned_number_is_the_narrow_one() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    with Float64Mode():
        x[:, 1] = 0.2
        x[x == 0] = 0.3
    assert x.tolist() == [[float(np.float32(v)) for v in (0.3, 0.2, 0.3)]] * 2


def test_gradients_are_float64_too() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with Float64Mode():
        y = (x.float() ** 3).sum()
        (gradient,) = torch.autograd.grad(y, x)
    assert torch.equal(gradient, 3 * x.detach() ** 2)


def test_dtype_limits_are_those_of_the_program() -> None:
    with torch_dtype_limits_of(torch.float32):
        assert torch.finfo(torch.float64).eps == 2.0**-23
        assert torch.finfo(torch.float16).eps == 2.0**-10
        assert torch.finfo().eps == 2.0**-23
    assert torch.finfo(torch.float64).eps == 2.0**-52


def test_embedding_bounds_are_seen_through_views_and_casts() -> None:
    ids, types, other = (
        torch.zeros(2, 3, dtype=torch.int32),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64),
    )
    watch = IndexBounds({"ids": ids, "types": types, "other": other})
    with watch:
        F.embedding(ids.long().view(-1), torch.zeros(11, 4))
        F.embedding(types[:, 1:], torch.zeros(5, 4))
        F.embedding(types, torch.zeros(2, 4))
        torch.nn.functional.one_hot(other, 3)
    assert watch.bounds == {"ids": 11, "types": 2}


def test_cond_runs_the_branch_it_chooses() -> None:
    with eager_control_flow():
        assert torch.cond(torch.tensor(True), lambda x: x + 1, lambda x: x - 1, (torch.tensor(1),)) == 2
        assert torch.cond(torch.tensor(False), lambda x: x + 1, lambda x: x - 1, (torch.tensor(1),)) == 0


def test_without_dropout_nothing_is_random_and_batch_norm_still_trains() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.alpha, self.leak = nn.Dropout(0.5), nn.AlphaDropout(0.3), nn.RReLU()
            self.lstm = nn.LSTM(4, 4, 2, dropout=0.5, batch_first=True)
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.lstm(self.drop(x))[0]
            x = self.attention(x, x, x)[0]
            x = nn.functional.dropout(torch.dropout(x, 0.4, True), p=0.2)
            return self.norm(self.leak(self.alpha(x)))

    net, x = Net(), torch.randn(2, 3, 4)
    with WithoutDropout():
        first, second = net(x), net(x)
    assert torch.equal(first, second)
    assert not torch.equal(net(x), net(x))
    assert net.norm.num_batches_tracked == 4
    net.eval()
    assert not torch.allclose(first, net(x))
