"""ONNX rules of conversion and quantisation, losses, random numbers, derivatives, spectra."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F

from isomorph.convert.errors import UnsupportedError
from isomorph.convert.onnx_in.rules.cast import convert, parsed, printed
from isomorph.convert.onnx_in.rules.narrow import codes, from_codes, to_e8m0
from tests.quality.onnx_suite.judge import as_numpy

from .onnx_node import agree, converted, model_of, run

F32 = np.float32
RNG = np.random.default_rng(0)
FLOAT8 = {17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz"}
SMALL = {23: "float4_e2m1fn", 27: "float6_e2m3fn", 28: "float6_e3m2fn"}
INTEGERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 21: "uint4", 22: "int4", 25: "uint2", 26: "int2"}


def spread() -> np.ndarray:
    """All magnitudes, both signs, halfway points of short mantissas, and a little beside them."""
    powers = 2.0 ** np.arange(-20, 18)
    points = np.concatenate([powers * (1 + k / 32) for k in range(32)])
    points = np.concatenate([points, points * (1 + 2.0**-20), points * (1 - 2.0**-20), [0.0]])
    return np.concatenate([points, -points]).astype(F32)


# ----------------------------------------------------------------------------------------------------------- conversion
@pytest.mark.parametrize("source", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("to", FLOAT8)
def test_floats_of_8_bits_are_rounded_to_the_nearest(to: int, source: str) -> None:
    kind = getattr(ml_dtypes, FLOAT8[to])
    largest = float(ml_dtypes.finfo(kind).max)
    with np.errstate(over="ignore"):
        x = spread().astype(getattr(ml_dtypes, source, source))
    x = x[np.abs(x.astype(np.float64)) <= largest]
    given = torch.tensor(x.astype(np.float64)).to(getattr(torch, source))
    found = as_numpy(convert(given, to)).astype(np.float64)
    np.testing.assert_array_equal(found, x.astype(kind).astype(np.float64))


@pytest.mark.parametrize("to", FLOAT8)
def test_what_floats_of_8_bits_cannot_hold(to: int) -> None:
    largest = float(ml_dtypes.finfo(getattr(ml_dtypes, FLOAT8[to])).max)
    x = torch.tensor([largest, largest * 1.001, 1e30, torch.inf, -torch.inf, torch.nan])
    saturated, loose = convert(x, to).double(), convert(x, to, saturate=False).double()
    torch.testing.assert_close(
        saturated, torch.tensor([largest] * 4 + [-largest, torch.nan]).double(), rtol=0, atol=0, equal_nan=True
    )
    assert loose[:2].tolist() == [largest] * 2  # the second is rounded down
    assert all(torch.isinf(loose[2:5])) if to == 19 else all(torch.isnan(loose[2:5]))


def test_float64_is_rounded_once() -> None:
    x = torch.tensor([1.0625 + 2.0**-40, 1.0625], dtype=torch.float64)  # beside and on the middle of 1 and 1.125
    assert convert(x, 17).double().tolist() == [1.125, 1.0]
    assert convert(x * 4, 23).tolist() == [4.0, 4.0]
    assert convert(torch.tensor([1.25 + 2.0**-40, 1.25], dtype=torch.float64), 23).tolist() == [1.5, 1.0]


@pytest.mark.parametrize("to", SMALL)
def test_floats_of_4_and_6_bits(to: int) -> None:
    x = spread()
    kind = getattr(ml_dtypes, SMALL[to])
    largest = float(ml_dtypes.finfo(kind).max)
    found = convert(torch.tensor(x), to).numpy()
    np.testing.assert_array_equal(found, np.clip(x, -largest, largest).astype(kind).astype(F32))
    table = np.arange(1 << (4 if to == 23 else 6), dtype=np.uint8).view(kind).astype(F32)
    np.testing.assert_array_equal(from_codes(torch.arange(len(table)).to(torch.uint8), to).numpy(), table)
    np.testing.assert_array_equal(codes(torch.tensor(table), to).numpy(), np.arange(len(table)))


@pytest.mark.parametrize(
    ("mode", "wanted"), [("up", [1, 2, 2, 2, 4]), ("down", [1, 1, 1, 1, 2]), ("nearest", [1, 1, 2, 2, 4])]
)
def test_powers_of_two(mode: str, wanted: list[float]) -> None:
    x = torch.tensor([1.0, 1.25, 1.5, 1.75, 3.0])
    assert to_e8m0(x, mode, True).float().tolist() == wanted
    odd = torch.tensor([0.0, torch.inf, torch.nan, 1e-45])
    assert to_e8m0(odd, mode, True).view(torch.uint8).tolist() == [0, 254, 255, 0]
    assert to_e8m0(odd, mode, False).view(torch.uint8).tolist() == [255] * 4


def test_integers_keep_their_lowest_bits() -> None:
    x = torch.tensor([200, -129, 7, 8, -9])
    assert convert(x, 3).tolist() == [-56, 127, 7, 8, -9]
    assert convert(x, 22).tolist() == [-8, -1, 7, -8, 7]
    assert convert(x, 21).tolist() == [8, 15, 7, 8, 7]
    assert convert(x, 26).tolist() == [0, -1, -1, 0, -1]
    assert convert(torch.tensor([True, False]), 22).tolist() == [1, 0]


@pytest.mark.parametrize(("source", "to"), [(22, 21), (21, 22), (23, 21), (22, 23), (25, 26), (26, 25)])
def test_the_same_bits_of_narrow_types(source: int, to: int) -> None:
    kinds = {21: "uint4", 22: "int4", 23: "float4_e2m1fn", 25: "uint2", 26: "int2"}
    ours, theirs = (getattr(ml_dtypes, kinds[k]) for k in (source, to))
    bits = np.arange(4 if source > 24 else 16, dtype=np.uint8)
    x = bits.view(ours)
    node = helper.make_node("BitCast", ["x"], ["y"], to=to)
    ports = [helper.make_tensor_value_info(n, k, x.shape) for n, k in (("x", source), ("y", to))]
    graph = helper.make_graph([node], "graph", ports[:1], ports[1:])
    module = converted(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)]))
    wide = x.astype(F32 if source == 23 else np.int8 if "u" not in kinds[source] else np.uint8)
    found = module(torch.tensor(wide)).numpy()
    np.testing.assert_array_equal(found.astype(F32), bits.view(theirs).astype(F32))


def test_numbers_and_strings() -> None:
    texts = np.array([["1e-3", "INF", "-inf"], ["nan", "3.5", "-0"]], dtype=object)
    found = parsed(texts, TensorProto.FLOAT)
    np.testing.assert_array_equal(found.numpy(), F32([[1e-3, np.inf, -np.inf], [np.nan, 3.5, -0.0]]))
    assert parsed([str(2**64 - 1), "7"], TensorProto.UINT64).tolist() == [2**64 - 1, 7]
    assert printed(torch.tensor([0.1, torch.inf, torch.nan, 1.5])).tolist() == ["0.1", "INF", "NaN", "1.5"]
    assert printed(torch.tensor([[1], [-2]])).tolist() == [["1"], ["-2"]]
    x = F32([0.1, 2])
    (text,) = run(model_of("Cast", x, to=TensorProto.STRING), x)
    (back,) = run(model_of("Cast", text, to=TensorProto.FLOAT), text)
    agree(back, x)


# --------------------------------------------------------------------------------------------------------- quantisation
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "one": ((), {}),
    "axis": ((3,), {"axis": 1}),
    "last": ((4,), {"axis": -1}),
    "blocks": ((2, 2, 4), {"axis": 1, "block_size": 2}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("element", [*INTEGERS, *FLOAT8, 23])
def test_quantised_and_back(element: int, layout: str) -> None:
    """Against the formula in float64: rounded, halves to even, moved by the zero point, saturated."""
    shape, attributes = LAYOUTS[layout]
    x = (RNG.normal(size=(2, 3, 4)) * 40).astype(F32)
    scale = RNG.uniform(0.25, 2, shape).astype(F32)
    name = {**INTEGERS, **FLOAT8, 23: "float4_e2m1fn"}[element]
    kind = np.dtype(getattr(ml_dtypes, name, name))
    zero = np.full(shape, 1 if element in INTEGERS else 0).astype(kind)
    model = model_of("QuantizeLinear", x, scale, zero, **attributes)
    whole = np.repeat(scale, 2, 1)[:, :3] if layout == "blocks" else scale[:, None] if layout == "axis" else scale
    ratio = (x / whole).astype(np.float64)
    if element in INTEGERS:
        info = ml_dtypes.iinfo(kind)
        wanted = np.clip(np.rint(ratio) + 1, int(info.min), int(info.max))
    else:
        largest = float(ml_dtypes.finfo(kind).max)
        wanted = np.clip(ratio, -largest, largest).astype(kind).astype(np.float64)
    (found,) = run(model, x, scale, zero)
    np.testing.assert_array_equal(found.astype(np.float64), wanted)
    back = model_of("DequantizeLinear", wanted.astype(kind), scale, zero, **attributes)
    (real,) = run(back, wanted.astype(kind), scale, zero)
    agree(real, ((wanted - zero.flat[0].astype(np.float64)) * whole).astype(F32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantised_at_a_rank_that_is_known_at_run_time_only(layout: str) -> None:
    shape, attributes = LAYOUTS[layout]
    x = (RNG.normal(size=(2, 3, 4)) * 40).astype(F32)
    scale, zero = RNG.uniform(0.25, 2, shape).astype(F32), np.full(shape, 3, np.int8)
    for op, first in (("QuantizeLinear", x), ("DequantizeLinear", x.astype(np.int8))):
        arrays = (first, scale, zero)
        wanted = run(model_of(op, *arrays, **attributes), *arrays)[0]
        agree(run(model_of(op, *arrays, hidden=True, **attributes), *arrays)[0], wanted)


def test_quantisation_of_halves_in_16_bits_does_not_overflow() -> None:
    x, scale, zero = np.float16([60000, 2.5]), np.float16(1), np.uint16(40000)
    assert run(model_of("QuantizeLinear", x, scale, zero), x, scale, zero)[0].tolist() == [65535, 40002]


def test_output_type_and_precision_by_attribute() -> None:
    x, scale = np.float16([1.0, 3.0]), np.float16(0.3)
    model = model_of("QuantizeLinear", x, scale, output_dtype=TensorProto.INT16, precision=TensorProto.FLOAT)
    (found,) = run(model, x, scale)
    agree(found, np.rint(x.astype(F32) / scale.astype(F32)).astype(np.int16))
    (real,) = run(model_of("DequantizeLinear", np.int8([3]), scale, output_dtype=1), np.int8([3]), scale)
    agree(real, F32([3]) * scale.astype(F32))


def test_the_scale_of_a_weight_learns() -> None:
    weight, scale = np.int8([[1, -2], [3, 4]]), F32([0.5, 0.25])
    module = converted(model_of("DequantizeLinear", weight, scale, constants=(0,), axis=0)).double()
    given = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    module(given).sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [-1, 7]


def test_integer_products_wrap_like_int32_and_take_a_zero_point_for_each_row() -> None:
    a, b = RNG.integers(0, 255, (3, 4)).astype(np.uint8), RNG.integers(-128, 127, (4, 2)).astype(np.int8)
    a_zero, b_zero = np.uint8([1, 200, 3]), np.int8([-4, 5])
    (found,) = run(model_of("MatMulInteger", a, b, a_zero, b_zero), a, b, a_zero, b_zero)
    wide = (a.astype(np.int32) - a_zero[:, None]) @ (b.astype(np.int32) - b_zero.astype(np.int32))
    agree(found, wide.astype(np.int32))


# --------------------------------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dims", [(), (4,), (2, 3)])
def test_losses_and_their_derivatives(dims: tuple[int, ...], weighted: bool, reduction: str) -> None:
    """In the class weights, too, where torch has none."""
    scores = RNG.normal(size=(3, 5, *dims))
    labels = RNG.integers(0, 5, (3, *dims))
    labels.flat[0] = 9
    weights = RNG.uniform(0.5, 2, 5) if weighted else None
    attributes = {"ignore_index": 9, "reduction": reduction}
    arrays = (scores, labels, weights) if weighted else (scores, labels)
    module = converted(model_of("SoftmaxCrossEntropyLoss", *arrays, outputs=2, **attributes))
    tensors = [torch.tensor(a) for a in arrays]
    loss, log_prob = module(*tensors)
    weight = tensors[2] if weighted else None
    torch.testing.assert_close(loss, F.cross_entropy(*tensors[:2], weight, ignore_index=9, reduction=reduction))
    torch.testing.assert_close(log_prob, torch.log_softmax(tensors[0], 1))
    for tensor in tensors:
        tensor.requires_grad_(tensor.is_floating_point())
    assert torch.autograd.gradcheck(lambda *t: module(*t)[0], tensors)


# ------------------------------------------------------------------------------------------------------- random numbers
def drawn(op: str, *arrays: Any, **attributes: Any) -> torch.nn.Module:
    return converted(model_of(op, *arrays, gives=attributes.get("dtype", 1), **attributes))


def test_random_numbers() -> None:
    """Their moments; torch's seed; new ones at each call; float64 where the module is."""
    normal = drawn("RandomNormal", shape=[100, 100], mean=3.0, scale=2.0, seed=1.0)
    torch.manual_seed(0)
    first, second = normal(), normal()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(normal(), first)
    assert abs(first.mean() - 3) < 0.1
    assert abs(first.std() - 2) < 0.1
    assert normal.double()().dtype == torch.float64
    uniform = drawn("RandomUniform", shape=[100, 100], low=-1.0, high=3.0, dtype=TensorProto.DOUBLE)()
    assert uniform.dtype == torch.float64
    assert -1 <= uniform.min() < -0.95
    assert 2.95 < uniform.max() < 3
    x = np.zeros((100, 100), F32)
    like = drawn("RandomNormalLike", x, mean=-1.0, scale=0.5)(torch.tensor(x))
    assert abs(like.mean() + 1) < 0.05
    assert abs(like.std() - 0.5) < 0.05
    ones = drawn("RandomUniformLike", x, low=5.0, high=6.0, dtype=TensorProto.DOUBLE)(torch.tensor(x))
    assert 5 <= ones.min() < 5.01 < 5.99 < ones.max() < 6
    assert torch.export.export(normal.eval(), ()).module()().shape == (100, 100)


