"""The correspondence that a conversion recorded, as pieces of arrays; and the bounds that an ONNX graph tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from isomorph.convert.weights import Transform
from isomorph.parity.matching.adapt import Adapted
from isomorph.parity.matching.recorded import PortRecord, Recorded, WeightRecord, from_conversion, matched
from isomorph.parity.runners.base import About, ParameterInfo, PortInfo, Request
from isomorph.parity.runners.rounding import rounds_inside

X = PortInfo("x", "float32", (2, 3))
RNG = np.random.default_rng(0)


@dataclass
class Fake:
    """A runner that only holds arrays."""

    format: str
    arrays: dict[str, np.ndarray]
    tied: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "own"

    def about(self) -> About:
        return About(self.format, (X,), (X,))

    def parameters(self) -> dict[str, ParameterInfo]:
        return {
            name: ParameterInfo(name, array.shape, str(array.dtype), True, self.tied.get(name))
            for name, array in self.arrays.items()
        }

    def buffers(self) -> dict[str, ParameterInfo]:
        return {}

    def state(self) -> dict[str, np.ndarray]:
        return {name: np.array(array) for name, array in self.arrays.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        self.arrays |= {name: np.array(array) for name, array in state.items()}


def record(*weights: WeightRecord) -> Recorded:
    return Recorded((PortRecord("x"),), (PortRecord("x"),), weights)


def both_ways(source: dict[str, np.ndarray], torch: dict[str, np.ndarray], *weights: WeightRecord) -> None:
    """Each side answers with its own values in the other's names, and values that are loaded arrive."""
    for mine, other in ((Fake("keras", source), Fake("torch", torch)), (Fake("torch", torch), Fake("keras", source))):
        found = matched(mine, other, record(*weights))
        assert found is not None
        assert found.unmatched_original == found.unmatched_converted == ()
        adapted = Adapted(other, found)
        for name, array in adapted.state().items():
            np.testing.assert_array_equal(array, mine.arrays[name])
        fresh = {name: RNG.standard_normal(array.shape) for name, array in mine.arrays.items()}
        before = other.state()
        adapted.load(fresh)
        for name, array in adapted.state().items():
            np.testing.assert_array_equal(array, fresh[name])
        other.load(before)


def test_a_transposed_kernel() -> None:
    kernel = RNG.standard_normal((3, 3, 2, 4))
    transform = Transform((("transpose", (2, 3, 1, 0), ()),))
    both_ways({"k": kernel}, {"w": kernel.transpose(3, 2, 0, 1)}, WeightRecord("w", "k", transform))


def test_axes_of_size_one_and_reshapes() -> None:
    kernel = RNG.standard_normal((3, 3, 4, 1))  # a depthwise one: torch has (4, 1, 3, 3)
    steps = (("transpose", (2, 3, 0, 1), ()), ("reshape", (3, 3, 2, 2), (3, 3, 4, 1)))
    torch = kernel.transpose(2, 3, 0, 1)
    both_ways({"k": kernel.reshape(3, 3, 2, 2)}, {"w": torch}, WeightRecord("w", "k", Transform(steps)))


def test_parts_of_one_array() -> None:
    """A gate order: two torch parameters are halves of one variable."""
    bias = RNG.standard_normal((2, 6))
    first, second = (WeightRecord(name, "b", Transform((("reshape", (1, 6), (6,)),)), ((k, k + 1), (0, 6)))
                     for k, name in enumerate(("bias_ih", "bias_hh")))  # fmt: skip
    both_ways({"b": bias}, {"bias_ih": bias[0].copy(), "bias_hh": bias[1].copy()}, first, second)


def test_a_tied_parameter_is_one() -> None:
    table = RNG.standard_normal((5, 2))
    source = Fake("keras", {"emb": table})
    torch = Fake("torch", {"emb.weight": table, "head.weight": table}, {"head.weight": "emb.weight"})
    both = record(WeightRecord("emb.weight", "emb"), WeightRecord("head.weight", "emb"))
    for mine, other in ((source, torch), (torch, source)):
        found = matched(mine, other, both)
        assert found is not None
        assert [len(match.pieces) for match in found.weights.values()] == [1]
        np.testing.assert_array_equal(Adapted(other, found).state()[next(iter(mine.arrays))], table)


