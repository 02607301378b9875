"""Arrays are recovered from whatever a port did to their layout; errors in a port are told, what is open is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isomorph.parity.matching.held import Held
from isomorph.parity.matching.match_weights import Weights, match_weights
from isomorph.parity.matching.pieces import image_of, pull_gradients
from isomorph.parity.matching.solve_layout import solve

RNG = np.random.default_rng(0)


def held(arrays: dict[str, Any], dtype: str = "float32", kind: str = "parameter") -> list[Held]:
    return [Held(name, np.asarray(array), dtype, kind) for name, array in arrays.items()]


def pieces_into(found: Weights, name: str) -> list[Any]:
    return [piece for match in found.matches.values() for piece in match.pieces if piece.converted == name]


def assert_maps(found: Weights, a: dict[str, Any], b: dict[str, Any]) -> None:
    """The map makes every array of b from those of a, and its transpose is its transpose."""
    rng = np.random.default_rng(1)
    moved = {name: rng.standard_normal(array.shape) for name, array in a.items()}
    gradients = {name: rng.standard_normal(array.shape) for name, array in b.items()}
    forward = 0.0
    for name, array in b.items():
        pieces = pieces_into(found, name)
        assert pieces, f"{name} is made of nothing"
        assert np.array_equal(image_of(pieces, a, np.full_like(array, np.nan)), array), name
        forward += float(np.vdot(image_of(pieces, moved, np.zeros(array.shape)), gradients[name]))
    pulled = pull_gradients(found.matches, {name: array.shape for name, array in a.items()}, gradients)
    assert pulled.keys() == a.keys()
    assert np.isclose(forward, sum(float(np.vdot(moved[name], pulled[name])) for name in a), rtol=1e-9, atol=1e-9)


@st.composite
def ports(draw: st.DrawFn, values: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays, and the same after other axis orders, shapes, orders along axes, splits and joins, in another order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=4), min_size=1, max_size=6))
    joins = draw(st.booleans()) and len(shapes) > 1 and len(shapes[0]) > 0
    if joins:
        shapes[1] = [draw(st.integers(1, 3)), *shapes[0][1:]]
    a: dict[str, Any] = {}
    for index, shape in enumerate(shapes):
        if values == "distinct":
            array = rng.standard_normal(shape)
        else:
            array = rng.integers(-1, 2, shape)
        a[f"layer{index}.weight"] = np.asarray(array, np.float32)
    whole = list(a.values())
    if joins:
        whole = [np.concatenate(whole[:2]), *whole[2:]]
    b: list[Any] = []
    for array in whole:
        array = array.transpose(draw(st.permutations(range(array.ndim))))
        if array.ndim and draw(st.booleans()):
            axis = draw(st.integers(0, array.ndim - 1))
            array = np.take(array, rng.permutation(array.shape[axis]), axis)
        if array.ndim > 1 and draw(st.booleans()):  # neighbours merged
            axis = draw(st.integers(0, array.ndim - 2))
            array = array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])
        parts = [array]
        if array.ndim and draw(st.booleans()):
            axis = draw(st.integers(0, array.ndim - 1))
            parts = np.array_split(array, min(draw(st.integers(1, 3)), array.shape[axis]), axis)
        for part in parts:
            b.append(np.array(part.reshape((*part.shape, 1)) if draw(st.booleans()) else part))
    order = draw(st.permutations(range(len(b))))
    return a, {f"variable_{place}": b[at] for place, at in enumerate(order)}


@given(ports("distinct"))
@settings(max_examples=300, deadline=None)
def test_distinct_values_are_recovered_exactly(made: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = made
    found = match_weights(held(a), held(b))
    assert not found.unmatched_original
    assert not found.unmatched_converted
    assert not found.ambiguous
    assert_maps(found, a, b)


@given(ports("ties"))
@settings(max_examples=200, deadline=None)
def test_tied_values_never_give_a_wrong_map(made: tuple[dict[str, Any], dict[str, Any]]) -> None:
    a, b = made
    found = match_weights(held(a), held(b))
    for name, array in b.items():
        pieces = pieces_into(found, name)
        said = any(found.matches[piece.original].note for piece in pieces)
        if pieces and not said:
            assert np.array_equal(image_of(pieces, a, np.full_like(array, np.nan)), array), name


CONV = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
LAYOUTS = {
    "HWIO": CONV.transpose(2, 3, 1, 0),
    "OHWI": CONV.transpose(0, 2, 3, 1),
    "im2col": CONV.transpose(2, 3, 1, 0).reshape(-1, 6),
    "flipped": CONV[:, :, ::-1, ::-1],
    "shuffled channels": CONV.transpose(1, 2, 3, 0)[:, :, :, [0, 2, 4, 1, 3, 5]],
    "split": CONV.reshape(2, 3, 4, 9).transpose(2, 0, 3, 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_a_kernel(name: str) -> None:
    found = match_weights(held({"conv.weight": CONV}), held({"kernel": LAYOUTS[name]}))
    assert_maps(found, {"conv.weight": CONV}, {"kernel": np.ascontiguousarray(LAYOUTS[name])})
    assert found.matches["conv.weight"].how == "value"


def test_values_in_a_narrower_dtype_are_recognised() -> None:
    from isomorph.parity.drawing.strategies import round_to

    for dtype in ("float16", "bfloat16"):
        found = match_weights(held({"w": CONV}), held({"kernel": round_to(CONV, dtype).transpose(2, 3, 1, 0)}, dtype))
        assert found.matches["w"].how == "value"
        assert not found.matches["w"].note
    wide = match_weights(held({"w": CONV}), held({"kernel": CONV.T.astype(np.float64)}, "float64"))
    assert not wide.unmatched_converted


def test_a_transposed_square_matrix_is_seen() -> None:
    square = RNG.standard_normal((7, 7)).astype(np.float32)
    for given_, permutation in ((square, (0, 1)), (square.T, (1, 0))):
        found = match_weights(held({"w": square}), held({"k": given_}))
        assert found.matches["w"].pieces[0].permutation == permutation


NEAR = {
    "elements": (lambda w: np.where(np.arange(w.size).reshape(w.shape) < 3, 0, w).astype(np.float32), "3 of 64"),
    "scale": (lambda w: w * np.float32(0.125), "held times 0.125"),
    "sign": (lambda w: -w, "held times -1"),
    "rounded": (lambda w: w.astype(np.float16).astype(np.float32), "differs by"),
    "other values": (lambda w: np.random.default_rng(9).standard_normal(w.shape).astype(np.float32), "other values"),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_are_matched_and_told(name: str) -> None:
    change, words = NEAR[name]
    w = np.random.default_rng(2).standard_normal((4, 16)).astype(np.float32)
    same = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
    found = match_weights(held({"a.w": same, "b.w": w}), held({"x/kernel": same.T, "y/kernel": change(w).T}))
    match = found.matches["b.w"]
    assert match.pieces[0].converted == "y/kernel"
    assert match.pieces[0].permutation == (1, 0)
    assert words in match.note
    assert len(found.ambiguous) == 1
    assert "b.w" in found.ambiguous[0]


def test_a_sum_of_two_biases_gets_the_gradient_twice() -> None:
    one, two = (RNG.standard_normal(8).astype(np.float32) for _ in range(2))
    found = match_weights(held({"l.bias_ih": one, "l.bias_hh": two}), held({"bias": one + two}))
    gradients = pull_gradients(found.matches, {"l.bias_ih": (8,), "l.bias_hh": (8,)}, {"bias": np.arange(8.0)})
    assert np.array_equal(gradients["l.bias_ih"], np.arange(8.0))
    assert np.array_equal(gradients["l.bias_hh"], np.arange(8.0))


def test_what_has_no_counterpart_is_left() -> None:
    a = {"w": RNG.standard_normal((3, 4)), "extra": RNG.standard_normal((5, 2))}
    b = {"k": a["w"].T, "other": RNG.standard_normal(9)}
    found = match_weights(held(a), held(b))
    assert found.unmatched_original == ["extra"]
    assert found.unmatched_converted == ["other"]


def test_a_symmetric_value_is_ambiguous_and_follows_the_others() -> None:
    """A zero-initialised last layer takes the axis order that the model's other matrices have."""
    a = {"one.weight": RNG.standard_normal((4, 4)), "last.weight": np.zeros((4, 4))}
    b = {"p/kernel": a["one.weight"].T, "q/kernel": np.zeros((4, 4))}
    found = match_weights(held(a), held(b))
    assert found.matches["last.weight"].pieces[0].permutation == (1, 0)
    assert "several permutations" in found.ambiguous[0]


def test_zeros_that_nothing_tells_apart_are_ambiguous() -> None:
    a = {"x.bias": np.zeros(4), "y.bias": np.zeros(4)}
    found = match_weights(held(a), held({"0": np.zeros(4), "1": np.zeros(4)}))
    assert [found.matches[name].how for name in a] == ["order", "order"]
    assert len(found.ambiguous) == 2


def test_a_tied_tensor_held_twice_is_two_matches() -> None:
    table = RNG.standard_normal((5, 3)).astype(np.float32)
    a = [Held("embed.weight", table, "float32"), Held("head.weight", table, "float32", tied="embed.weight")]
    once = match_weights(a, held({"embeddings": table}))
    twice = match_weights(a, held({"embeddings": table, "kernel": table.T}))
    assert once.matches.keys() == {"embed.weight"}
    assert twice.matches.keys() == {"embed.weight", "head.weight"}
    assert not twice.unmatched_converted


def test_solve_prefers_whole_axes_to_reordered_ones() -> None:
    layout = solve(CONV, np.ascontiguousarray(CONV.transpose(2, 3, 1, 0)))
    assert layout is not None
    assert layout.permutation == (2, 3, 1, 0)
    assert all(index is None for index in layout.source)
