"""Each pass: its golden text, its meaning kept, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fixtures.zoo import ZOO
from fixtures.zoo.registry import randn, randomise
from isomorph.convert.api import to_keras
from isomorph.convert.capture import capture
from isomorph.convert.errors import IsomorphError
from isomorph.convert.ir import Graph, GraphError, Mutation, Node, Parameter, TensorType, Value
from isomorph.convert.passes.absorb_batch_counters import AbsorbBatchCounters
from isomorph.convert.passes.batch_spatial import BatchSpatial
from isomorph.convert.passes.drop_dead import DropDead
from isomorph.convert.passes.drop_noops import ALWAYS, DropNoops
from isomorph.convert.passes.expose_statistics import ExposeStatistics
from isomorph.convert.passes.fold_constants import FoldConstants
from isomorph.convert.passes.guard_relu import GuardRelu
from isomorph.convert.passes.pipeline import PIPELINE, run_passes
from isomorph.convert.passes.scalar_fills import ScalarFills, written
from isomorph.convert.support import is_supported
from tests.passes.golden import assert_golden, assert_pass, computed, taken


def ops(graph: Graph) -> list[str]:
    return [n.op.split(".")[1] for n in graph.nodes]


# ------------------------------------------------------------------------------------------------------- batch counters
def test_absorb_batch_counters() -> None:
    net = randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()), 1)
    after = assert_pass("absorb_batch_counters", AbsorbBatchCounters(), net, randn(3, 3), both=True)
    assert after.mutations == []
    assert "1.num_batches_tracked" in after.parameters


class ReadsTheCounter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x) * self.bn.num_batches_tracked


def test_a_counter_that_is_read_still_converts() -> None:
    module, x = randomise(ReadsTheCounter(), 1).double(), randn(5, 3).double()
    converted = to_keras(module, (x,))
    for training in (False, True, True, False):
        got = np.asarray(converted.model(x.numpy(), training=training))
        want = module.train(training)(x).detach().numpy()
        np.testing.assert_allclose(got, want, rtol=1e-10)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(converted.pull()[name], tensor, rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------- no-ops
class Noops(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x.clone().contiguous().to(x.dtype)
        y = nn.functional.dropout(y, 0.0, self.training)[:, 0:]
        y = y.expand(-1, 4).reshape(y.shape)
        return torch.relu(y), y[:, 1:], x.detach() * y, x.alias() if hasattr(x, "alias") else x.view_as(x)


def test_drop_noops() -> None:
    after = assert_pass("drop_noops", DropNoops(), Noops(), randn(3, 4))
    assert ops(after) == ["relu", "slice", "detach", "mul"]


def test_what_stops_the_gradient_is_no_noop() -> None:
    """detach hands its operand on unchanged, but not its gradient."""
    assert not any("detach" in op for op in ALWAYS)


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda x: x[:, ::2], ["slice"]),
        (lambda x: x[:, :3], ["slice"]),
        (lambda x: x[:, :9], []),
        (lambda x: x.to(torch.float64), ["to"]),
        (lambda x: x.expand(5, -1, -1), ["expand"]),
        (lambda x: x.reshape(x.shape[1], -1), ["reshape"]),
        (lambda x: x.reshape(x.shape[0], 4), []),
        (lambda x: nn.functional.dropout(x, 0.5, True), ["dropout"]),
        (lambda x: x.squeeze(1), []),
    ],
)
def test_a_noop_is_one_in_effect(function: Any, kept: list[str]) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(function(x))

    graph, tensors = taken(Net(), randn(3, 4))
    assert ops(DropNoops().run(graph, tensors).verify()) == [*kept, "exp"]


# ------------------------------------------------------------------------------------------------------------ constants
class Fills(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0.2
        y[:, 1] = -3
        return y


def test_scalar_fills() -> None:
    after = assert_pass("scalar_fills", ScalarFills(), Fills(), randn(3, 4), first=(DropNoops(),))
    assert sorted(n.args[1] for n in after.nodes if n.op == "aten.fill.Scalar") == [-3, 0.2]


@pytest.mark.parametrize(
    ("tensor", "number"),
    [
        (torch.tensor(0.2), 0.2),
        (torch.tensor(0.1, dtype=torch.float64), 0.1),
        (torch.tensor(1e-8), 1e-8),
        (torch.tensor(7), 7),
        (torch.tensor(True), True),
        (torch.tensor(float("inf")), float("inf")),
    ],
)
def test_the_number_that_was_written(tensor: Tensor, number: Any) -> None:
    assert written(tensor) == number
    assert type(written(tensor)) is type(number)


def test_a_number_written_into_a_tensor_is_the_same_in_a_wider_dtype() -> None:
    converted = to_keras(Fills(), (randn(3, 4),), dtype="float64")
    x = randn(3, 4).double()
    np.testing.assert_array_equal(np.asarray(converted.model(x.numpy())), Fills()(x).numpy())


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 0.5, 3.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.arange(3).unsqueeze(0) < torch.tensor([[1], [2], [3]])
        halves, rest = torch.linspace(0, 1, 6, dtype=x.dtype).split(3)
        return torch.where(mask, x, 0.0) + halves * self.scale + rest.cumsum(0), torch.full((2,), 7)


def test_fold_constants() -> None:
    after = assert_pass("fold_constants", FoldConstants(), Constants(), randn(3, 3))
    assert {"arange", "lt", "linspace", "cumsum", "full"}.isdisjoint(ops(after))
    assert after.parameters["scale"].kind == "buffer"
    assert sum(p.kind == "constant" for p in after.parameters.values()) >= 3


def test_folding_leaves_alone_what_is_large_random_or_may_change() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(3))
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            large = torch.arange(100.0).sum() + torch.rand(3)
            return x + self.scale.exp() + self.weight.exp() + large + torch.arange(x.shape[0])[:, None]

    graph, tensors = taken(Net(), randn(2, 3))
    after = FoldConstants(limit=50).run(graph, tensors)
    assert ops(after).count("exp") == 2
    assert ops(after).count("arange") == 2
    assert "rand" in ops(after)
    assert "arange" in ops(FoldConstants().run(graph, tensors))  # the one that counts the batch


# -------------------------------------------------------------------------------------------------------- spatial, dead
def test_batch_spatial() -> None:
    class Unbatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)

    after = assert_pass("batch_spatial", BatchSpatial(), randomise(Unbatched(), 1), randn(2, 6, 6))
    assert ops(after).count("unsqueeze") == ops(after).count("squeeze") == 2
    assert {n.origin.passes for n in after.nodes if n.op.startswith("aten.conv2d")} == {("batch_spatial",)}


class Roots(nn.Module):
    """Two relus: one under a square root, one under nothing steep."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.relu(x) * 2).sum(1).sqrt() + torch.relu(x - 1).sum(1)


