"""Inputs and outputs find each other by name, by order, by what fits and by what the models answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from isomorph.convert.errors import UsageError
from isomorph.parity.matching.adapt import Adapted
from isomorph.parity.matching.correspond import find
from isomorph.parity.matching.match_ports import match_leaves, match_names, permutations
from isomorph.parity.runners.base import About, ParameterInfo, PortInfo, Request, Response
from isomorph.parity.runners.spec import WorkerError

RNG = np.random.default_rng(0)


class Computes:
    """A runner of a function from arrays to (structure, arrays), without parameters."""

    def __init__(self, function: Callable[..., Any], *ports: PortInfo, format: str = "onnx") -> None:
        self.dtype, self.function, self.ports, self.format = "own", function, ports, format
        self.asked: list[Request] = []

    def about(self) -> About:
        return About(self.format, self.ports, modes=("eval",), gradients=False)

    def respond(self, request: Request) -> Response:
        self.asked.append(request)
        for array, port in zip(request.inputs, self.ports, strict=True):
            if array.dtype.kind in "iub":
                assert array.dtype == port.dtype
        structure, outputs = self.function(*request.inputs)
        return Response(tuple(outputs), tuple(str(o.dtype) for o in outputs), structure)

    def parameters(self) -> dict[str, ParameterInfo]:
        return {}

    buffers = state = index_bounds = parameters

    def load(self, state: Any) -> None:
        assert not state

    def to_float64(self) -> Any:
        return self

    def trace(self, request: Request) -> tuple[Any, ...]:
        return ()

    def close(self) -> None: ...


def port(name: str, dims: Sequence[Any] | None, dtype: str = "float32") -> PortInfo:
    return PortInfo(name, dtype, None if dims is None else tuple(dims))


def one(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: ([0], [np.asarray(function(*arrays))])


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def test_inputs_are_matched_by_name_then_by_kind_and_order() -> None:
    names = ["input_ids", "attention_mask", "pixels"]
    kinds = ["integer", "integer", "float"]
    ports = [port("serving_default_attention_mask:0", None, "int32"), port("x", None), port("y", None, "int32")]
    assert match_names(names, kinds, ports) == ([2, 0, 1], "order")
    ports = [
        port("Attention-Mask", None, "int32"),
        port("args_0_pixels", None),
        port("inputs/input_ids", None, "int64"),
    ]
    assert match_names(names, kinds, ports) == ([2, 0, 1], "name")


def test_an_input_that_has_no_counterpart_is_a_contradiction() -> None:
    a = Computes(one(lambda x, y: x + y), port("x", (2, 3)), port("y", (2, 3)))
    b = Computes(one(lambda x: x), port("x", (2, 3)))
    found = find(a, b, (floats(2, 3), floats(2, 3)))
    assert [(c.kind, c.name) for c in found.contradictions] == [("structure", "inputs")]


def test_another_kind_of_input_is_a_contradiction() -> None:
    a, b = Computes(one(abs), port("x", (2, 3))), Computes(one(abs), port("x", (2, 3), "int32"))
    found = find(a, b, (floats(2, 3),))
    assert [(c.kind, c.name) for c in found.contradictions] == [("dtype", "input x")]


def test_ids_are_cast_and_that_is_noted() -> None:
    a = Computes(one(lambda x: x * 2.0), port("ids", (2, 3), "int64"))
    b = Computes(one(lambda x: x * 2.0), port("ids", (None, 3), "int32"))
    found = find(a, b, (np.arange(6).reshape(2, 3),))
    assert "int32" in found.notes[0]
    Adapted(b, found).respond(Request((np.arange(6).reshape(2, 3),), "eval", False))


@pytest.mark.parametrize(
    ("shape", "dims", "expected"),
    [
        ((2, 3, 8, 9), (None, 8, 9, 3), (0, 2, 3, 1)),
        ((2, 8, 9, 3), ("b", 3, 8, 9), (0, 3, 1, 2)),
        ((2, 3, 8, 8), (None, None, None, 3), (0, 2, 3, 1)),
        ((2, 3, 8, 8), (None, 3, None, None), (0, 1, 2, 3)),
        ((2, 3, 7), (None, 7, 3), (0, 2, 1)),
        ((5, 2, 7), (2, 5, 7), (1, 0, 2)),
        ((2, 3), (3, 2), (1, 0)),
        ((2, 3), (None, 4), None),
        ((2, 3), (None, 3, 1), None),
    ],
)
def test_axis_orders_that_fit(shape: Any, dims: Any, expected: Any) -> None:
    fits = permutations(shape, dims)
    assert (fits[0] if fits else None) == expected


def mean_of_channels(axis: int) -> Callable[..., Any]:
    return one(
        lambda x: (x * np.arange(x.shape[axis]).reshape([-1 if k == axis else 1 for k in range(4)])).sum((1, 2, 3))
    )


def test_equal_sizes_are_told_apart_by_running() -> None:
    """3 channels, 3 by 3: only the answers say which layout it is."""
    x = floats(2, 3, 3, 3)
    a = Computes(mean_of_channels(1), port("x", (2, 3, 3, 3)))
    for axis, expected in ((1, (0, 1, 2, 3)), (3, (0, 2, 3, 1))):
        b = Computes(mean_of_channels(axis), port("x", (None, 3, 3, 3)))
        found = find(a, b, (x,))
        assert found.inputs[0].permutation == expected
        assert bool(found.notes) == (axis == 3)


def test_an_exchange_of_height_and_width_is_not_repaired() -> None:
    a = Computes(one(lambda x: x[:, 0, :, 1]), port("x", (2, 3, 3, 3)))
    b = Computes(one(lambda x: x.transpose(0, 1, 3, 2)[:, 0, :, 1]), port("x", (None, 3, 3, 3)))
    x = floats(2, 3, 3, 3)
    found = find(a, b, (x,))
    assert found.inputs[0].permutation == (0, 1, 2, 3)
    assert any("agree under no order" in note for note in found.notes)
    got = Adapted(b, found).respond(Request((x,), "eval", False))
    assert not np.allclose(got.outputs[0], a.respond(Request((x,), "eval", False)).outputs[0])


def needs_last(channels: int) -> Callable[..., Any]:
    def function(x: Any) -> Any:
        if x.shape[-1] != channels:
            raise ValueError("wrong number of channels")
        return [0], [x * 2]

    return function


def test_unknown_ranks_are_tried() -> None:
    x = floats(2, 3, 4, 5)
    a = Computes(one(lambda x: x * 2), port("x", (2, 3, 4, 5)))
    b = Computes(needs_last(3), port("x", None))
    found = find(a, b, (x,))
    assert found.inputs[0].permutation == (0, 2, 3, 1)
    assert found.outputs[0].permutation == (0, 2, 3, 1)
    got = Adapted(b, found).respond(Request((x,), "eval", False))
    assert np.array_equal(got.outputs[0], x * 2)
    with pytest.raises(UsageError, match=r"x \[2, 3, 4, 5\].*wrong number of channels"):
        find(a, Computes(needs_last(11), port("x", None)), (x,))


def test_what_a_model_was_not_made_for_is_its_own_failure_if_its_shapes_are_declared() -> None:
    x = floats(2, 3)

    def fails(x: Any) -> Any:
        raise ValueError("no")

    found = find(Computes(one(abs), port("x", (2, 3))), Computes(fails, port("x", (None, 3))), (x,))
    assert not found.contradictions
    assert "the converted model raised on the example" in found.notes


def test_the_death_of_a_worker_passes_through() -> None:
    def dies(x: Any) -> Any:
        raise WorkerError("killed")

    with pytest.raises(WorkerError):
        find(Computes(one(abs), port("x", (2, 3))), Computes(dies, port("x", None)), (floats(2, 3),))


def test_an_example_of_other_sizes_is_bad_input_and_another_model_is_a_finding() -> None:
    a = Computes(one(abs), port("x", None))
    fixed = Computes(one(abs), port("x", (1, 8, 8, 3)))
    with pytest.raises(UsageError, match=r"give inputs of shape \[1, 3, 8, 8\]"):
        find(Computes(mean_of_channels(1), port("x", None)), fixed, (floats(2, 3, 8, 8),))
    weights = floats(4, 2)
    a = Computes(one(lambda x: x @ weights), port("x", (None, 4)))
    found = find(a, Computes(one(abs), port("x", (None, 5))), (floats(3, 4),))
    assert [(c.kind, c.name) for c in found.contradictions] == [("shape", "input x")]


OUTPUTS = [
    ({"a": 0, "b": 1}, {"b": 0, "a": 1}, {0: 1, 1: 0}, "name"),
    ([0, 1], {"x": 0, "y": 1}, {0: 0, 1: 1}, "order"),
    ({"a": 0, "b": 1}, [0, 1], {0: 0, 1: 1}, "order"),
    ({"a": 0, "b": [1, 2]}, [0, [1, 2]], {0: 0, 1: 1, 2: 2}, "order"),
    (list(range(11)), {f"output_{i}": n for n, i in enumerate(sorted(range(11), key=str))}, None, "order"),
    ({"a": 0, "b": 1}, {"a": 0, "c": 1}, {0: 0}, "name"),
    (0, {"output_0": 0}, {0: 0}, "order"),
]


@pytest.mark.parametrize(("expected", "got", "matched", "how"), OUTPUTS)
def test_outputs_are_matched(expected: Any, got: Any, matched: Any, how: str) -> None:
    found, by = match_leaves(expected, got)
    assert by == how
    if matched is None:  # numbers in names count as numbers
        names = list(got)
        assert [names[found[index]] for index in range(11)] == [f"output_{i}" for i in range(11)]
    else:
        assert found == matched


def test_exchanged_outputs_of_one_shape_are_told_and_not_repaired() -> None:
    a = Computes(lambda x: ([0, 1], [x, x * 2]), port("x", (2, 3)))
    b = Computes(lambda x: ([0, 1], [x * 2, x]), port("x", (2, 3)))
    x = floats(2, 3)
    found = find(a, b, (x,))
    assert [m.converted for m in found.outputs] == [0, 1]
    assert "output 0 of the converted model equals output 1 of the original" in found.notes
    got = Adapted(b, found).respond(Request((x,), "eval", False, structure=[0, 1]))
    assert np.array_equal(got.outputs[0], x * 2)


def test_other_names_and_numbers_of_outputs_are_told_as_they_are() -> None:
    x = floats(2, 3)
    a = Computes(lambda x: ({"a": 0, "b": 1}, [x, x * 2]), port("x", (2, 3)))
    for structure, count in (({"a": 0, "c": 1}, 2), ([0], 1), ([0, 1, 2], 3)):
        b = Computes(lambda x, s=structure, n=count: (s, [x, x * 2, x * 3][:n]), port("x", (2, 3)))
        found = find(a, b, (x,))
        got = Adapted(b, found).respond(Request((x,), "eval", False, structure={"a": 0, "b": 1}))
        assert got.structure == structure
        assert len(got.outputs) == count


def test_an_output_that_the_original_leaves_out_in_a_mode_is_left_out() -> None:
    x = floats(2, 3)
    a = Computes(lambda x: ([0, None], [x]), port("x", (2, 3)))
    b = Computes(lambda x: ([0, 1], [x, x * 2]), port("x", (2, 3)))
    got = Adapted(b, find(a, b, (x,))).respond(Request((x,), "eval", False, structure=[0, None]))
    assert (got.structure, len(got.outputs), got.extra) == ([0, None], 1, 1)


def test_without_an_example_what_is_declared_decides() -> None:
    a = Computes(one(abs), port("x", ("b", 3, 8, 9)))
    found = find(a, Computes(one(abs), port("x", (None, 8, 9, 3))), None)
    assert found.inputs[0].permutation == (0, 2, 3, 1)
    assert not found.outputs
