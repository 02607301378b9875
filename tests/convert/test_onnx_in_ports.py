"""Transposes that cancel, and the order of axes at the border."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.one_axis import sink_unsqueezes
from isomorph.convert.onnx_in.reading import read
from isomorph.convert.onnx_in.tracing import trace
from isomorph.convert.onnx_in.transposes import cancel

from .onnx_in_models import drawn, model, node, reference

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # to channels first, and back


def check_cancelled(proto: Any, left: int, x: np.ndarray) -> None:
    """The graph keeps `left` transposes (weights' own not counted) and what it computes."""
    made = read(proto)
    cancel(made.graph)
    assert sum(n.op_type == "Transpose" and trace(n.outputs[0]) is None for n in made.graph) == left
    made.graph.sort()
    for mine, theirs in zip(reference(ir.to_proto(made), {"x": x}), reference(proto, {"x": x}), strict=True):
        np.testing.assert_array_equal(mine, theirs)


T = [node("Transpose", ["x"], ["f"], perm=FIRST)]
SUMMED = [*T, node("Relu", ["f"], ["g"]), node("ReduceSum", ["g", "a"], ["y"], keepdims=0)]


@pytest.mark.parametrize(
    ("nodes", "weights", "left"),
    [
        ([*T, node("Transpose", ["f"], ["y"], perm=LAST)], {}, 0),
        ([*T, node("Relu", ["f"], ["g"]), node("Transpose", ["g"], ["y"], perm=LAST)], {}, 0),
        ([*T, node("Transpose", ["f"], ["y"], perm=[1, 0, 2, 3])], {}, 1),  # two become one
        ([*T, node("Add", ["f", "b"], ["g"]), node("Transpose", ["g"], ["y"], perm=LAST)], {"b": drawn(3, 1, 1)}, 0),
        ([*T, node("Mul", ["b", "f"], ["g"]), node("Transpose", ["g"], ["y"], perm=LAST)], {"b": drawn(2, 3, 4, 5)}, 0),
        ([*T, node("Concat", ["f", "f"], ["g"], axis=1), node("Transpose", ["g"], ["y"], perm=LAST)], {}, 0),
        ([*T, node("ReduceMean", ["f", "a"], ["g"]), node("Transpose", ["g"], ["y"], perm=LAST)],
         {"a": np.array([2, -1])}, 0),
        (SUMMED, {"a": np.array([2, 3])}, 0),
        (SUMMED, {"a": np.array([1])}, 0),
        (SUMMED, {"a": np.array([3])}, 1),
        ([*T, node("Relu", ["f"], ["g"]), node("Softmax", ["g"], ["y"], axis=1)], {}, 1),
        ([*T, node("Flatten", ["f"], ["y"])], {}, 1),
        ([*T, node("Unsqueeze", ["f", "a"], ["g"]), node("Transpose", ["g"], ["h"], perm=[0, 1, 3, 4, 2]),
          node("Squeeze", ["h", "a"], ["y"])], {"a": np.array([1])}, 0),
        # used in both orders: one is left
        ([*T, node("Relu", ["f"], ["g"]), node("Transpose", ["g"], ["h"], perm=LAST), node("Flatten", ["g"], ["i"]),
          node("Flatten", ["h"], ["j"]), node("Add", ["i", "j"], ["y"])], {}, 1),
        # a tree of elementwise ops between one pair
        ([*T, node("Sigmoid", ["f"], ["g"]), node("Mul", ["f", "g"], ["h"]), node("Clip", ["h", "low"], ["i"]),
          node("Transpose", ["i"], ["y"], perm=LAST)], {"low": np.float32(0)}, 0),
    ],
)  # fmt: skip
def test_transposes_that_cancel(nodes: list[Any], weights: dict[str, np.ndarray], left: int) -> None:
    x = np.round(8 * drawn(2, 4, 5, 3))  # whole numbers: sums are exact in any order
    check_cancelled(model(nodes, {"x": x.shape}, ["y"], weights), left, x)


def test_an_output_in_the_middle_keeps_its_order() -> None:
    nodes = [*T, node("Relu", ["f"], ["g"]), node("Transpose", ["g"], ["y"], perm=LAST)]
    proto = model(nodes, {"x": (2, 4, 5, 3)}, ["y", "g", "f"], {})
    check_cancelled(proto, 2, drawn(2, 4, 5, 3))


def test_a_convolution_over_one_axis() -> None:
    a = {"two": np.array([2]), "w": drawn(4, 3, 1, 2), "p": np.array([0, 0, 0, 1, 0, 0, 0, 0])}
    nodes = [
        node("Unsqueeze", ["x", "two"], ["a"]),
        node("Pad", ["a", "p"], ["b"]),
        node("Conv", ["b", "w"], ["c"], strides=[1, 2], kernel_shape=[1, 2]),
        node("Squeeze", ["c", "two"], ["y"]),
    ]
    proto = model(nodes, {"x": (2, 3, 9)}, ["y"], a)
    made = read(proto)
    assert sink_unsqueezes(made.graph)
    assert [n.op_type for n in made.graph if n.op_type in ("Conv", "Pad")] == ["Pad", "Conv"]
    x = drawn(2, 3, 9)
    np.testing.assert_array_equal(reference(ir.to_proto(made), {"x": x})[0], reference(proto, {"x": x})[0])
    assert repr(to_torch(proto).module.conv).startswith("Conv1d")


# ---------------------------------------------------------------------------------------------------------- the border
def origin(source: str, **more: Any) -> dict[str, str]:
    variables = {"k": {"kind": "parameter", "trainable": True, "dtype": "float32"}}
    return {"isomorph": json.dumps({"schema": 1, "source": source, "variables": variables, **more})}


CONV = [*T, node("Conv", ["f", "k"], ["c"]), node("Transpose", ["c"], ["y"], perm=LAST)]


def test_images_of_keras_come_channels_first() -> None:
    x = drawn(2, 4, 5, 3)
    proto = model(CONV, {"x": ("b", 4, 5, 3)}, ["y"], {"k": drawn(6, 3, 2, 2)}, metadata=origin("keras"))
    conversion = to_torch(proto)
    assert [p.permutation for p in (*conversion.inputs, *conversion.outputs)] == [tuple(LAST)] * 2
    assert conversion.inputs[0].dims == ("b", 3, 4, 5)
    assert conversion.report["transposes"] == 0
    found = conversion.module(torch.from_numpy(conversion.inputs[0].to_torch(x).copy()))
    np.testing.assert_allclose(conversion.outputs[0].to_keras(found.detach()), reference(proto, {"x": x})[0], rtol=1e-5)
    kept = to_torch(proto, layout="source")
    assert [p.permutation for p in (*kept.inputs, *kept.outputs)] == [None] * 2
    np.testing.assert_allclose(kept.module(torch.from_numpy(x)).detach(), reference(proto, {"x": x})[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "permuted"),
    [
        ([node("Mul", ["x", "x"], ["n"]), node("Transpose", ["n"], ["f"], perm=FIRST), *CONV[1:]], (True, True)),
        ([*CONV[:2], node("Flatten", ["c"], ["y"])], (True, False)),
        ([*CONV[:2], node("Transpose", ["c"], ["d"], perm=LAST), node("Flatten", ["d"], ["y"])], (True, False)),
        ([*CONV[:2], node("ReduceMean", ["x"], ["m"]), node("Add", ["c", "m"], ["d"]),
          node("Transpose", ["d"], ["y"], perm=LAST)], (False, True)),
        ([node("Relu", ["x"], ["y"])], (False, False)),  # nothing asks for it
        ([*CONV[:2], node("Add", ["c", "c"], ["y"])], (True, False)),
    ],
)  # fmt: skip
def test_only_where_it_saves_a_transpose(nodes: list[Any], permuted: tuple[bool, bool]) -> None:
    x = drawn(2, 4, 5, 3)
    proto = model(nodes, {"x": x.shape}, ["y"], {"k": drawn(6, 3, 1, 1)}, metadata=origin("keras"))
    conversion = to_torch(proto)
    ports = (conversion.inputs[0], conversion.outputs[0])
    assert tuple(p.permutation is not None for p in ports) == permuted
    found = conversion.module(torch.from_numpy(ports[0].to_torch(x).copy()))
    np.testing.assert_allclose(ports[1].to_keras(found.detach()), reference(proto, {"x": x})[0], rtol=1e-4, atol=1e-6)


def test_third_parties_keep_their_order() -> None:
    conversion = to_torch(model(CONV, {"x": (2, 4, 5, 3)}, ["y"], {"k": drawn(6, 3, 1, 1)}))
    assert [p.permutation for p in (*conversion.inputs, *conversion.outputs)] == [None] * 2


def test_the_signature_that_torch_had() -> None:
    nodes = [*CONV, node("Add", ["s", "s"], ["z"])]
    ports = {
        "inputs": [{"name": "s", "permutation": None}, {"name": "x", "permutation": LAST}],
        "outputs": [{"name": "z", "permutation": [1, 0]}, {"name": "y", "permutation": LAST}],
        "output_structure": {"b": [1, {"a": 0}]},
    }
    inputs = {"x": (2, 4, 5, 3), "s": (2, 3)}
    proto = model(nodes, inputs, ["y", "z"], {"k": drawn(6, 3, 1, 1)}, metadata=origin("torch", **ports))
    conversion = to_torch(proto)
    assert [p.name for p in conversion.inputs] == ["s", "x"]
    assert [p.dims for p in conversion.outputs] == [(3, 2), (2, 6, 4, 5)]
    x, s = drawn(2, 4, 5, 3), drawn(2, 3)
    found = conversion.module(torch.from_numpy(s), torch.from_numpy(x).permute(*FIRST))
    y, z = reference(proto, {"x": x, "s": s})
    np.testing.assert_allclose(found["b"][1]["a"].detach(), z.T)
    np.testing.assert_allclose(found["b"][0].detach(), y.transpose(FIRST), rtol=1e-4, atol=1e-6)
    flat = conversion.flatten_outputs(found)
    assert [tuple(f.shape) for f in flat] == [p.dims for p in conversion.outputs]
