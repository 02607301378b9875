"""ONNX -> torch: ops that move, pick and write elements, beyond what ONNX's own suite asks: every old version, operands
that are known at run time only, dims and ranks that are not known while lowering, gradients, dtypes without kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from isomorph.convert.onnx_in.api import to_torch
from isomorph.convert.onnx_in.rules import index, pad, scatter, shape, sort

FLOAT = TensorProto.DOUBLE


def x(*shape: int) -> np.ndarray:
    """Doubles, all different, in no order."""
    count = int(np.prod(shape))
    return ((np.arange(count) * 7 % max(count, 1) - count / 2) / 4).reshape(shape)


def i(*values: Any, dtype: Any = np.int64) -> np.ndarray:
    """1-D integers."""
    return np.array(values, dtype=dtype)


def s(value: Any, dtype: Any = np.int64) -> np.ndarray:
    return np.array(value, dtype=dtype)


@dataclass(frozen=True)
class Row:
    """One node. attributes: of it. outputs: how many. expected: where ONNX's reference has no such version."""

    op: str
    opset: int
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    expected: Any = None

    @property
    def id(self) -> str:
        return f"{self.op}-{self.opset}-{'-'.join(f'{k}={v}' for k, v in self.attributes.items())}"


def row(op: str, opset: int, *inputs: Any, outputs: int = 1, expected: Any = None, **a: Any) -> Row:
    return Row(op, opset, inputs, a, outputs, expected)


