"""What capture refuses, and how it says so; and that a module is as it was afterwards, whatever happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isomorph.convert.api import to_keras
from isomorph.convert.capture import capture
from isomorph.convert.errors import CaptureError, IsomorphError, ParityError, UnsupportedError, UsageError, WeightError
from isomorph.convert.ir import Sym
from isomorph.convert.rules.registry import LAYER_FORMS, RULES, load_rules
from isomorph.convert.support import is_supported, missing
from tests.convert.nets import assert_same, assert_untouched, portrait, randn, settled

load_rules()
HERE = Path(__file__).name


@pytest.mark.parametrize(
    ("error", "code"),
    [(IsomorphError, 4), (UsageError, 2), (CaptureError, 2), (WeightError, 2), (UnsupportedError, 3), (ParityError, 1)],
)
def test_exit_codes(error: type[IsomorphError], code: int) -> None:
    assert error("x").exit_code == code


# ------------------------------------------------------------------------------------------------------------- refusals
class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(x))
        if x.sum() > 0:
            return x * 2
        return x


def test_a_branch_on_data_is_one_clear_error() -> None:
    module = Branch()
    module.norm.eval()  # a mixed state has to come back mixed
    before = portrait(module)
    with pytest.raises(CaptureError) as refused:
        to_keras(module, (torch.randn(2, 3),))
    text = str(refused.value)
    assert "Branch decides by the value of a tensor" in text
    assert HERE in text
    assert "torch.cond" in text
    assert refused.value.exit_code == 2
    assert "\n" not in text
    assert_untouched(before, module)


@pytest.mark.parametrize(
    ("args", "kwargs", "piece"),
    [
        ((), {}, "x"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), {}, "too many positional arguments"),
        ((torch.zeros(2, 3),), {"mask": None}, "mask"),
    ],
)
def test_example_inputs_that_do_not_bind(args: tuple[Tensor, ...], kwargs: dict[str, object], piece: str) -> None:
    with pytest.raises(CaptureError, match=r"do not fit Branch\.forward") as refused:
        to_keras(Branch(), args, kwargs)
    assert piece in str(refused.value)


def test_example_inputs_of_a_wrong_shape() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = portrait(net)
    with pytest.raises(CaptureError, match="could not trace Sequential") as refused:
        to_keras(net, (torch.zeros(2, 5),))
    assert "[4, 4]" in str(refused.value)
    assert "<string>" not in str(refused.value)
    assert_untouched(before, net)


def test_options_and_sources_that_do_not_exist() -> None:
    net, x = nn.Linear(2, 2), torch.zeros(2, 2)
    with pytest.raises(UsageError, match="layout='nchw': choose 'keras' or 'torch'"):
        to_keras(net, (x,), layout="nchw")
    with pytest.raises(UsageError, match="mode='train'"):
        to_keras(net, (x,), mode="train")
    with pytest.raises(UsageError, match="dtype='int8'"):
        to_keras(net, (x,), dtype="int8")
    with pytest.raises(UsageError, match="give a tuple of example inputs"):
        to_keras(net, x)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the source is a function"):
        to_keras(lambda x: x, (x,))
    with pytest.raises(CaptureError, match="dynamic dims are given for y, but the inputs are input"):
        to_keras(net, (x,), None, {"y": {0: "b"}})


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(10)


def test_a_dim_that_the_module_fixes() -> None:
    x = torch.zeros(2, 10)
    with pytest.raises(CaptureError, match="a dim asked to be dynamic is fixed by the module") as refused:
        to_keras(Fixed(), (x,), None, {"x": {0: "b", 1: "n"}})
    assert refused.value.exit_code == 2
    assert_same(to_keras(Fixed(), (x,), None, {"x": {0: "b"}}), Fixed(), torch.rand(3, 10))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 3


def test_a_model_without_tensors() -> None:
    with pytest.raises(UnsupportedError, match="returns no tensor"):
        to_keras(Nothing(), (torch.zeros(2),))


# ------------------------------------------------------------------------------------------------------ unsupported ops
@pytest.fixture
def custom_ops() -> Iterator[None]:
    with torch.library._scoped_library("isomorph_test", "FRAGMENT") as library:
        for name in ("alpha", "omega"):
            library.define(f"{name}(Tensor x) -> Tensor")
            library.impl(name, lambda x: x.clone(), "CompositeExplicitAutograd")
        yield


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.isomorph_test.alpha(x)


class Custom2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), Custom())
        self.second = Custom()
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.isomorph_test.omega(self.drop(self.second(self.first(x))))


def test_all_unsupported_ops_at_once(custom_ops: None) -> None:
    module = Custom2()
    before = portrait(module)
    with pytest.raises(UnsupportedError) as refused:
        to_keras(module, (torch.zeros(2, 3),))
    text = str(refused.value)
    assert text.splitlines()[0] == "2 ops have no rule and no decomposition into ops that have:"
    alpha, omega = text.splitlines()[1:]
    line = Custom.forward.__code__.co_firstlineno + 1
    assert alpha.strip().startswith("isomorph_test.alpha.default x2  first in first.1 (Custom) at ")
    assert alpha.endswith(f"{HERE}:{line}")
    assert omega.strip().startswith("isomorph_test.omega.default x1  first in (root)")
    assert [(m.op, m.count) for m in refused.value.ops] == [
        ("isomorph_test.alpha.default", 2),
        ("isomorph_test.omega.default", 1),
    ]
    assert [o.module_path for o in refused.value.ops[0].origins] == ["first.1", "second"]
    assert refused.value.exit_code == 3
    assert_untouched(before, module)


class InCond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: torch.ops.isomorph_test.alpha(x) + 1, lambda x: x - 1, (x,))


def test_unsupported_ops_inside_branches_are_found(custom_ops: None) -> None:
    with pytest.raises(UnsupportedError, match="1 op has no rule") as refused:
        to_keras(InCond(), (torch.zeros(2, 3),))
    assert "isomorph_test.alpha.default x1" in str(refused.value)


# ----------------------------------------------------------------------------------------------- decomposition fallback
class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.bn = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.bn(self.norm(self.fc(x)))).logsumexp(1)


@pytest.mark.parametrize("removed", [["aten.layer_norm.default"], ["aten.silu.default", "aten.logsumexp.default"]])
def test_an_op_without_a_rule_is_decomposed_and_no_other(removed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for op in removed:
        monkeypatch.delitem(RULES, op)
        monkeypatch.delitem(LAYER_FORMS, op, raising=False)
    module, x = settled(Mixed()), randn(3, 4)
    graph = capture(module, (x,), has_rule=is_supported).graph
    ops = {n.op for n in graph.nodes}
    assert not missing(graph)
    assert not ops & set(removed)
    assert {"aten.linear.default", "aten.batch_norm.default"} <= ops
    converted = to_keras(module, (x,))
    assert_same(converted, module, randn(5, 4, seed=3))
    assert_same(converted, module, randn(5, 4, seed=3), training=True)


# --------------------------------------------------------------------------------------------------------- what it says
def test_a_conversion_leaves_the_module_alone() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=None), nn.Dropout(), nn.Flatten(), nn.Linear(2 * 4, 2)
    )
    module[0].weight.requires_grad_(False)
    module[1].eval()
    module[4].register_forward_hook(lambda m, i, o: None)
    before, state = portrait(module), torch.random.get_rng_state()
    to_keras(module, (torch.zeros(2, 1, 4, 4),))
    assert_untouched(before, module)
    assert torch.equal(state, torch.random.get_rng_state())


class Line(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)


def test_every_node_knows_where_it_came_from() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Line(), nn.ReLU()))
    nodes = capture(module, (torch.zeros(2, 2),), has_rule=is_supported).graph.nodes
    linear, exp, relu = (n.origin for n in nodes)
    assert (linear.module_path, exp.module_path, relu.module_path) == ("0", "1.0", "1.1")
    assert exp.module_class.endswith("Line")
    assert exp.file.endswith(HERE)
    assert exp.line == Line.forward.__code__.co_firstlineno + 1
    assert exp.scope == (("1", 0), ("0", 0))
    assert relu.scope == (("1", 0), ("1", 0))


def test_dim_names_are_the_users() -> None:
    class Net(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            return (ids * mask).sum(1)

    ids = torch.zeros(2, 7)
    named = capture(
        Net(), (ids, ids), None, {"ids": {0: "b", 1: "s"}, "mask": {0: "b", 1: "s"}}, has_rule=is_supported
    ).graph
    assert [v.type.shape for v in named.inputs] == [(Sym("b"), Sym("s"))] * 2
    assert named.bounds.keys() == {"b", "s"}
    free = capture(Net(), (ids, ids), has_rule=is_supported).graph
    assert [v.type.shape for v in free.inputs] == [(Sym("b"), 7)] * 2
    fixed = capture(Net(), (ids, ids), None, {}, has_rule=is_supported).graph
    assert [v.type.shape for v in fixed.inputs] == [(2, 7)] * 2


@pytest.mark.parametrize("example", [1, 2])
def test_the_batch_is_free_whatever_the_example_had(example: int) -> None:
    module = settled(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.Softmax(1)
        )
    )
    converted = to_keras(module, (randn(example, 2, 4, 4),))
    for batch in (1, 3, 7):
        assert_same(converted, module, randn(batch, 2, 4, 4, seed=batch))


def test_the_batch_is_free_beside_an_axis_of_size_one() -> None:
    """Doubling every leading axis of one, to free the batch, would not fit this module."""

    class Net(nn.Module):
        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return torch.cat([x + shift, x * shift], 1)

    converted = to_keras(Net(), (randn(4, 3), randn(1, 3)))
    assert [p.dims for p in converted.inputs] == [("b", 3), (1, 3)]
    for batch in (1, 3, 7):
        assert_same(converted, Net(), randn(batch, 3), randn(1, 3, seed=1))


def test_a_static_graph_keeps_its_numbers() -> None:
    module = settled(Mixed())
    converted = to_keras(module, (randn(3, 4),), None, {})
    assert converted.inputs[0].dims == (3, 4)
    np.testing.assert_allclose(
        np.asarray(converted.model(randn(3, 4).numpy())), module(randn(3, 4)).detach().numpy(), rtol=1e-12
    )


class Autocast(torch.nn.Module):
    """A region in mixed precision, and one that switches it off."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)
        self.enabled = enabled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            return self.fc(x)


def test_a_mixed_precision_region_is_refused_and_a_disabled_one_is_not() -> None:
    x = torch.randn(2, 4)
    to_keras(Autocast(False).eval(), (x,))
    with pytest.raises(UnsupportedError, match="autocast"):
        to_keras(Autocast(True).eval(), (x,))