def test_random_choices() -> None:
    p = np.full((2000,), 0.25, F32)
    found = drawn("Bernoulli", p, dtype=TensorProto.INT32)(torch.tensor(p))
    assert found.dtype == torch.int32
    assert set(found.tolist()) == {0, 1}
    assert abs(found.double().mean() - 0.25) < 0.05
    logits = np.log(F32([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])) + 5
    found = drawn("Multinomial", logits, sample_size=2000, dtype=TensorProto.INT64)(torch.tensor(logits))
    assert found.shape == (2, 2000)
    assert abs((found[0] == 0).double().mean() - 0.7) < 0.05
    assert abs((found[1] == 2).double().mean() - 0.8) < 0.05


# ---------------------------------------------------------------------------------------- derivatives inside the graph
TRAINING = "ai.onnx.preview.training"


def graph_with_gradient(*nodes: Any, xs: list[str], zs: list[str]) -> Any:
    """y, and its derivatives in `xs`; w is an initializer."""
    gradient = helper.make_node(
        "Gradient", [*xs, *zs], [f"d{x}" for x in xs], domain=TRAINING, xs=xs, zs=zs or None, y="y"
    )
    ports = [helper.make_tensor_value_info(n, 1, (3,)) for n in ("a", "b", "y", *(f"d{x}" for x in xs))]
    held = [onnx.numpy_helper.from_array(F32([1, 2, 3]), "w")]
    graph = helper.make_graph([*nodes, gradient], "graph", ports[:2], ports[2:], held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(TRAINING, 1)]
    return helper.make_model(graph, opset_imports=opsets)


