"""The verdict on pairs of torch modules: kinks, chaos, leaks, ties, structure and what cannot be judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isomorph.parity.check import check
from isomorph.parity.verdict import Verdict

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Wrap(nn.Module):
    """A linear layer, and a function of its input and its output."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.linear(x))


def judge(left: Callable[..., Any], right: Callable[..., Any], x: Any = X, **options: Any) -> Verdict:
    return check(Wrap(left), Wrap(right), x, **{"level": "quick", "strict": True, **options})


def kinds(verdict: Verdict) -> set[tuple[str, str]]:
    return {(m.kind, m.quantity) for m in verdict.mismatches}


HONEST = {
    "matmul by parts": (lambda x, y: y.sum(-1), lambda x, y: sum(y[:, i] for i in range(8))),
    "softmax": (lambda x, y: F.softmax(y, -1), lambda x, y: (y - y.logsumexp(-1, keepdim=True)).exp()),
    "gelu": (lambda x, y: F.gelu(y), lambda x, y: 0.5 * y * (1 + torch.erf(y * 0.5**0.5))),
    "layer norm": (
        lambda x, y: F.layer_norm(y, (8,)),
        lambda x, y: (y - y.mean(-1, True)) * (y.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt(),
    ),
    "logsumexp": (lambda x, y: torch.logsumexp(y, -1),
        lambda x, y: (y - y.amax(-1, True)).exp().sum(-1).log() + y.amax(-1)),
    "dropout": (lambda x, y: F.dropout(y, 0.3), lambda x, y: F.dropout(y, 0.3)),
    "silu": (lambda x, y: F.silu(y), lambda x, y: y * torch.sigmoid(y)),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_alternatives_pass(name: str) -> None:
    verdict = judge(*HONEST[name], examples=24)
    assert verdict.status == "PASS", verdict.summary()


BUGS = {
    "softmax axis": (lambda x, y: F.softmax(y, -1), lambda x, y: F.softmax(y, 0), ("value", "output")),
    "layer norm epsilon": (lambda x, y: F.layer_norm(y, (8,), eps=1e-5),
        lambda x, y: F.layer_norm(y, (8,), eps=1e-6), ("value", "output")),
    "softplus beta": (lambda x, y: F.softplus(y), lambda x, y: F.softplus(y, 1.1), ("value", "output")),
    "elu alpha": (lambda x, y: F.elu(y), lambda x, y: F.celu(y, 1.3), ("value", "output")),
    "hardswish": (lambda x, y: F.hardswish(y), lambda x, y: y * torch.sigmoid(1.7 * y), ("value", "output")),
    "missing root": (lambda x, y: y / 8**0.5, lambda x, y: y, ("value", "output")),
    "rows mixed": (lambda x, y: y, lambda x, y: y.flip(0), ("value", "output")),
    "rolled": (lambda x, y: y.cumsum(-1), lambda x, y: y.cumsum(-1).roll(1, -1), ("value", "output")),
    "detached path": (lambda x, y: x + y, lambda x, y: x + y.detach(), ("value", "parameter gradient")),
    "detached input": (lambda x, y: x + y, lambda x, y: x.detach() + y, ("value", "input gradient")),
    "NaN swallowed": (lambda x, y: (y - 9e9).sqrt() + y,
        lambda x, y: (y - 9e9).clamp(min=0).sqrt() + y, ("nonfinite", "output")),
    "integer off by one": (lambda x, y: (y, y.argmax(-1)), lambda x, y: (y, y.argmax(-1) + 1), ("integer", "output")),
    "integer dtype": (lambda x, y: (y, y.argmax(-1)), lambda x, y: (y, y.argmax(-1).int()), ("dtype", "output")),
    "float32 inside": (lambda x, y: y * 2,
        lambda x, y: y + torch.from_numpy(y.detach().numpy().astype("f4")), ("leak", "output")),
    "names": (lambda x, y: {"a": y, "b": x}, lambda x, y: {"a": y, "c": x}, ("structure", "signature")),
    "squeezed": (lambda x, y: y[:, :1], lambda x, y: y[:, 0], ("shape", "output")),
    "random draw lost": (lambda x, y: F.dropout(y, 0.3), lambda x, y: y, ("raised", "signature")),
    "naive softmax": (lambda x, y: F.softmax(30 * y, -1),
        lambda x, y: (30 * y).exp() / (30 * y).exp().sum(-1, True), ("nonfinite", "output")),
}  # fmt: skip


@pytest.mark.parametrize("name", BUGS)
def test_bugs_are_rejected_with_the_right_kind(name: str) -> None:
    left, right, kind = BUGS[name]
    verdict = judge(left, right, examples=12)
    assert verdict.status == "FAIL", verdict.summary()
    assert kind in kinds(verdict), verdict.summary()


KINKS = {
    "clamp at the bound": (lambda x, y: x.clamp(-1, 1) + y,
        lambda x, y: torch.where((x > -1) & (x < 1), x, x.detach().clamp(-1, 1)) + y),
    "relu at zero": (lambda x, y: F.relu(x) + y, lambda x, y: torch.where(x >= 0, x, 0 * x) + y),
    "abs at zero": (lambda x, y: x.abs() + y, lambda x, y: torch.where(x >= 0, x, -x) + y),
    "maximum of equals": (lambda x, y: torch.maximum(x, x.flip(0)) + y,
        lambda x, y: torch.where(x >= x.flip(0), x, x.flip(0)) + y),
}  # fmt: skip


@pytest.mark.parametrize("name", KINKS)
def test_another_subgradient_is_a_kink(name: str) -> None:
    verdict = judge(*KINKS[name], examples=24)
    assert verdict.status == "FAIL", verdict.summary()
    assert kinds(verdict) == {("kink", "input gradient")}, verdict.summary()
    lenient = judge(*KINKS[name], examples=24, strict=False)
    assert lenient.status == "PASS", lenient.summary()
    assert any("kink" in warning for warning in lenient.coverage["warnings"])


def chaotic(x: Tensor, y: Tensor) -> Tensor:
    z = torch.sigmoid(y)
    for _ in range(45):
        z = 3.99 * z * (1 - z)
    return z


def chaotic_otherwise(x: Tensor, y: Tensor) -> Tensor:
    z = torch.sigmoid(y)
    for _ in range(45):
        z = 3.99 * z - 3.99 * z * z
    return z


def test_chaos_is_neither_wrong_nor_fine() -> None:
    verdict = judge(chaotic, chaotic_otherwise, examples=6)
    assert verdict.status == "NOTHING_COMPARED", verdict.summary()
    assert "output 0" in verdict.coverage["chaotic"]
    assert "ill-conditioned" in verdict.coverage["reason"]


def test_rounding_ties_are_no_kinks() -> None:
    """A ReLU of what is zero up to rounding flips with the order of a sum: neither side is wrong."""

    def left(x: Tensor, y: Tensor) -> Tensor:
        return y + F.relu(y.sum(-1, True) - y[:, :4].sum(-1, True) - y[:, 4:].sum(-1, True)) * y

    def right(x: Tensor, y: Tensor) -> Tensor:
        return y + F.relu(y.sum(-1, True) - y[:, 4:].sum(-1, True) - y[:, :4].sum(-1, True)) * y

    verdict = judge(left, right, examples=12)
    assert verdict.status == "PASS", verdict.summary()


@pytest.mark.parametrize("output", [lambda x, y: y * 0, lambda x, y: y[:0], lambda x, y: y * float("nan")])
def test_nothing_compared_is_no_pass(output: Callable[..., Any]) -> None:
    verdict = judge(output, output)
    assert verdict.status == "NOTHING_COMPARED", verdict.summary()
    assert verdict.exit_code == 5


def test_constants_are_nothing_that_can_be_noticed() -> None:
    verdict = judge(lambda x, y: torch.ones(3), lambda x, y: torch.ones(3))
    assert verdict.status == "NOTHING_COMPARED"
    assert "teeth" in verdict.coverage["reason"]


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


def test_the_same_outputs_nested_otherwise_are_the_same() -> None:
    assert judge(lambda x, y: (y, [x]), lambda x, y: (y, x)).status == "PASS"


def test_outputs_of_every_nesting() -> None:
    def nested(x: Tensor, y: Tensor) -> Any:
        return {"a": [y, (x, None)], "b": Pair(x * y, None), "n": 3}

    verdict = judge(nested, nested)
    assert verdict.status == "PASS", verdict.summary()
    assert verdict.coverage["outputs"] == ["0", "1", "2", "3"]


class Tied(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(11, 6)
            self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight if tied else nn.Parameter(self.embedding.weight.detach().clone())

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embedding(ids)
        return self.head(x if mask is None else x * mask[..., None])


def test_a_tied_weight_appears_once_and_untying_it_is_a_mismatch() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    verdict = check(Tied(True), Tied(True), {"ids": ids, "mask": torch.ones(2, 3, dtype=torch.int64)})
    assert verdict.status == "PASS", verdict.summary()
    assert verdict.coverage["parameters"]["compared"] == ["embedding.weight"]
    assert verdict.coverage["parameters"]["tied"] == {"head.weight": "embedding.weight"}
    verdict = check(Tied(True), Tied(False), ids)
    assert ("tied", "signature") in kinds(verdict)


def test_a_module_that_torch_cannot_differentiate_is_compared_forward() -> None:
    def in_place(x: Tensor, y: Tensor) -> Tensor:
        z = y.exp()
        z.add_(1).mul_(z)
        return z

    verdict = judge(in_place, in_place)
    assert verdict.status == "PASS", verdict.summary()
    assert set(verdict.coverage["no_gradient"]) == {"eval", "train"}
    assert "cannot differentiate" in verdict.summary()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y)

    left, right, wrong = (
        Wrap(function).to(dtype),
        Wrap(function).to(dtype),
        Wrap(lambda x, y: torch.sigmoid(y)).to(dtype),
    )
    verdict = check(left, right, X.to(dtype))
    assert verdict.status == "PASS", verdict.summary()
    assert verdict.coverage["own_dtype"] == str(dtype).rpartition(".")[2]
    assert check(left, wrong, X.to(dtype)).status == "FAIL"


class Counting(nn.Module):
    def __init__(self, step: float) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(1.0))
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + self.step  # another tensor takes the buffer's place
        return x * self.scale


def test_a_replaced_buffer_is_compared_and_put_back() -> None:
    module = Counting(1.0)
    assert check(module, Counting(1.0), X).status == "PASS"
    assert float(module.seen) == 1.0
    verdict = check(module, Counting(2.0), X)
    assert kinds(verdict) == {("value", "buffer")}


class Writing(nn.Module):
    """A forward that writes into its own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.mul_(1.5)
        return x * self.scale


def test_a_parameter_that_a_run_writes_to_is_put_back() -> None:
    """Otherwise the later runs of one example would see other weights than the first."""
    module = Writing()
    verdict = check(module, Writing(), X)
    assert verdict.status == "PASS", verdict.summary()
    assert bool((module.scale == 2.0).all())


class HalfFrozen(nn.Module):
    """A batch norm that `train()` leaves in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def train(self, mode: bool = True) -> HalfFrozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@pytest.mark.parametrize("called", [False, True])
def test_a_submodule_keeps_the_mode_it_came_in(called: bool) -> None:
    left, right = HalfFrozen(), HalfFrozen()
    if called:
        left.train()
        right.train()
    verdict = check(left, right, X)
    assert verdict.status == "PASS", verdict.summary()
    trained = [c for c in verdict.checks if c.quantity == "buffer" and c.mode == "train"]
    assert trained
    assert left.norm.training is not called


class Transposed(nn.Module):
    """An image normalised and read as a sequence: its gradient comes back channels last."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.by_hand = by_hand
        with torch.no_grad():
            self.norm.running_var.copy_(torch.linspace(0.5, 2.0, 8))  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        if self.by_hand and not self.training:
            scale = n.weight * torch.rsqrt(n.running_var + n.eps)  # type: ignore[operator]
            y = x * scale[:, None, None] + (n.bias - n.running_mean * scale)[:, None, None]  # type: ignore[operator]
        else:
            y = n(x)
        return y.flatten(2).transpose(1, 2)


def test_a_kernel_of_the_original_that_is_wrong_for_one_layout_is_not_held_against_the_other() -> None:
    """torch 2.13, CPU: batch_norm's gradient in eval mode is wrong for one image with a channels-last gradient."""
    x = torch.randn(1, 8, 4, 6, generator=torch.Generator().manual_seed(0))
    verdict = check(Transposed(False), Transposed(True), x, modes=("eval",), level="quick")
    assert verdict.status == "PASS", verdict.summary()
    assert any("memory layout" in w for w in verdict.coverage["warnings"])


def test_the_planted_error_does_not_cancel_in_a_sum() -> None:
    for seed in range(6):
        verdict = judge(lambda x, y: y.sum(-1), lambda x, y: y.flip(-1).sum(-1), seed=seed)
        assert verdict.status == "PASS"
        assert all(tooth["caught"] for tooth in verdict.coverage["teeth"])