A = x(4, 5)
IMAGE = x(2, 8, 2, 4)
ROWS = [
    row("Reshape", 4, x(2, 6), shape=[3, -1], expected=[x(2, 6).reshape(3, 4)]),
    row("Reshape", 13, x(2, 3, 4), i(0, -1)),
    row("Reshape", 13, x(2, 3, 4), i(4, 0, 2)),
    row("Reshape", 14, x(0, 3), i(3, 0, 5), allowzero=1),
    row("Reshape", 14, x(6), i(2, -1)),
    row("Flatten", 9, x(2, 3, 4), axis=0),
    row("Flatten", 13, x(2, 3, 4, 5), axis=-2),
    row("Flatten", 13, x(2, 3, 4), axis=3),
    row("Flatten", 13, x(3)),
    row("Transpose", 13, x(2, 3, 4)),
    row("Transpose", 13, x(2, 3, 4), perm=[1, 2, 0]),
    row("Squeeze", 11, x(1, 3, 1), axes=[-1]),
    row("Squeeze", 11, x(1, 3, 1)),
    row("Squeeze", 13, x(1, 3, 1), i(0, 2)),
    row("Squeeze", 13, x(1, 3, 1), i(-1)),
    row("Unsqueeze", 11, x(3), axes=[0, 2]),
    row("Unsqueeze", 13, x(3, 2), i(-1, 1, 0)),
    row("Expand", 13, x(3, 1), i(2, 1, 4)),
    row("Expand", 13, x(3, 4), i(1, 1)),
    row("Expand", 13, x(3, 4), i(4)),
    row("Tile", 5, x(2, 1), s(2, float), s(0, float), expected=[np.tile(x(2, 1), (2, 1))]),
    row("Tile", 13, x(2, 3), i(1, 3)),
    row("Concat", 3, x(2, 3), x(2, 1), expected=[np.concatenate([x(2, 3), x(2, 1)], 1)]),
    row("Concat", 13, x(2, 3), x(1, 3), axis=-2),
    row("Split", 1, x(7), axis=0, split=[2, 5], outputs=2, expected=[x(7)[:2], x(7)[2:]]),
    row("Split", 2, x(7), axis=0, split=[2, 5], outputs=2),
    row("Split", 11, x(4, 6), axis=-1, outputs=3),
    row("Split", 13, x(7, 2), i(3, 4), outputs=2),
    row("Split", 18, x(7, 2), num_outputs=3, outputs=3),
    row("Split", 18, x(2, 6), num_outputs=2, outputs=2, axis=1),
    row("Slice", 9, A, starts=[1, -3], ends=[100, -1]),
    row("Slice", 9, A, starts=[1], ends=[3], axes=[1]),
    row("Slice", 10, A, i(0, 1), i(1000, -1), i(1, 0)),
    row("Slice", 13, A, i(-1), i(-1000), i(1), i(-2)),
    row("Slice", 13, A, i(3), i(0), i(-2), i(-1)),
    row("Slice", 13, A, i(20), i(-20), i(0), i(-1)),
    row("Slice", 13, A, i(-20), i(-30), i(1), i(-1), expected=[A[:, :1]]),  # the start is clamped to the first element
    row("Slice", 13, A, i(1), i(2**63 - 1), i(1), i(3)),
    row("Slice", 13, A, i(3), i(1), i(0)),
    row("Slice", 13, A, i(1, dtype=np.int32), i(3, dtype=np.int32)),
    row("Gather", 10, A, i(3, 0, 0)),
    row("Gather", 13, A, s(-1), axis=1),
    row("Gather", 13, A, s([[0, -2], [1, 3]]), axis=-1),
    row("Gather", 13, x(2, 3, 4), i(1, -1, dtype=np.int32), axis=1),
    row("GatherElements", 13, A, s([[0, -1], [2, 1], [4, -5], [3, 3]]), axis=1),
    row("GatherND", 11, A, s([[0, 1], [-1, 2]])),
    row("GatherND", 13, x(2, 3, 4), s([[1], [-1]]), batch_dims=1),
    row("GatherND", 13, x(2, 3, 4), s([[[0], [2], [1]], [[1], [3], [-1]]]), batch_dims=2),
    row("Scatter", 10, x(2, 2), s([[1, 0]]), x(1, 2) + 9, expected=[np.array([[-0.5, 9.0], [8.75, -0.25]])]),
    row("ScatterElements", 13, A, s([[1, -1], [0, 2]]), x(2, 2), axis=1),
    row("ScatterElements", 18, A, s([[1, 1], [0, 2]]), x(2, 2), axis=1, reduction="add"),
    row("ScatterElements", 18, A, s([[1, 1], [0, 2]]), x(2, 2), axis=1, reduction="mul"),
    row("ScatterElements", 18, A, s([[1, -1], [0, 2]]), x(2, 2) * 9, axis=0, reduction="max"),
    row("ScatterND", 13, A, s([[0, 1], [-1, 2]]), x(2)),
    row("ScatterND", 18, A, s([[1], [-1], [1]]), x(3, 5), reduction="add"),
    row("ScatterND", 18, A, s([[1, 2], [3, -1], [1, 2]]), x(3) + 3, reduction="mul"),
    row("ScatterND", 18, A, s([[1], [-1]]), x(2, 5) * 3, reduction="min"),
    row("Compress", 11, A, i(1, 0, 1, dtype=bool), axis=-1),
    row("Compress", 11, A, i(0, 1, 1, dtype=bool)),
    row("NonZero", 13, A),
    row("OneHot", 11, i(1, 9, -2), s(4), x(2), axis=0),
    row("OneHot", 11, s([[1, 0], [-1, -5]]), s(4), x(2), axis=1),
    row("Pad", 10, A, pads=[1, 0, 0, -2], value=3.0, expected=[np.pad(A, ((1, 0), (0, 0)), constant_values=3)[:, :3]]),
    row("Pad", 1, A, paddings=[0, 1, 1, 0], mode="edge", expected=[np.pad(A, ((0, 1), (1, 0)), "edge")]),
    row("Pad", 13, A, i(1, 2, 0, 1), s(2.5, np.float64)),
    row("Pad", 13, A, i(3, 2, 3, 1), mode="reflect"),
    row("Pad", 13, x(1, 2, 5, 4), i(0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"),
    row("Pad", 13, A, i(-1, 2, 0, 1), mode="edge", expected=[np.pad(A[1:], ((0, 0), (2, 1)), "edge")]),
    row("Pad", 18, A, i(2, 1), s(0.0, np.float64), i(-1)),
    row("Pad", 19, A, i(6, 0, 0, 3), mode="wrap"),
    row("DepthToSpace", 10, IMAGE, blocksize=2),
    row("DepthToSpace", 13, IMAGE, blocksize=2, mode="CRD"),
    row("SpaceToDepth", 13, IMAGE, blocksize=2),
    row("ReverseSequence", 10, x(4, 3, 2), i(2, 4, 0)),
    row("ReverseSequence", 10, x(3, 4), i(2, 4, 1), batch_axis=0, time_axis=1),
    row("Trilu", 14, A, s(-1)),
    row("Trilu", 14, A, upper=0),
    row("EyeLike", 9, A, k=1),
    row("TopK", 9, A, k=2, axis=0, outputs=2, expected=[-np.sort(-A, 0)[:2], np.argsort(-A, 0)[:2]]),
    row("TopK", 10, A, i(2), outputs=2),
    row("TopK", 11, A, i(3), axis=0, largest=0, outputs=2),
    row("Unique", 11, np.array([2.0, 1, 1, 3, 4, 3]), sorted=0, outputs=4),
    row("Unique", 11, np.array([[1.0, 0], [1, 0], [2, 3], [0, 9]]), axis=0, outputs=4),
    row("CenterCropPad", 18, A, i(7, 2)),
    row("CenterCropPad", 18, A, i(1), axes=[-1]),
    row("Col2Im", 18, x(1, 4, 9), i(4, 4), i(2, 2), expected=[None]),
    row("Col2Im", 18, x(1, 10, 9), i(3, 4), i(1, 5), pads=[0, 2, 0, 1], strides=[1, 1], expected=[None]),
    row("TensorScatter", 24, x(2, 5, 3), x(2, 2, 3), i(1, 4), mode="circular", axis=1),
    row("TensorScatter", 24, x(2, 2, 5, 3), x(2, 2, 2, 3), i(1, 3)),
    row("Identity", 13, A),
    row("Size", 13, A),
    row("Shape", 15, x(2, 3, 4), start=-2, end=3),
    row("ConstantOfShape", 9, i(2, 3)),
    row("Range", 11, s(1), s(10), s(4)),
    row("Range", 11, s(3.0, np.float64), s(-1.0, np.float64), s(-1.5, np.float64)),
]
STEPPED = ("Unique", "Tile", "Range")  # of whose inputs a small change moves the result in steps


def model_of(r: Row, known: str, held: bool) -> Any:
    """known: whether inputs have static dims, named dims of a rank, or no shape. held: integers are initializers."""
    names = [f"x{n}" for n in range(len(r.inputs))]
    node = helper.make_node(r.op, names, [f"y{n}" for n in range(r.outputs)], **r.attributes)
    inside = [v.dtype.kind in "iub" for v in r.inputs] if held else [False] * len(names)
    inputs, nodes = [], [node]
    for name, v, kept in zip(names, r.inputs, inside, strict=True):
        named = [f"{name}_{d}" for d in range(v.ndim)] if v.dtype.kind == "f" else list(v.shape)
        element = helper.np_dtype_to_tensor_dtype(v.dtype)
        if kept:
            continue
        if known == "nothing" and v.dtype.kind == "f":  # its rank is what a run-time shape makes it
            inputs.append(helper.make_tensor_value_info(f"{name}_flat", element, ["n"]))
            inputs.append(helper.make_tensor_value_info(f"{name}_shape", TensorProto.INT64, ["r"]))
            attribute = {"allowzero": 1} if r.opset >= 14 else {}
            nodes.insert(0, helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name], **attribute))
        else:
            shape = named if known == "dims" else v.shape
            inputs.append(helper.make_tensor_value_info(name, element, shape))
    held_ones = [numpy_helper.from_array(v, n) for n, v, kept in zip(names, r.inputs, inside, strict=True) if kept]
    outputs = [onnx.ValueInfoProto(name=f"y{n}") for n in range(r.outputs)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, held_ones)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", r.opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {o.name: o.type for o in inferred.graph.output}
    kinds = [FLOAT if v.dtype.kind == "f" else TensorProto.INT64 for v in reference(r)]
    for n, output in enumerate(model.graph.output):
        found = types.get(output.name)
        if found is not None and found.WhichOneof("value"):
            output.type.CopyFrom(found)
        else:
            output.CopyFrom(helper.make_tensor_value_info(output.name, kinds[n], None))
    return model


