"""Train and eval mode in one graph: what is joined, what is kept apart, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isomorph.convert.api import to_keras
from isomorph.convert.capture import capture
from isomorph.convert.errors import UnsupportedError
from isomorph.convert.ir import ByMode, Graph
from isomorph.convert.merge_modes import SELECT, merge_modes
from isomorph.convert.rules.registry import load_rules
from isomorph.convert.support import is_supported
from tests.convert.nets import assert_same, on_keras, on_torch, randn, settled

load_rules()


def merged(module: nn.Module, *args: Any) -> tuple[Graph, Graph, Graph]:
    """The graph of train mode, of eval mode, and of both."""
    train, evaluation = (capture(module, args, training=t, has_rule=is_supported).graph for t in (True, False))
    return train, evaluation, merge_modes(train, evaluation)


def ops(graph: Graph) -> list[str]:
    return [n.op.split(".")[1] for n in graph.nodes]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.bn = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(torch.relu(self.bn(self.fc(x))))


def test_dropout_and_batch_norm_take_the_mode_as_an_argument() -> None:
    train, evaluation, both = merged(Net(), torch.zeros(3, 4))
    assert ops(evaluation) == ["linear", "batch_norm", "relu", "dropout"]
    assert ops(both) == ops(train)  # that counts the batches
    by_op = {n.op: n for n in both.nodes}
    assert by_op["aten.dropout.default"].args[2] == ByMode(True, False)
    assert by_op["aten.batch_norm.default"].args[5] == ByMode(True, False)
    assert SELECT not in by_op
    assert [(m.buffer, m.when) for m in both.mutations] == [("bn.num_batches_tracked", "train")]


def test_a_module_without_modes_merges_to_itself() -> None:
    _, evaluation, both = merged(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4)), torch.zeros(3, 4))
    assert str(both) == str(evaluation)


class Constants(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, float("nan")).masked_fill(x > 1, float("inf")) + float("-inf") * 0


def test_a_nan_is_the_same_in_both_modes() -> None:
    _, evaluation, both = merged(Constants(), torch.zeros(3))
    assert str(both) == str(evaluation)
    converted = to_keras(Constants(), (torch.zeros(3),))
    assert not any(isinstance(a, ByMode) for n in both.nodes for a in n.all_leaves)
    assert converted.report["native_share"] == 1


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.5, -2.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x, s: x * s, lambda x, s: x - s, (x, self.scale))


def test_a_cond_is_merged_too() -> None:
    _, evaluation, both = merged(Choice(), torch.zeros(3))
    assert ops(both) == ops(evaluation)
    assert SELECT not in {n.op for n in both.nodes}


class Depth(nn.Module):
    """Stochastic depth: what train mode draws, eval mode does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.training:
            y = y * torch.bernoulli(torch.full((x.shape[0], 1), 0.5, dtype=x.dtype))
        return torch.relu(x + y)


def test_stochastic_depth_is_joined_by_one_select() -> None:
    _, evaluation, both = merged(Depth(), torch.zeros(3, 4))
    assert ops(both).count("select_mode") == 1
    assert ops(both).count("linear") == 1
    select = next(n for n in both.nodes if n.op == SELECT)
    maker = both.producers()
    assert maker[select.args[0]].op == "aten.mul.Tensor"
    assert maker[select.args[1]].op == "aten.linear.default"
    alone = [n for n in both.nodes if "train only" in n.origin.passes]
    assert len(both.nodes) == len(evaluation.nodes) + len(alone) + 1
    assert {n.op for n in alone} >= {"aten.bernoulli.default", "aten.mul.Tensor"}


def test_stochastic_depth_draws_anew_in_train_mode_and_vanishes_in_eval() -> None:
    module, x = settled(Depth()), randn(64, 4)
    converted = to_keras(module, (x[:2],))
    assert_same(converted, module, x)
    with torch.no_grad():
        kept, dropped = torch.relu(x + module.branch(x)).numpy(), torch.relu(x).numpy()
    (first,), (second,) = (on_keras(converted, x, training=True) for _ in range(2))
    for result in (first, second):
        is_kept = np.isclose(result, kept).all(1)
        assert (is_kept | np.isclose(result, dropped).all(1)).all()
        assert 10 < is_kept.sum() < 54
    assert not np.array_equal(first, second)
    mask = (np.arange(64) % 3 == 0).astype("float64")[:, None]
    (site,) = converted.random_sites
    assert site.op.startswith("aten.bernoulli")
    with converted.replay({0: mask}):
        (replayed,) = on_keras(converted, x, training=True)
    np.testing.assert_allclose(replayed, np.where(mask > 0, kept, dropped), rtol=1e-12)


class Auxiliary(nn.Module):
    """A head that exists in train mode only, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.side = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        y = torch.tanh(self.body(x))
        return self.head(y), self.side(y) if self.training else None


def test_an_output_of_train_mode_alone_is_returned_in_both() -> None:
    module, x = settled(Auxiliary()), randn(3, 4)
    converted = to_keras(module, (x,))
    assert len(converted.outputs) == 2
    for training in (True, False):
        want = on_torch(module, x, training=True)
        for g, w in zip(on_keras(converted, x, training=training), want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-12)
    assert {"side.weight", "side.bias"} <= converted.pull().keys()


class Different(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return self.result(x, self.training)


class Shapes(Different):
    result = staticmethod(lambda x, t: x.sum(1) if t else x)


class Counts(Different):
    result = staticmethod(lambda x, t: (x, x + 1) if t else x)


class Dtypes(Different):
    result = staticmethod(lambda x, t: x.double() if t else x)


class Flag(Different):
    result = staticmethod(lambda x, t: (x + 1, t))


class Number(Different):
    result = staticmethod(lambda x, t: (x + 1, x.sum() if t else 3))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Shapes(), "float32[b] in train mode and float32[b, 4] in eval mode"),
        (Counts(), "returns 2 values in train mode and 1 in eval mode"),
        (Dtypes(), "float64[b, 4] in train mode and float32[b, 4] in eval mode"),
        (Flag(), "in train mode and"),
        (Number(), "a tensor in one mode and a constant in the other"),
    ],
    ids=lambda m: type(m).__name__ if isinstance(m, nn.Module) else "",
)
def test_modes_that_disagree_are_refused_with_the_way_out(module: nn.Module, said: str) -> None:
    x = torch.rand(3, 4)
    with pytest.raises(UnsupportedError) as refused:
        to_keras(module, (x,))
    assert said in str(refused.value)
    assert "mode='eval'" in str(refused.value)
    converted = to_keras(module, (x,), mode="eval")
    assert converted.mode == "eval"
    assert_same(converted, module, x)


class Momentary(nn.Module):
    """A buffer that both modes write, each its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        if self.training:
            self.level.mul_(0.5).add_(0.5 * x.detach().mean(0))
        else:
            self.seen.copy_(x.mean(0))
        return x - self.level


def test_buffers_are_written_in_their_own_mode() -> None:
    module = Momentary().double()
    _, _, both = merged(module, randn(4, 3))
    assert {m.buffer: m.when for m in both.mutations} == {"calls": "always", "level": "train", "seen": "eval"}
    converted = to_keras(module, (randn(4, 3),))
    for step, training in enumerate((True, False, True, True, False)):
        assert_same(converted, module, randn(4, 3, seed=step), training=training)
        pulled = converted.pull()
        for name, buffer in module.named_buffers():
            assert pulled[name].dtype == buffer.dtype
            torch.testing.assert_close(pulled[name], buffer, rtol=1e-12, atol=1e-12)
