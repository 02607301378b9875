"""Axis order: reshapes of tensors as they lie, no transposes in plain CNNs, and what stands at the model's doors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fixtures.zoo import ZOO
from isomorph.convert.api import to_keras
from isomorph.convert.conversion import Port
from isomorph.convert.ir import Graph, Node, Sym, TensorType, Value
from isomorph.convert.layout import (
    PERMUTES,
    Placed,
    after_reduction,
    channels_last,
    feeds_spatial,
    identity,
    moves_data,
    permuted,
    relative,
    reshape_groups,
    reshape_orders,
)
from isomorph.convert.rules.registry import load_rules
from tests.convert.nets import assert_same, every_layer, on_keras, on_torch, randn, settled

load_rules()


# ------------------------------------------------------------------------------------------------------------ reshaping
@st.composite
def reshapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(source shape, target shape of as many elements, order in which the source lies)."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 5]), min_size=1, max_size=6))

    def grouped() -> tuple[int, ...]:
        cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=4)))
        edges = [0, *cuts, len(factors)]
        return tuple(math.prod(factors[a:b]) for a, b in itertools.pairwise(edges))

    source, target = grouped(), grouped()
    return source, target, tuple(draw(st.permutations(range(len(source)))))


@settings(max_examples=400, deadline=None)
@given(reshapes())
def test_a_reshape_in_place_is_torchs_reshape(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    source, target, perm = case
    array = np.arange(math.prod(source)).reshape(source)
    x = Placed(array.transpose(perm), TensorType(source, "int64"), perm)
    before, order = reshape_orders(x, target)
    assert sorted(before) == list(range(len(source)))
    assert sorted(order) == list(range(len(target)))
    brought = x.tensor.transpose(relative(perm, before))
    result = brought.reshape([target[a] for a in order])
    np.testing.assert_array_equal(result.transpose(np.argsort(order)), array.reshape(target))


@settings(max_examples=300, deadline=None)
@given(reshapes())
def test_the_pieces_of_a_reshape_are_independent(
    case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    source, target, _ = case
    groups = reshape_groups(source, target)
    assert groups is not None
    assert [a for left, _ in groups for a in left] == list(range(len(source)))
    assert [a for _, right in groups for a in right] == list(range(len(target)))
    for left, right in groups:
        assert math.prod(source[a] for a in left) == math.prod(target[a] for a in right)


B, S = Sym("b"), Sym("s")


@pytest.mark.parametrize(
    ("source", "target", "groups"),
    [
        ((B, 3, 4, 4), (B, 3, 16), [([0], [0]), ([1], [1]), ([2, 3], [2])]),
        ((B, S, 8), (B, S, 2, 4), [([0], [0]), ([1], [1]), ([2], [2, 3])]),
        ((B, 1, S), (B, S), [([0], [0]), ([1], []), ([2], [1])]),
        ((B, S, 8), (Sym("b*s"), 8), [([0, 1], [0]), ([2], [1])]),
    ],
)
def test_reshapes_of_unknown_sizes(source: Any, target: Any, groups: Any) -> None:
    assert reshape_groups(source, target) == groups


@pytest.mark.parametrize(
    ("op", "arguments", "torch_op"),
    [
        ("aten.permute.default", ([2, 0, 1, -1],), lambda x: x.permute(2, 0, 1, -1)),
        ("aten.transpose.int", (1, -1), lambda x: x.transpose(1, -1)),
        ("aten.movedim.intlist", ([0, 1], [-1, 0]), lambda x: x.movedim((0, 1), (-1, 0))),
        ("aten.movedim.int", (3, 1), lambda x: x.movedim(3, 1)),
        ("aten.mT.default", (), lambda x: x.mT),
        ("aten.numpy_T.default", (), lambda x: x.permute(3, 2, 1, 0)),
        ("aten.swapaxes.default", (0, 2), lambda x: x.swapaxes(0, 2)),
    ],
)
def test_a_permuting_op_relabels(op: str, arguments: Any, torch_op: Any) -> None:
    assert op in PERMUTES
    array = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    want = torch_op(array)
    for perm in ((0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)):
        x, y = Value("x", TensorType((2, 3, 4, 5), "int64")), Value("y", TensorType(tuple(want.shape), "int64"))
        placed = permuted(Node(op, (x, *arguments), {}, (y,)), Placed(array.numpy().transpose(perm), x.type, perm))
        np.testing.assert_array_equal(placed.tensor.transpose(np.argsort(placed.perm)), want.numpy())


def test_small_questions() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(2) == (0, 1)
    assert not moves_data((1, 5, 1), (2, 0, 1))
    assert moves_data((2, 5, 1), (1, 0, 2))
    assert after_reduction((0, 2, 3, 1), (2, 3)) == (0, 1)
    assert after_reduction((0, 2, 3, 1), (0,)) == (1, 2, 0)
    assert relative((0, 2, 3, 1), identity(4)) == (0, 3, 1, 2)


def test_an_image_is_told_from_a_sequence() -> None:
    x, y, z = (Value(n, TensorType((B, 3, 8, 8), "float32")) for n in "xyz")
    w = Value("w", TensorType((4, 3, 1, 1), "float32"))
    relu = Node("aten.relu.default", (x,), {}, (y,))
    conv = Node("aten.conv2d.default", (y, w, None, [1, 1], [0, 0], [1, 1], 1), {}, (z,))
    assert feeds_spatial(Graph([x, w], [z], [relu, conv]), x)
    assert not feeds_spatial(Graph([x, w], [z], [relu, conv]), w)
    assert not feeds_spatial(Graph([x], [y], [relu]), x)


# ----------------------------------------------------------------------------------------------------------- transposes
@pytest.mark.parametrize(
    ("name", "transposes"), [("resnet_basic", 0), ("mobilenet_v3", 0), ("densenet", 0), ("vgg", 1)]
)
def test_a_plain_cnn_has_no_transposes(name: str, transposes: int) -> None:
    """Apart from the flatten before VGG's first linear layer, whose weights count channels first."""
    fixture = ZOO[name]
    converted = to_keras(fixture.build(), fixture.args(), fixture.kwargs(), fixture.dynamic)
    assert converted.report["transposes"] == transposes
    operations = [
        op
        for m in [converted.model, *every_layer(converted.model)]
        if isinstance(m, keras.Model)
        for op in m.operations
    ]
    assert sum(type(op).__name__ in ("Transpose", "Permute") for op in operations) == transposes
    assert converted.report["native_share"] == 1