def test_guard_relu() -> None:
    after = assert_pass("guard_relu", GuardRelu(), Roots(), torch.tensor([[0.5, -1.0, 0.0], [2.0, 3.0, -0.5]]))
    assert ops(after).count("relu") == ops(after).count("where") == 1


def test_guard_relu_keeps_a_zero_gradient_zero_and_passes_a_nan() -> None:
    import tensorflow as tf

    x = torch.tensor([[0.0, -1.0, -2.0], [2.0, 3.0, -0.5], [float("nan"), 1.0, 2.0]], requires_grad=True)
    y = Roots()(x)
    y.sum().backward()
    model = to_keras(Roots().eval(), (torch.ones(2, 3),)).model
    given = tf.constant(x.detach().numpy())
    with tf.GradientTape() as tape:
        tape.watch(given)
        got = model(given)
    np.testing.assert_allclose(got.numpy(), y.detach().numpy(), rtol=1e-6)
    found = tape.gradient(got, given).numpy()
    assert x.grad is not None
    np.testing.assert_allclose(found[:2], x.grad.numpy()[:2], rtol=1e-6)
    assert np.isfinite(found[0]).all(), "inf * 0 at the kink"


def test_drop_dead() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x).exp()
            x * torch.tensor([1.0, 2.0, 3.0])
            self.count.add_(x.sum(0).detach())
            return torch.relu(x)

    graph, tensors = taken(Dead(), randn(3, 3))
    after = DropDead().run(graph, tensors).verify()
    assert_golden("drop_dead", f"{graph}\n\n=== drop_dead ===>\n\n{after}")
    assert "exp" not in ops(after)
    assert {"unused.weight", "unused.bias", "count"} == after.parameters.keys()  # the module's state stays
    assert [m.buffer for m in after.mutations] == ["count"]
    np.testing.assert_array_equal(computed(after, tensors, randn(3, 3))[0], torch.relu(randn(3, 3)).numpy())


