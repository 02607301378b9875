"""The evaluator: captured graphs, run in torch order by the rules, against torch in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from fixtures.zoo import ZOO
from isomorph.convert.capture import Captured, capture
from isomorph.convert.interpret import bind_dims, interpret, solve
from isomorph.convert.ir import Graph, GraphError, Node, Sym, TensorType, Value
from isomorph.convert.merge_modes import merge_modes
from isomorph.convert.passes.pipeline import run_passes
from isomorph.convert.rules.registry import RULES, load_rules
from isomorph.convert.support import is_supported

load_rules()
NAMES = ["resnet_basic", "mobilenet_v3", "unet", "gpt", "swin", "lstm_state", "cond", "topk", "einsum_attention"]


def owned(captured: Captured, graph: Graph, tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: keras.ops.convert_to_tensor(tensors[name].detach().numpy()) for name in graph.parameters}


def double(tree: Any) -> Any:
    return pytree.tree_map(lambda t: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t, tree)


@pytest.mark.parametrize("name", [n for n in NAMES if n in ZOO])
def test_a_captured_graph_means_what_the_module_means(name: str) -> None:
    fixture = ZOO[name]
    module, args, kwargs = fixture.build().eval().double(), double(fixture.args()), double(fixture.kwargs())
    captured = capture(module, args, kwargs, fixture.dynamic, has_rule=is_supported)
    inputs = [
        keras.ops.convert_to_tensor(t.numpy())
        for t in pytree.tree_leaves((args, kwargs))
        if isinstance(t, torch.Tensor)
    ]
    with torch.no_grad():
        want = [t.numpy() for t in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(t, torch.Tensor)]
    tensors = dict(captured.tensors)
    lowered = run_passes(captured.graph, tensors)
    for graph in (captured.graph, lowered):
        got = [np.asarray(y) for y in interpret(graph, inputs, owned(captured, graph, tensors)) if y is not None]
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert g.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-10)


class Modal(torch.nn.Module):
    """Deterministic, but another function in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return torch.relu(y) * 2 if self.training else torch.tanh(y)


def test_the_merged_graph_follows_the_mode() -> None:
    module, x = Modal().double(), torch.randn(5, 3, dtype=torch.float64)
    modes = {t: capture(module, (x,), training=t, has_rule=is_supported) for t in (True, False)}
    merged = merge_modes(modes[True].graph, modes[False].graph)
    own = owned(modes[True], merged, modes[True].tensors)
    for training in (False, True):  # torch updates its statistics in train mode
        want = module.train(training)(x).detach().numpy()
        y, *_ = interpret(merged, [keras.ops.convert_to_tensor(x.numpy())], own, training)
        np.testing.assert_allclose(np.asarray(y), want, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------- dims
def names(env: dict[str, Any]) -> dict[str, Any]:
    """What is bound to a bare name; whole expressions left out."""
    return {k: v for k, v in env.items() if Sym(k).is_name}


def test_dims_are_bound_from_shapes() -> None:
    b, s = Sym("b"), Sym("s")
    types = [TensorType((b, Sym("2*s + 1")), "float32"), TensorType((b, 3), "float32")]
    assert names(bind_dims(types, [np.zeros((4, 7)), np.zeros((4, 3))])) == {"b": 4, "s": 3}
    assert names(bind_dims([TensorType((Sym("b + s"), s), "float32")], [np.zeros((9, 4))])) == {"b": 5, "s": 4}
    two_unknowns = bind_dims([TensorType((Sym("b*s"),), "float32")], [np.zeros(9)])
    assert names(two_unknowns) == {}
    assert Sym("b*s").evaluate(two_unknowns) == 9  # the expression itself was met


@pytest.mark.parametrize(
    ("text", "size", "answer"),
    [("2*s", 8, 4), ("s - 1", 8, 9), ("3*s + b", 11, 3), ("s**2", 9, None), ("s // 2", 4, None), ("b", 2, None)],
)
def test_a_linear_size_is_solved_and_no_other(text: str, size: int, answer: int | None) -> None:
    assert solve(Sym(text), "s", size, {"b": 2}) == answer


def test_a_dim_that_depends_on_data_is_bound_when_it_appears() -> None:
    class Nonzero(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.nonzero(x).squeeze(1)
            return torch.zeros(rows.shape[0]) + rows

    captured = capture(Nonzero(), (torch.tensor([0.0, 1.0, 2.0]),), has_rule=is_supported)
    for x in (np.float32([0, 3, 0, 5]), np.float32([1, 1, 1, 1, 1])):
        (y,) = interpret(captured.graph, [keras.ops.convert_to_tensor(x)])
        np.testing.assert_array_equal(np.asarray(y), np.flatnonzero(x).astype("float32"))


def test_a_rule_that_breaks_its_contract_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    x, y = Value("x", TensorType((2, 3), "float32")), Value("y", TensorType((2, 3), "float32"))
    graph = Graph([x], [y], [Node("aten.relu.default", (x,), {}, (y,))])
    zeros = keras.ops.zeros((2, 3))
    for wrong, complaint in ((lambda k, x: (x, x), "gave 2 results, the op has 1"), (lambda k, x: x[0], "gave rank 1")):
        monkeypatch.setitem(RULES, "aten.relu.default", dataclasses.replace(RULES["aten.relu.default"], lower=wrong))
        with pytest.raises(GraphError, match=complaint):
            interpret(graph, [zeros])