def test_a_record_of_other_models_is_none() -> None:
    source, torch = Fake("keras", {"k": np.ones((2, 3))}), Fake("torch", {"w": np.ones((3, 2))})
    turned = WeightRecord("w", "k", Transform((("transpose", (1, 0), ()),)))
    assert matched(source, torch, record(turned)) is not None
    assert matched(source, torch, record(WeightRecord("w", "k"))) is None, "another shape"
    assert matched(source, torch, record(WeightRecord("v", "k"))) is None, "none of the names"
    two = Recorded((PortRecord("x"), PortRecord("y")), (), (turned,))
    assert matched(source, torch, two) is None, "another number of inputs"


def test_what_is_held_without_a_record_is_said() -> None:
    source = Fake("keras", {"k": np.ones(2), "lost": np.ones(3)})
    torch = Fake("torch", {"w": np.ones(2), "more": np.ones(4), "count": np.ones((), np.int64)})
    found = matched(source, torch, record(WeightRecord("w", "k")))
    assert found is not None
    assert (found.unmatched_original, found.unmatched_converted, found.ignored) == (("lost",), ("more",), ("count",))


def test_inputs_in_another_axis_order() -> None:
    entry = SimpleNamespace(kind="constant", location=())
    port = SimpleNamespace(name="x", permutation=(0, 2, 3, 1))
    made = from_conversion(SimpleNamespace(inputs=(port,), outputs=(port,), weights=(entry,)))
    assert made.weights == ()
    image = PortInfo("x", "float32", ("b", 8, 6, 3))
    source, torch = Fake("keras", {}), Fake("torch", {})
    source.about = lambda: About("keras", (image,), (image,))  # type: ignore[method-assign]
    torch.about = lambda: About("torch", (PortInfo("x", "float32", ("b", 3, 8, 6)),))  # type: ignore[method-assign]
    found = matched(source, torch, made)
    assert found is not None
    assert found.inputs[0].permutation == (0, 3, 1, 2)
    array = np.zeros((2, 8, 6, 3))
    assert Adapted(torch, found).request(Request((array,), "eval")).inputs[0].shape == (2, 3, 8, 6)


# --- tables that an ONNX graph indexes ----------------------------------------------------------------------------


def bounds(*nodes: Any, rows: int = 7) -> dict[str, int]:
    onnx = pytest.importorskip("onnx")
    from isomorph.parity.runners.onnx_bounds import index_bounds

    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    tables = {"table": np.ones((rows, 4), np.float32), "two": np.array(2, np.int64), "rows": np.array(rows, np.int64)}
    held = [onnx.numpy_helper.from_array(array, name) for name, array in tables.items()]
    graph = onnx.helper.make_graph(list(nodes), "net", [ids], [y], held)
    return index_bounds(onnx.helper.make_model(graph))


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    onnx = pytest.importorskip("onnx")
    return onnx.helper.make_node(op, inputs, [output], **attributes)


def test_rows_of_a_table() -> None:
    assert bounds(node("Gather", ["table", "ids"], "y")) == {"ids": 7}
    assert bounds(node("Gather", ["table", "ids"], "y", axis=1)) == {"ids": 4}
    assert bounds(node("Cast", ["ids"], "c", to=6), node("Gather", ["table", "c"], "y")) == {"ids": 7}
    assert bounds(node("Transpose", ["table"], "t"), node("Gather", ["t", "ids"], "y")) == {"ids": 4}
    assert bounds(node("Identity", ["ids"], "y")) == {}


def test_an_offset_takes_rows_away() -> None:
    """Position tables begin two rows late; Keras wraps negative indices around."""
    assert bounds(node("Add", ["ids", "two"], "a"), node("Gather", ["table", "a"], "y")) == {"ids": 5}
    wrapped = (node("Add", ["ids", "rows"], "a"), node("Where", ["negative", "a", "ids"], "w"))
    assert bounds(*wrapped, node("Gather", ["table", "w"], "y")) == {"ids": 7}


# --- float64 twins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("narrow", "is_so"), [(False, False), (True, True)])
def test_a_twin_that_rounds_inside(narrow: bool, is_so: bool) -> None:
    from isomorph.parity.runners.function import open_function
    from isomorph.parity.runners.spec import ModelSpec

    def model(x: np.ndarray) -> np.ndarray:
        h = np.tanh(x) * 3
        return (h.astype(np.float32) if narrow else h).astype(x.dtype) ** 2 + x

    example = RNG.standard_normal((4, 5)).astype(np.float32)
    runner = open_function(ModelSpec(model, example=(example,))).runner
    assert rounds_inside(runner.to_float64(), (example,)) is is_so