def reference(r: Row) -> list[np.ndarray]:
    if r.op == "Col2Im":
        return [fold(r)]
    if r.expected is not None:
        return list(r.expected)
    names = [f"x{n}" for n in range(len(r.inputs))]
    node = helper.make_node(r.op, names, [f"y{n}" for n in range(r.outputs)], **r.attributes)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in zip(names, r.inputs, strict=True)
    ]
    outputs = [helper.make_tensor_value_info(f"y{n}", FLOAT, None) for n in range(r.outputs)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", r.opset)], ir_version=8)
    return list(ReferenceEvaluator(model).run(None, dict(zip(names, r.inputs, strict=True))))


def fold(r: Row) -> np.ndarray:
    """Col2Im by its definition: each column is added where its block lies."""
    columns, image, block = r.inputs
    n = len(block)
    pads, strides = r.attributes.get("pads", [0] * 2 * n), r.attributes.get("strides", [1] * n)
    whole = [image[d] + pads[d] + pads[d + n] for d in range(n)]
    steps = [(whole[d] - block[d]) // strides[d] + 1 for d in range(n)]
    made = np.zeros((columns.shape[0], columns.shape[1] // int(np.prod(block)), *whole))
    blocks = columns.reshape(columns.shape[0], -1, *block, *steps)
    for at in np.ndindex(*steps):
        place = tuple(slice(a * st, a * st + b) for a, st, b in zip(at, strides, block, strict=True))
        made[(slice(None), slice(None), *place)] += blocks[(..., *at)]
    return made[(..., *(slice(pads[d], pads[d] + image[d]) for d in range(n)))]


def as_torch(v: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(v.copy())


def run(module: Any, given: list[torch.Tensor]) -> list[torch.Tensor]:
    found = module(*given)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("held", [True, False], ids=["constants", "run_time"])
@pytest.mark.parametrize("known", ["all", "dims", "nothing"])
@pytest.mark.parametrize("r", ROWS, ids=[f"{n}-{r.id}" for n, r in enumerate(ROWS)])
def test_values_and_gradients(r: Row, known: str, held: bool) -> None:
    if known == "nothing" and r.opset < 5:
        pytest.skip("a Reshape at run time is of opset 5")
    module = to_torch(model_of(r, known, held)).module
    given = []
    for v in r.inputs:
        if known == "nothing" and v.dtype.kind == "f":
            given += [as_torch(v).reshape(-1), torch.tensor(v.shape, dtype=torch.int64)]
        elif not (held and v.dtype.kind in "iub"):
            given.append(as_torch(v))
    found = run(module, given)
    for ours, theirs in zip(found, reference(r), strict=True):
        assert ours.numpy().dtype == theirs.dtype
        np.testing.assert_array_equal(ours.numpy(), theirs)
    floating = [v.is_floating_point() and v.numel() > 0 for v in given]
    if (
        known == "dims"
        and r.op not in STEPPED
        and any(floating)
        and any(y.requires_grad for y in run(module, tracked(given, floating)))
    ):
        leaves = tracked(given, floating)

        def function(*values: torch.Tensor) -> Any:
            rest = iter(values)
            full = [next(rest) if f else v for f, v in zip(floating, given, strict=True)]
            return tuple(y for y in run(module, full) if y.is_floating_point())

        assert torch.autograd.gradcheck(function, [v for f, v in zip(floating, leaves, strict=True) if f])


def tracked(given: list[torch.Tensor], floating: list[bool]) -> list[torch.Tensor]:
    return [v.clone().requires_grad_() if f else v for v, f in zip(given, floating, strict=True)]


# ------------------------------------------------------------------------------------------------------ unusual dtypes
INDEX = torch.tensor([[0, -1, 1, 2], [2, 0, 1, 1]])
MOVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "Gather": lambda t: index.gather(t, INDEX[0], axis=1),
    "GatherElements": lambda t: index.gather_elements(t, INDEX, axis=0),
    "GatherND": lambda t: index.gather_nd(t, INDEX[:, :2]),
    "Slice": lambda t: index.slice_10(t, (-1,), (-9,), (0,), (-2,)),
    "Compress": lambda t: index.compress(t, torch.tensor([True, False, True]), axis=0),
    "NonZero": lambda t: index.non_zero(t),
    "ReverseSequence": lambda t: index.reverse_sequence(t, torch.tensor([1, 2, 3, 2])),
    "Trilu": lambda t: index.trilu(t, upper=0),
    "OneHot": lambda t: index.one_hot(INDEX, torch.tensor(3), t[0, :2]),
    "ScatterElements": lambda t: scatter.scatter_elements(t, INDEX, t[:2].flip(0)),
    "ScatterND": lambda t: scatter.scatter_nd(t, INDEX[:, 2:], t[:2, 0]),
    "TensorScatter": lambda t: scatter.tensor_scatter(t, t[:, :2], torch.tensor([0, 1, 2]), axis=1),
    "Pad": lambda t: pad.pad(t, torch.tensor([0, 1, 1, 0]), mode="reflect"),
    "Tile": lambda t: shape.tile(t, torch.tensor([1, 2])),
    "Concat": lambda t: shape.concat(t, t, axis=1),
    "DepthToSpace": lambda t: shape.depth_to_space(t.reshape(1, 12, 1, 1), blocksize=2),
    "Split": lambda t: shape.split_evenly(t, 2, 1)[1],
}
NUMBERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "add": lambda t: scatter.scatter_elements(t, INDEX, t[:2], reduction="add"),
    "mul": lambda t: scatter.scatter_elements(t, INDEX, t[:2], reduction="mul"),
    "max": lambda t: scatter.scatter_nd(t, INDEX[:, 2:], t[:2, 0], reduction="max"),
    "min": lambda t: scatter.scatter_elements(t, INDEX, t[:2], reduction="min"),
    "TopK": lambda t: sort.top_k(t, torch.tensor([2]))[0],
    "Unique": lambda t: sort.unique(t)[0],
    "Pad constant": lambda t: pad.pad(t, torch.tensor([0, 1, 1, -1]), torch.tensor(1).to(t.dtype)),
    "CenterCropPad": lambda t: pad.center_crop_pad(t, torch.tensor([2, 6])),
}
WHOLE = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.float16, torch.bfloat16)
EXOTIC = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.bool, torch.complex64)
CASES = [(n, d) for n in MOVES for d in (*WHOLE, *EXOTIC)] + [(n, d) for n in NUMBERS for d in WHOLE]
CASES.remove(("Trilu", torch.float8_e8m0fnu))  # it has no zero


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{n}-{str(d)[6:]}" for n, d in CASES])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """What torch has no kernel for is computed in a type that it has one for."""
    function = MOVES.get(name) or NUMBERS[name]
    values = torch.tensor([[1, 2, 4, 1], [2, 1, 1, 4], [4, 1, 1, 2]])
    given = values.to(torch.float32).to(dtype)
    found, wanted = function(given), function(given.to(torch.complex64 if dtype.is_complex else torch.float32))
    assert found.dtype == (torch.int64 if name == "NonZero" else dtype)
    assert torch.equal(found.to(wanted.dtype), wanted)


# --------------------------------------------------------------------------------------------------------- exportable
EXPORTED = [
    row("Slice", 13, x(4, 6), i(-1), i(-9), i(1), i(-2)),
    row("Gather", 13, x(4, 6), s(-1), axis=1),
    row("GatherElements", 13, x(4, 6), s([[0, -1]] * 4), axis=1),
    row("GatherND", 13, x(4, 3, 2), s([[1], [-1], [0], [2]]), batch_dims=1),
    row("ScatterElements", 18, x(4, 6), s([[1, 1]] * 4), x(4, 2), axis=1, reduction="add"),
    row("ScatterND", 18, x(4, 5), s([[1], [-1]]), x(2, 5) * 3, reduction="min"),
    row("Compress", 11, x(4, 3), i(1, 0, 1, dtype=bool), axis=1),
    row("OneHot", 11, s([[1, 0], [-1, 9]]), s(4), x(2)),
    row("Pad", 13, x(4, 5), i(0, 3, 0, 1), mode="reflect"),
    row("Pad", 19, x(4, 5), i(2, 0, 1, 0), mode="wrap"),
    row("Split", 18, x(4, 7), num_outputs=3, outputs=3, axis=1),
    row("DepthToSpace", 13, x(4, 4, 2, 3), blocksize=2),
    row("ReverseSequence", 10, x(4, 3), i(2, 3, 1, 0), batch_axis=0, time_axis=1),
    row("TopK", 11, x(4, 5), i(3), outputs=2),
    row("CenterCropPad", 18, x(4, 5), i(7), axes=[1]),
    row("Col2Im", 18, x(4, 4, 9), i(4, 4), i(2, 2)),
    row("TensorScatter", 24, x(4, 5, 3), x(4, 2, 3), mode="circular", axis=1),
    row("Tile", 13, x(4, 3), i(1, 3)),
    row("Expand", 13, x(4, 1), i(1, 3)),
    row("EyeLike", 9, x(4, 5)),
]


@pytest.mark.parametrize("r", EXPORTED, ids=[f"{n}-{r.id}" for n, r in enumerate(EXPORTED)])
def test_export_with_dynamic_batch(r: Row) -> None:
    """One graph for every size of the first dim."""
    module = to_torch(model_of(r, "dims", True)).module
    given = [as_torch(v) for v in r.inputs if v.dtype.kind == "f"]
    free = [{0: torch.export.Dim.DYNAMIC} if v.size(0) == 4 and r.op not in FIXED else None for v in given]
    program = torch.export.export(module, tuple(given), dynamic_shapes=free).module()
    more = [torch.cat([v, v[:2]]) if f else v for v, f in zip(given, free, strict=True)]
    for each in (given, more):
        for ours, theirs in zip(run(program, each), run(module, each), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("r", EXPORTED, ids=[f"{n}-{r.id}" for n, r in enumerate(EXPORTED)])
def test_new_tensors_lie_where_the_input_lies(r: Row) -> None:
    """The meta device refuses operands on the CPU."""
    module = to_torch(model_of(r, "dims", True)).module.to("meta")
    given = [as_torch(v).to("meta") for v in r.inputs if v.dtype.kind == "f"]
    assert all(y.device.type == "meta" for y in run(module, given))


FIXED = ("GatherElements", "GatherND", "ScatterElements", "ReverseSequence")  # an index of theirs has the batch's size