def test_derivatives_at_run_time() -> None:
    nodes = [helper.make_node("Mul", ["a", "w"], ["m"]), helper.make_node("Mul", ["m", "b"], ["y"])]
    module = converted(graph_with_gradient(*nodes, xs=["a"], zs=["b"]))
    a, b = torch.tensor([4.0, 5, 6]), torch.tensor([7.0, 8, 9])
    with torch.no_grad():
        assert [v.tolist() for v in module(a, b)] == [[28, 80, 162], [7, 16, 27]]
    both = converted(graph_with_gradient(*nodes, xs=["a", "b"], zs=[]))
    assert [v.tolist() for v in both(a, b)[1:]] == [[7, 16, 27], [4, 10, 18]]


def test_a_derivative_of_what_is_not_there_is_refused() -> None:
    nodes = [helper.make_node("Mul", ["a", "b"], ["y"])]
    model = graph_with_gradient(*nodes, xs=["a"], zs=["b"])
    next(a for a in model.graph.node[-1].attribute if a.name == "y").s = b"z"
    with pytest.raises(UnsupportedError, match="there is no tensor 'z'"):
        converted(model)


# -------------------------------------------------------------------------------------------------------------- spectra
SIGNAL = RNG.normal(size=(2, 7, 5, 2))


@pytest.mark.parametrize("axis", [1, 2, -3, -2])
@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("inverse", [0, 1])
def test_fourier_transforms(inverse: int, length: int | None, axis: int) -> None:
    """Cut, filled with zeros; the axis an input or an attribute. numpy's fft is the measure."""
    place = axis if axis > 0 else axis + 1  # in the array of complex numbers
    x = SIGNAL[..., 0] + 1j * SIGNAL[..., 1]
    wanted = (np.fft.ifft if inverse else np.fft.fft)(x, length, place)
    wanted = np.stack([wanted.real, wanted.imag], -1)
    arrays = (SIGNAL, None if length is None else np.int64(length), np.int64(axis))
    agree(run(model_of("DFT", *arrays, inverse=inverse), *arrays)[0], wanted, atol=1e-12)
    old = model_of("DFT", *arrays[:2], opset=17, axis=axis, inverse=inverse)
    agree(run(old, *arrays[:2])[0], wanted, atol=1e-12)