def test_channels_last_outside_of_an_image_model_costs_two_moves_in_torch_order() -> None:
    module = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)))
    keras_order, torch_order = (to_keras(module, (randn(2, 2, 8, 8),), layout=each) for each in ("keras", "torch"))
    assert (keras_order.report["transposes"], torch_order.report["transposes"]) == (0, 2)


class Branches(nn.Module):
    """Elementwise work between tensors that lie in different orders, shuffles, and a reduction over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.table = nn.Parameter(torch.zeros(6, 5, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x) + self.table
        shuffled = y.reshape(-1, 2, 3, 5, 5).transpose(1, 2).flatten(1, 2)
        tokens = y.flatten(2).transpose(1, 2)
        weighted = tokens * tokens.softmax(1).mean(2, keepdim=True)
        return shuffled * y, weighted, y.mean(1), torch.cat([y, shuffled], 1).amax((2, 3)), y.permute(0, 2, 3, 1)


@pytest.mark.parametrize("layout", ["keras", "torch"])
def test_mixed_orders_stay_right(layout: str) -> None:
    module = settled(Branches())
    converted = to_keras(module, (randn(2, 4, 5, 5),), layout=layout)
    for batch in (1, 3):
        assert_same(converted, module, randn(batch, 4, 5, 5, seed=batch))


# ---------------------------------------------------------------------------------------------------------------- ports
class Doors(nn.Module):
    """An image, a signal and a vector in; an image, a signal and a matrix out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.signal = nn.Conv2d(3, 4, 1), nn.Conv1d(2, 4, 1)

    def forward(self, image: Tensor, signal: Tensor, vector: Tensor) -> dict[str, Tensor]:
        image, signal = self.image(image), self.signal(signal)
        return {"image": image, "signal": signal, "matrix": image.mean((2, 3)) + vector}


def test_doors_are_channels_last_for_keras_and_torchs_for_torch() -> None:
    module = settled(Doors())
    xs = (randn(2, 3, 5, 6), randn(2, 2, 7, seed=1), randn(2, 4, seed=2))
    last, first = (to_keras(module, xs, layout=each) for each in ("keras", "torch"))
    assert [tuple(i.shape) for i in last.model.inputs] == [(None, 5, 6, 3), (None, 7, 2), (None, 4)]
    assert [tuple(i.shape) for i in first.model.inputs] == [(None, 3, 5, 6), (None, 2, 7), (None, 4)]
    assert [tuple(o.shape) for o in last.model.outputs] == [(None, 5, 6, 4), (None, 7, 4), (None, 4)]
    assert [tuple(o.shape) for o in first.model.outputs] == [(None, 4, 5, 6), (None, 4, 7), (None, 4)]
    assert [p.permutation for p in last.inputs] == [(0, 2, 3, 1), (0, 2, 1), None]
    assert [p.permutation for p in last.outputs] == [(0, 2, 3, 1), (0, 2, 1), None]
    assert {p.permutation for p in [*first.inputs, *first.outputs]} == {None}
    assert [p.name for p in last.inputs] == ["image", "signal", "vector"]
    assert [p.name for p in last.outputs] == ["image", "signal", "matrix"]
    assert last.output_structure == {"image": 0, "signal": 1, "matrix": 2}
    assert [p.dims for p in last.inputs] == [
        ("b", 3, 5, 6),
        ("b1", 2, 7),
        ("b", 4),
    ]  # torch did not need the signal's batch
    assert (last.layout, first.layout) == ("keras", "torch")
    want = on_torch(module, *xs)
    for converted in (last, first):
        for g, w in zip(on_keras(converted, *xs), want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-12)


@given(st.permutations(range(4)))
def test_a_port_goes_both_ways(perm: list[int]) -> None:
    port, array = Port("x", "float32", ("b", 2, 3, 4), tuple(perm)), np.arange(120).reshape(5, 2, 3, 4)
    np.testing.assert_array_equal(port.to_keras(array), array.transpose(perm))
    np.testing.assert_array_equal(port.to_torch(port.to_keras(array)), array)
    plain = Port("x", "float32", ("b",))
    assert plain.to_keras(array) is array
    assert plain.to_torch(array) is array