# ----------------------------------------------------------------------------------------------------------- statistics
class Pyramid(nn.Module):
    """A block with BatchNorm on two image sizes, and one BatchNorm that a layer can own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.norm(x).mean((2, 3)) + torch.relu(self.norm(x[:, :, ::2])).mean((2, 3))


def test_expose_statistics() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh())
            self.b = nn.Sequential(self.a[0], nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    after = assert_pass(
        "expose_statistics",
        ExposeStatistics(),
        randomise(Shared(), 1),
        randn(4, 3),
        both=True,
        first=(AbsorbBatchCounters(),),
    )
    assert {m.buffer: m.when for m in after.mutations} == dict.fromkeys(
        ("a.0.num_batches_tracked", "a.0.running_mean", "a.0.running_var"), "train"
    )
    assert str(ExposeStatistics().run(after, {})) == str(after)


def test_statistics_that_a_layer_can_own_stay_with_it() -> None:
    graph, tensors = taken(randomise(Pyramid(), 1), randn(4, 2, 4, 4), both=True)
    after = run_passes(graph, tensors)
    assert after.mutations == []  # one layer called twice, on two shapes, in one scope
    frozen = Pyramid()
    frozen.norm.bias.requires_grad_(False)
    graph, tensors = taken(randomise(frozen, 1), randn(4, 2, 4, 4), both=True)
    assert {m.buffer.rpartition(".")[0] for m in run_passes(graph, tensors).mutations} == {"norm"}


# ------------------------------------------------------------------------------------------------------------- pipeline
def test_the_pipeline_is_dumped_step_by_step(tmp_path: Any) -> None:
    graph, tensors = taken(
        randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()), 1), randn(3, 3), both=True
    )
    text = str(graph)
    after = run_passes(graph, tensors, dump={"ISOMORPH_DUMP": str(tmp_path / "dump")})
    names = [type(p).__module__.rpartition(".")[2] for p in PIPELINE]
    files = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert files == [f"{i:02d}_{n}.txt" for i, n in enumerate(["capture", *names])]
    assert (tmp_path / "dump" / files[0]).read_text() == f"{text}\n"
    assert (tmp_path / "dump" / files[-1]).read_text() == f"{after}\n"
    assert_golden("pipeline", f"{text}\n\n=== all passes ===>\n\n{after}")


def test_the_variable_switches_the_dump_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, tensors = taken(nn.ReLU(), randn(3))
    run_passes(graph, tensors)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ISOMORPH_DUMP", str(tmp_path))
    run_passes(graph, tensors)
    assert (tmp_path / "00_capture.txt").read_text().startswith("graph(")


def test_a_pass_that_breaks_the_graph_is_caught_at_once() -> None:
    class Breaks:
        def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
            return graph.rebuilt(graph.nodes[1:])

    class Never:
        def run(self, graph: Graph, tensors: dict[str, Any]) -> Graph:
            raise AssertionError("ran on a broken graph")

    graph, tensors = taken(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Tanh()), randn(2, 3))
    with pytest.raises(GraphError, match="%linear is used before it is defined"):
        run_passes(graph, tensors, (Breaks(), Never()))


@pytest.mark.parametrize("name", ["resnet_basic", "gpt", "swin", "constants", "in_place"])
def test_the_pipeline_keeps_the_meaning_and_settles(name: str) -> None:
    """A second run finds nothing left to do."""
    fixture = ZOO[name]
    module = fixture.build().eval()
    captured = capture(module, fixture.args(), fixture.kwargs(), fixture.dynamic, has_rule=is_supported)
    tensors = dict(captured.tensors)
    once = run_passes(captured.graph, tensors)
    assert len(once.nodes) <= len(captured.graph.nodes)
    assert str(run_passes(once, tensors)) == str(once)


def test_the_passes_have_no_state() -> None:
    for step in PIPELINE:
        with pytest.raises(AttributeError):
            step.anything = 1  # type: ignore[attr-defined]
    assert not issubclass(GraphError, IsomorphError)  # a broken graph is our fault, never the user's


def test_constants_of_the_module_itself_stay_state() -> None:
    x = Value("x", TensorType((2,), "float32"))
    own = {k: Parameter(k, Value(k, TensorType((2,), "float32")), k) for k in ("parameter", "buffer", "constant")}
    new = Value("new", TensorType((2,), "float32"))
    graph = Graph([x], [x], [Node("aten.exp.default", (x,), {}, (new,))], own, [Mutation("buffer", new)])
    after = DropDead().run(graph, {}).verify()
    assert after.parameters.keys() == {"parameter", "buffer"}
    assert len(after.nodes) == 1