@pytest.mark.parametrize("length", [6, 7])
def test_half_spectra_and_back(length: int) -> None:
    x = RNG.normal(size=(2, length, 1))
    (half,) = run(model_of("DFT", x, onesided=1), x)
    wanted = np.fft.rfft(x[..., 0])
    agree(half, np.stack([wanted.real, wanted.imag], -1), atol=1e-12)
    count = np.int64(length)
    (back,) = run(model_of("DFT", half, count, onesided=1, inverse=1), half, count)
    agree(back, x, atol=1e-12)
    module = converted(model_of("DFT", x, onesided=1))
    assert torch.autograd.gradcheck(module, torch.tensor(x, requires_grad=True))


@pytest.mark.parametrize("onesided", [0, 1])
def test_short_transforms(onesided: int) -> None:
    signal, window = RNG.normal(size=(2, 20, 1)), np.hanning(8)
    arrays = (signal, np.int64(3), window)
    (found,) = run(model_of("STFT", *arrays, onesided=onesided), *arrays)
    wanted = torch.stft(
        torch.tensor(signal[..., 0]),
        8,
        3,
        window=torch.tensor(window),
        center=False,
        onesided=bool(onesided),
        return_complex=True,
    )
    agree(found, torch.view_as_real(wanted.transpose(1, 2)).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("HannWindow", torch.hann_window),
        ("BlackmanWindow", torch.blackman_window),
        ("HammingWindow", lambda n, **k: torch.hamming_window(n, alpha=25 / 46, beta=21 / 46, **k)),
    ],
)
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(periodic: int, op: str, function: Any) -> None:
    wanted = function(9, periodic=bool(periodic), dtype=torch.float64).numpy()
    model = model_of(op, np.int64(9), periodic=periodic, output_datatype=TensorProto.DOUBLE)
    agree(run(model, np.int64(9))[0], wanted, atol=1e-12)


def test_mel_weights_of_another_size() -> None:
    arrays = (np.int64(5), np.int64(64), np.int64(8000), F32(20), F32(4000))
    model = model_of("MelWeightMatrix", *arrays, output_datatype=TensorProto.DOUBLE)
    wanted = ReferenceEvaluator(model).run(None, {f"x{i}": a for i, a in enumerate(arrays)})[0]
    agree(run(model, *arrays)[0], wanted, atol=1e-6)
