"""ONNX rules of convolutions and pools: what the ONNX project's own tests leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from .onnx_checks import Row, build, derive, evaluate, export_freely, like_reference, like_runtime, row_id
from .onnx_node import agree, converted, run

F32 = np.float32
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(F32)


X1, X2, X3 = normal(2, 4, 11), normal(2, 4, 7, 6), normal(1, 2, 5, 6, 4)
W1, W2, W3 = normal(6, 4, 3), normal(6, 2, 3, 2), normal(3, 2, 2, 3, 2)
T1, T2, T3 = normal(4, 3, 3), normal(4, 3, 3, 2), normal(2, 3, 2, 3, 2)
SAME = ("SAME_UPPER", "SAME_LOWER")
U8 = RNG.integers(0, 255, X2.shape).astype(np.uint8)
I8 = RNG.integers(-128, 127, (6, 2, 3, 2)).astype(np.int8)


def window(k: Any, **more: Any) -> dict[str, Any]:
    return {"kernel_shape": k, **more}


CONVOLUTIONS: list[Row] = [
    ("Conv", 1, (X1, W1, normal(6)), {"pads": [2, 0], "strides": [2], "dilations": [2]}),
    ("Conv", 11, (X2, W2), {"group": 2, "pads": [1, 0, 0, 2], "strides": [2, 1]}),
    ("Conv", 11, (X3, W3, normal(3)), {"pads": [1, 1, 1, 1, 1, 1], "kernel_shape": [2, 3, 2]}),
    *(("Conv", 22, (X2, W2), {"group": 2, "auto_pad": p, "strides": [2, 3]}) for p in SAME),
    *(("Conv", 22, (X2, W2), {"group": 2, "auto_pad": p}) for p in (*SAME, "VALID")),
    ("ConvTranspose", 1, (X1, T1, normal(3)), {"strides": [2], "pads": [1, 0]}),
    ("ConvTranspose", 11, (X2, T2), {"strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2]}),
    ("ConvTranspose", 11, (X3, T3, normal(3)), {"strides": [2, 1, 2], "dilations": [1, 2, 1]}),
    ("ConvTranspose", 22, (X2, T2, normal(3)), {"strides": [2, 2], "output_shape": [13, 11]}),
    ("ConvTranspose", 22, (X2, T2), {"strides": [2, 2], "output_shape": [12, 9], "auto_pad": "SAME_UPPER"}),
    *(("ConvTranspose", 22, (X2, T2), {"strides": [3, 2], "auto_pad": p}) for p in SAME),
    ("ConvTranspose", 22, (X2, normal(4, 2, 3, 3)), {"group": 2, "strides": [2, 2], "pads": [0, 1, 1, 1]}),
    ("ConvInteger", 10, (U8, I8.view(np.uint8), np.array(7, np.uint8)), {"group": 2, "pads": [1, 0, 0, 1]}),
]
BYTE = RNG.integers(100, 140, ()).astype(np.uint8)
QUANTISED = (U8, np.array(0.02, F32), BYTE, I8, normal(6) ** 2, np.zeros(6, np.int8), np.array(0.3, F32), BYTE)
POOLS: list[Row] = [
    ("MaxPool", 1, (X1,), window([3], strides=[2], pads=[1, 1])),
    ("MaxPool", 8, (X3,), window([2, 3, 2], auto_pad="SAME_UPPER")),
    ("MaxPool", 10, (X2,), window([3, 2], ceil_mode=1, strides=[2, 2], pads=[0, 1, 1, 0])),
    ("MaxPool", 11, (X2,), window([2, 2], dilations=[2, 3], pads=[1, 0, 0, 1])),
    *(("MaxPool", 12, (X2,), window([3, 2], auto_pad=p, strides=[2, 2])) for p in (*SAME, "VALID")),
    ("MaxPool", 12, (U8,), window([3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    ("AveragePool", 7, (X2,), window([3, 2], pads=[1, 0, 1, 1], count_include_pad=1)),
    ("AveragePool", 7, (X2,), window([3, 2], pads=[1, 0, 1, 1])),
    *(("AveragePool", 10, (X2,), window([3, 2], auto_pad=p, strides=[2, 2])) for p in (*SAME, "VALID")),
    ("AveragePool", 19, (X3,), window([2, 3, 2], dilations=[2, 1, 1], strides=[1, 2, 1])),
    ("AveragePool", 19, (X2,), window([3, 3], strides=[2, 2], ceil_mode=1)),
    ("AveragePool", 22, (X1,), window([3], strides=[3], ceil_mode=1, pads=[1, 1], count_include_pad=1)),
    ("LpPool", 2, (X2,), window([3, 2], p=3, pads=[1, 0, 0, 1], strides=[2, 1])),
    ("LpPool", 18, (X2,), window([2, 2], p=1, dilations=[2, 1])),
    ("GlobalAveragePool", 1, (X3,), {}),
    ("GlobalMaxPool", 1, (X1,), {}),
    ("GlobalLpPool", 2, (X2,), {"p": 3}),
]
# what ONNX Runtime does not have
OTHERS: list[Row] = [
    *(("Conv", 22, (X1, W1), {"auto_pad": p, "strides": [2], "dilations": [2]}) for p in SAME),
]
INDEXED: list[Row] = [
    ("MaxPool", 8, (X2,), window([3, 2], strides=[2, 2], pads=[1, 0, 1, 1])),
    ("MaxPool", 12, (X2,), window([2, 2], dilations=[2, 2], ceil_mode=1, strides=[2, 2])),
    ("MaxPool", 12, (X2,), window([3, 3], auto_pad="SAME_LOWER", strides=[2, 2], storage_order=1)),
    ("MaxPool", 12, (X1,), window([3], pads=[1, 1])),
    ("MaxPool", 12, (X3,), window([2, 2, 2], strides=[2, 2, 2])),
]


@pytest.mark.parametrize("row", [*CONVOLUTIONS, *POOLS], ids=row_id)
def test_like_onnx_runtime(row: Row) -> None:
    like_runtime(row)


@pytest.mark.parametrize("row", OTHERS, ids=row_id)
def test_like_the_reference(row: Row) -> None:
    like_reference(row)


@pytest.mark.parametrize("row", INDEXED, ids=row_id)
def test_indices_like_onnx_runtime(row: Row) -> None:
    like_runtime(row, outputs=2)


def test_a_quantised_convolution_like_onnx_runtime() -> None:
    like_runtime(("QLinearConv", 10, (*QUANTISED, np.int32([9, -9, 100, 0, 5, 1])), {"group": 2, "pads": [1, 1, 0, 0]}))


def test_unpooling_undoes_pooling() -> None:
    attributes = window([3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    pooled, indices = run(build(("MaxPool", 12, (X2,), attributes), outputs=2), X2)
    row: Row = ("MaxUnpool", 11, (pooled, indices), attributes)
    like_runtime(row)
    larger = (*row[2], np.int64([2, 4, 9, 7]))
    found, again = run(build((*row[:2], larger, attributes)), *larger)[0], run(build(row), *row[2])[0]
    assert found.shape == (2, 4, 9, 7)
    np.testing.assert_array_equal(found[:, :, :7, :6], again)
    assert not found[:, :, 7:].any()
    assert not found[:, :, :, 6:].any()
    np.testing.assert_array_equal(again[again != 0], X2[again != 0])


def test_unpooling_has_right_derivatives() -> None:
    attributes = window([2, 2], strides=[2, 2])
    pooled, indices = run(build(("MaxPool", 12, (X2[:, :, :6],), attributes), outputs=2), X2[:, :, :6])
    derive(("MaxUnpool", 11, (pooled, indices), attributes))


def test_the_first_average_pool_leaves_the_padding_out_as_the_second_does() -> None:
    """ONNX says so; ONNX Runtime does not have it and onnx.reference counts the padding."""
    attributes = window([3], strides=[2], pads=[1, 1])
    first, second = (run(build(("AveragePool", v, (X1,), attributes)), X1)[0] for v in (1, 7))
    np.testing.assert_array_equal(first, second)


def test_the_older_p_norms() -> None:
    """LpPool-1 and GlobalLpPool-1 have a p that is a float; ONNX Runtime has neither."""
    norm = (abs(X2.astype(np.float64)) ** 1.5).sum((2, 3), keepdims=True) ** (1 / 1.5)
    for op, attributes in (("GlobalLpPool", {"p": 1.5}), ("LpPool", window([7, 6], p=1.5))):
        agree(run(build((op, 1, (X2,), attributes)), X2)[0], norm.astype(F32), 1e-5)


@pytest.mark.parametrize(
    "row",
    [r for r in [*CONVOLUTIONS, *POOLS] if r[0] != "ConvInteger" and r[2][0].dtype == F32],
    ids=row_id,
)
def test_right_derivatives_in_float64(row: Row) -> None:
    derive(row)


def test_the_norm_of_a_window_of_zeros_has_a_derivative() -> None:
    x = torch.zeros(1, 1, 4, requires_grad=True)
    converted(build(("LpPool", 18, (np.zeros((1, 1, 4), F32),), window([2]))))(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(1, 1, 4))


FREE: list[Row] = [
    ("Conv", 22, (X2, W2), {"group": 2, "pads": [1, 0, 0, 2], "strides": [2, 1]}),
    ("Conv", 22, (X2, W2), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("ConvTranspose", 22, (X2, T2), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("ConvTranspose", 22, (X2, T2), {"strides": [2, 2], "pads": [1, 0, 0, 0], "output_padding": [1, 1]}),
    ("MaxPool", 22, (X2,), window([3, 2], ceil_mode=1, strides=[2, 2], pads=[0, 1, 1, 0])),
    ("MaxPool", 22, (X2,), window([3, 2], auto_pad="SAME_UPPER", strides=[2, 2])),
    ("AveragePool", 22, (X2,), window([3, 2], auto_pad="SAME_LOWER", strides=[2, 2])),
    ("AveragePool", 22, (X2,), window([3, 2], ceil_mode=1, strides=[2, 2], count_include_pad=1)),
    ("LpPool", 22, (X2,), window([3, 2], strides=[2, 1])),
    ("GlobalMaxPool", 22, (X2,), {}),
]


@pytest.mark.parametrize("row", FREE, ids=row_id)
def test_it_is_exported_with_free_batch_and_size(row: Row) -> None:
    others = row[2][1:]
    export_freely(row, {0: (0, 2, 3)}, (normal(3, 4, 10, 9), *others))


@pytest.mark.parametrize("row", [FREE[1], FREE[3], FREE[6], FREE[7]], ids=row_id)
def test_torch_compile_takes_them_whole(row: Row) -> None:
    module = converted(build(row))
    given = [torch.tensor(a) for a in row[2]]
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(*given), module(*given))


CODE: list[tuple[Row, str]] = [
    (("Conv", 22, (X2, W2), {"group": 2, "pads": [1, 1, 1, 1]}), "conv2d(x0, x1, None, (1, 1), (1, 1), (1, 1), 2)"),
    (("Conv", 22, (X2, W2), {"group": 2, "auto_pad": "SAME_UPPER"}), "pad(x0, [0, 1, 1, 1], "),
    (
        ("MaxPool", 22, (X2,), window([2, 2], strides=[2, 2])),
        "max_pool2d(x0, (2, 2), stride = (2, 2), padding = (0, 0), ",
    ),
    (("AveragePool", 22, (X2,), window([2, 2])), "avg_pool2d(x0, (2, 2), (1, 1), (0, 0), False, False)"),
    (("GlobalAveragePool", 22, (X2,), {}), "x0.mean((2, 3), keepdim = True)"),
]


@pytest.mark.parametrize(("row", "code"), CODE, ids=[row_id(r) for r, _ in CODE])
def test_the_code_is_plain(row: Row, code: str) -> None:
    assert code in converted(build(row)).code


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "row", [("AveragePool", 22, (X3,), window([2, 2, 2])), ("MaxPool", 22, (X3,), window([2, 2, 2])), FREE[0], FREE[3]]
)
def test_narrow_types(row: Row, kind: str) -> None:
    dtype = helper.tensor_dtype_to_np_dtype({"float16": 10, "bfloat16": 16}[kind])
    given = tuple(a.astype(dtype) for a in row[2])
    (found,) = run(build((*row[:2], given, row[3])), *given)
    (wanted,) = run(build(row), *row[2])
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(F32), wanted, rtol=2e-2, atol=1e-1)


def test_more_axes_than_torch_pools_over() -> None:
    x = normal(1, 2, 3, 4, 3, 4)
    row: Row = ("MaxPool", 22, (x,), window([2, 2, 2, 2], strides=[1, 2, 1, 2]))
    (found,) = evaluate(converted(build(row)), [x])
    wanted = np.lib.stride_tricks.sliding_window_view(x, (2, 2, 2, 2), (2, 3, 4, 5)).max((-4, -3, -2, -1))
    agree(found, wanted[:, :, :, ::2, :, ::2])
