"""Weights followed through the ops that only move their elements: tracing.py and moved.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isomorph.convert.onnx_in.moved import Moved, array_of, same_layout, simplify
from isomorph.convert.onnx_in.tracing import trace
from isomorph.convert.weights import Transform

from .onnx_in_models import model, node


def initializer(*shape: int, name: str = "w") -> ir.Value:
    """Its elements are their own numbers."""
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    ir.Graph([], [], nodes=[], initializers=[value])
    return value


def resolved(moved: Moved) -> np.ndarray:
    """The value, computed by what it was resolved to."""
    found = moved.resolve()
    assert found is not None
    array = array_of(found.source)
    box = array if found.part is None else array[tuple(slice(a, b) for a, b in found.part)]
    return Transform(found.steps).to_keras(box)


@st.composite
def moves(draw: Any) -> Moved:
    """A chain of moves of one initializer that keeps all elements."""
    moved = Moved((initializer(*draw(st.permutations([2, 3, 4]))),), (0,))
    moved = Moved(moved.sources, array_of(moved.sources[0]).shape)
    for _ in range(draw(st.integers(0, 5))):
        rank = len(moved.shape)
        if draw(st.booleans()):
            moved = moved.transpose(*draw(st.permutations(range(rank))))
        else:
            shape = draw(
                st.sampled_from([(24,), (2, 12), (12, 2), (1, 24), (4, 6), (2, 3, 4), (3, 1, 8), (2, 2, 3, 2)])
            )
            moved = moved.reshape(*shape)
    return moved


@given(moves())
@settings(max_examples=100, deadline=None)
def test_a_chain_resolves_to_what_it_computes(moved: Moved) -> None:
    found = moved.resolve()
    assert found is not None
    assert found.part is None
    np.testing.assert_array_equal(resolved(moved), moved.array())
    back = Transform(found.steps).to_torch(moved.array())
    np.testing.assert_array_equal(back, array_of(found.source))


@given(moves())
@settings(max_examples=100, deadline=None)
def test_numbering_the_elements_finds_the_same_layout(moved: Moved) -> None:
    """The symbolic way and the way by element numbers agree, where the latter finds constant strides."""
    found, other = moved.resolve(), numbered(moved).resolve()
    assert found is not None
    if other is not None:
        assert same_layout(found.steps, other.steps, array_of(found.source).shape)


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((3, 3, 8, 2), [(2, 3, 0, 1), "16,1,3,3"]),  # a depthwise kernel
        ((4, 2, 6), [(1, 2, 0), "12,4"]),  # a projection to heads
        ((2, 6, 4), ["12,4", (1, 0)]),  # and back
        ((5, 1, 4), [(2, 0, 1), (1, 0, 2), "5,4"]),
    ],
)
def test_the_layouts_of_kernels_are_found_by_numbers(shape: tuple[int, ...], steps: list[Any]) -> None:
    value = initializer(*shape)
    moved = Moved((value,), shape)
    for step in steps:
        moved = moved.transpose(*step) if isinstance(step, tuple) else moved.reshape(*map(int, step.split(",")))
    other = numbered(moved).resolve()
    assert other is not None
    np.testing.assert_array_equal(Transform(other.steps).to_keras(array_of(value)), moved.array())
    assert len(other.steps) <= 3


def numbered(moved: Moved) -> Moved:
    """The same, without the steps: its elements are followed one by one."""
    return Moved(moved.sources, moved.shape, None, (moved,), lambda a: a)


def test_what_undoes_itself_is_nothing() -> None:
    steps = (("transpose", (1, 0, 2), ()), ("reshape", (2, 12), (3, 2, 4)), ("reshape", (3, 2, 4), (2, 12)))
    assert simplify((*steps, ("transpose", (1, 0, 2), ())), (2, 3, 4)) == ()
    assert simplify((("transpose", (0, 3, 1, 2), ()),), (1, 1, 1, 5)) == (("reshape", (1, 5, 1, 1), (1, 1, 1, 5)),)


def test_gates_in_another_order_are_blocks() -> None:
    kernel = Moved((initializer(12, 3),), (12, 3))
    reordered = kernel.take(0, [*range(3), *range(9, 12), *range(3, 9)])
    found = reordered.resolve()
    assert found is not None
    assert found.steps == (("blocks", (0, 0, 3, 1, 2), ()),)
    np.testing.assert_array_equal(resolved(reordered), reordered.array())


def test_a_part_is_a_box() -> None:
    both = Moved((initializer(2, 6, 3),), (2, 6, 3))
    found = both.take(0, 1).transpose(1, 0).resolve()
    assert found is not None
    assert found.part == ((1, 2), (0, 6), (0, 3))
    np.testing.assert_array_equal(resolved(both.take(0, 1).transpose(1, 0)), both.array()[1].T)


@pytest.mark.parametrize("indices", [[0, 0, 1], [0, 2], [3, 1, 0, 2, 4]])
def test_what_is_no_box_or_no_order_is_not_resolved(indices: list[int]) -> None:
    assert Moved((initializer(5, 3),), (5, 3)).take(0, indices).resolve() is None


def traced(nodes: list[Any], **weights: np.ndarray) -> Moved | None:
    """What `y` is in a graph of these nodes."""
    proto = model([*nodes, node("Add", ["x", "y"], ["z"])], {"x": ["n"]}, ["z"], weights)
    made = ir.from_proto(proto)
    found: ir.Value = made.graph[-1].inputs[1]  # type: ignore[assignment]
    return trace(found)


def test_a_keras_lstm_kernel_in_onnx_order_is_a_transpose_of_the_variable() -> None:
    kernel = np.arange(24, dtype=np.float32).reshape(2, 12)
    found = traced(
        [
            node("Split", ["k"], ["i", "f", "c", "o"], axis=1, num_outputs=4),
            node("Concat", ["i", "o", "f", "c"], ["order"], axis=1),
            node("Transpose", ["order"], ["moved"], perm=[1, 0]),
            node("Unsqueeze", ["moved", "zero"], ["y"]),
        ],
        k=kernel,
        zero=np.array([0]),
    )
    assert found is not None
    assert found.shape == (1, 12, 2)
    torchs = found.take(0, 0).blocks(0, 0, 2, 3, 1).resolve()
    assert torchs is not None
    assert torchs.steps == (("transpose", (1, 0), ()),)


def test_old_attributes_and_new_inputs_are_one() -> None:
    array = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    nodes = [
        node("Squeeze", ["k", "zero"], ["a"]),
        node("Slice", ["a", "zero", "two"], ["b"]),
        node("Reshape", ["b", "shape"], ["c"]),
        node("Flatten", ["c"], ["d"], axis=0),
        node("Gather", ["d", "index"], ["e"]),
        node("Identity", ["e"], ["y"]),
    ]
    constants = {"zero": [0], "two": [2], "shape": [-1, 2], "index": 0}
    found = traced(nodes, k=array, **{k: np.array(v) for k, v in constants.items()})
    assert found is not None
    np.testing.assert_array_equal(found.array(), array[0, :2].reshape(-1))


def test_what_is_computed_is_not_traced() -> None:
    array = np.ones((2, 3), np.float32)
    assert traced([node("Relu", ["k"], ["y"])], k=array) is None
    assert traced([node("Cast", ["k"], ["y"], to=1)], k=array) is None
    assert traced([node("Shape", ["x"], ["s"]), node("Reshape", ["k", "s"], ["y"])], k=array) is None
    odd = [node("Constant", [], ["i"], value_ints=[0, 0]), node("Gather", ["k", "i"], ["y"])]
    assert traced(odd, k=array) is None
