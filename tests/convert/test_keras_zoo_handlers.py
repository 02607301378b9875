"""Each translation of a TensorFlow op, in ONNX Runtime against TensorFlow, also at the edges of its domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import isomorph.convert.onnx_out.lower  # noqa: F401  it registers handlers too
from isomorph.convert.onnx_out.handlers import HANDLERS

RNG = np.random.default_rng(0)
EDGES = np.array(
    [0, -0.0, 1e-30, -1e-8, 1e-4, -0.3, 0.5, 0.9, 3, -4, 20, -20, 90, -90, np.inf, -np.inf, np.nan], np.float32
)

COLOURS = np.array(
    [[0, 0, 0], [1, 1, 1], [0.2, 0.7, 0.1], [0.9, 0.1, 0.5], [0.6, 0.3, 0.8], [0.3, 0.3, 0.8]], np.float32
)


def quick(*few: Any, rest: list[Any]) -> list[Any]:
    """Cases for every run, and the others for the long one."""
    slow = [c for c in rest if c not in few]
    return [*few, *(pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.slow) for c in slow)]


def randn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


def onnx_of(function: Callable[..., Any], *arrays: np.ndarray, free: bool = False) -> list[np.ndarray]:
    """What ONNX Runtime makes of the function; free: with every dim unknown while converting."""
    import tf2onnx

    specs = [tf.TensorSpec([None] * a.ndim if free else a.shape, a.dtype) for a in arrays]

    @tf.function(autograph=False)
    def run(*inputs: Any) -> Any:
        return [tf.identity(y) for y in tf.nest.flatten(function(*inputs))]

    proto, _ = tf2onnx.convert.from_function(run, specs, opset=18, custom_op_handlers=dict(HANDLERS))
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([v.name for v in session.get_inputs()], arrays, strict=True)))


def agree(
    function: Callable[..., Any], *arrays: np.ndarray, free: bool = False, rtol: float = 2e-6, atol: float = 1e-6
) -> None:
    wanted = [np.asarray(y) for y in tf.nest.flatten(function(*map(tf.constant, arrays)))]
    found = onnx_of(function, *arrays, free=free)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("free", quick(True, rest=[False]))
@pytest.mark.parametrize(
    ("function", "values", "atol"),
    [
        (tf.math.erfc, EDGES, 2e-7),
        (tf.math.expm1, EDGES, 0),
        (tf.math.log1p, np.abs(EDGES) - np.float32(0.999), 0),
        (tf.math.log1p, EDGES, 0),
        (tf.math.erfinv, np.array([0, -0.0, 1e-8, -0.3, 0.5, 0.99, -0.9999, 1, -1, 1.5, np.nan], np.float32), 1e-6),
        (tf.image.rgb_to_hsv, COLOURS, 0),
        (tf.image.hsv_to_rgb, COLOURS, 0),
    ],
    ids=["erfc", "expm1", "log1p near -1", "log1p", "erfinv", "rgb_to_hsv", "hsv_to_rgb"],
)  # fmt: skip
def test_of_an_element(function: Callable[..., Any], values: np.ndarray, atol: float, free: bool) -> None:
    agree(function, values, free=free, rtol=4e-6, atol=atol)


def test_expm1_and_log1p_keep_their_digits_near_zero() -> None:
    x = np.array([1e-7, -3e-9, 2e-5], np.float32)
    for function, reference in ((tf.math.expm1, np.expm1), (tf.math.log1p, np.log1p)):
        np.testing.assert_allclose(onnx_of(function, x)[0], reference(x.astype("float64")), rtol=3e-7)


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "float32"])
def test_division_rounds_down(dtype: str) -> None:
    a, b = (v.ravel().astype(dtype) for v in np.meshgrid([-7, -6, -1, 0, 1, 6, 7, 50], [-3, -2, -1, 1, 2, 3, 10]))
    agree(lambda x, y: (tf.math.floordiv(x, y), tf.math.floormod(x, y)), a, b)


def test_sign_bit_by_bitcast() -> None:
    def sign(x: Any) -> Any:
        return tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), tf.constant(tf.int32.min)) < 0

    agree(sign, EDGES[:-1])
    with pytest.raises(Exception, match="Bitcast"):
        onnx_of(lambda x: tf.bitcast(x, tf.int32) + 1, EDGES)


@pytest.mark.parametrize("axis", [None, 0, -1, [0, 2], []])
def test_any_and_all(axis: Any) -> None:
    x = RNG.random((2, 3, 4)) > 0.6
    agree(lambda v: (tf.reduce_any(v, axis), tf.reduce_all(v, axis, keepdims=True)), x)


def test_cross() -> None:
    agree(tf.linalg.cross, randn(4, 3), randn(4, 3))


@pytest.mark.parametrize("axis", quick(0, rest=[1, -1]))
@pytest.mark.parametrize(
    ("exclusive", "reverse"), quick((True, True), rest=[(False, False), (True, False), (False, True)])
)
def test_cumulative_products(axis: int, exclusive: bool, reverse: bool) -> None:
    agree(lambda v: tf.math.cumprod(v, axis, exclusive, reverse), randn(3, 4, 5), free=axis == 0)
    agree(lambda v: tf.math.cumulative_logsumexp(v, axis, exclusive=False, reverse=reverse), randn(3, 4, 5))


def test_dynamic_update_slice_moves_inwards() -> None:
    from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

    x, update = randn(5, 6), randn(2, 3)
    for start in ([0, 0], [1, 2], [9, 4], [-3, 1]):
        found = onnx_of(dynamic_update_slice, x, update, np.array(start, np.int32), free=True)[0]
        wanted = x.copy()
        i, j = np.clip(start, 0, [3, 3])
        wanted[i : i + 2, j : j + 3] = update
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("a", "b"), [([2, 1], [3]), ([4, 1, 0], [3, 1]), ([1], [7]), ([5], [5])])
def test_broadcast_args(a: list[int], b: list[int]) -> None:
    agree(lambda x, y: tf.raw_ops.BroadcastArgs(s0=x, s1=y), np.array(a, np.int32), np.array(b, np.int32))


def test_in_top_k() -> None:
    scores = randn(6, 5)
    scores[0] = 1.0  # ties count for the target
    scores[1, 2] = np.nan
    targets = np.array([3, 2, 1, 4, 7, -1], np.int32)
    for k in (1, 2, 4):
        agree(lambda p, t, k=k: tf.math.in_top_k(t, p, k), scores, targets)


def test_bucketize() -> None:
    x = np.array([-5, -1, -0.999, 0, 0.5, 2, 2.1, np.inf, -np.inf], np.float32)
    agree(lambda v: tf.raw_ops.Bucketize(input=v, boundaries=[-1.0, 0.0, 2.0]), x, free=True)
    agree(lambda v: tf.raw_ops.Bucketize(input=v, boundaries=[-1.0, 0.0, 2.0]), np.arange(-3, 4, dtype=np.int32))


def test_search_in_sorted_rows() -> None:
    rows, values = np.sort(randn(2, 7)), randn(2, 5)
    values[0, 0], values[1, 1] = rows[0, 3], np.inf
    for side in ("left", "right"):
        agree(lambda r, v, side=side: tf.searchsorted(r, v, side), rows, values)


@pytest.mark.parametrize("axis", quick(0, rest=[-1, 1]))
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_one_hot(axis: int, dtype: str) -> None:
    """No element is hot for an index out of range, negative ones too."""
    x = np.array([[0, 3, -1], [4, 2, 9]], np.int32)
    on, off = (True, False) if dtype == "bool" else (5, -2)
    agree(lambda v: tf.one_hot(v, 4, on, off, axis, dtype), x, free=axis == 0)


@pytest.mark.parametrize("kind", quick("max", rest=["min", "sum", "prod"]))
@pytest.mark.parametrize("free", quick(True, rest=[False]))
def test_segments(kind: str, free: bool) -> None:
    """An empty segment, one id out of order, a negative id."""
    ids = np.array([0, 3, -1, 3, 1], np.int32)
    function = getattr(tf.math, f"unsorted_segment_{kind}")
    agree(lambda x, i: function(x, i, 5), randn(5, 2, 3), ids, free=free)
    agree(lambda x, i: function(x, i, 5), np.arange(5, dtype=np.int32), ids)


def test_scatters_add_what_meets() -> None:
    at = np.array([[1], [3], [1]], np.int32)
    agree(lambda i, u: tf.scatter_nd(i, u, [4, 2]), at, randn(3, 2))
    for name in ("add", "sub", "max", "min"):
        agree(getattr(tf, f"tensor_scatter_nd_{name}"), randn(4, 2), at, randn(3, 2))


# --------------------------------------------------------------------------------------------------------------- linalg
@pytest.mark.parametrize("adjoint", [False, True])
def test_solving(adjoint: bool) -> None:
    """Matrices whose first pivot is 0 among them."""
    a, b = randn(3, 5, 5) + np.diag(np.float32([0, 3, 3, 3, 3])), randn(3, 5, 2)
    a[0, 0, 0] = 0

    def run(m: Any, v: Any) -> Any:
        triangles = [tf.linalg.triangular_solve(m + 4 * np.eye(5), v, lower, adjoint) for lower in (True, False)]
        return [tf.linalg.solve(m, v, adjoint), tf.linalg.inv(m, adjoint), *triangles]

    agree(run, a, b, rtol=1e-4, atol=1e-4)


def test_cholesky_reads_the_lower_triangle() -> None:
    a = randn(2, 5, 5)
    a = a @ a.transpose(0, 2, 1) + 2 * np.eye(5, dtype=np.float32)
    agree(tf.linalg.cholesky, a + np.triu(np.ones((5, 5), np.float32), 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(Exception, match="Cholesky"):
        onnx_of(tf.linalg.cholesky, randn(65, 65))


# --------------------------------------------------------------------------------------------------------- convolution
@pytest.mark.parametrize(
    ("padding", "size", "kernel", "stride", "out"),
    [
        ("SAME", 5, 3, 2, 10),
        ("SAME", 5, 3, 2, 9),
        ("SAME", 4, 2, 3, 12),
        ("SAME", 6, 3, 1, 6),
        ("SAME", 4, 1, 2, 8),
        ("VALID", 5, 3, 2, 11),
        ("VALID", 5, 3, 2, 12),
        ("VALID", 4, 2, 3, 12),
        ("VALID", 4, 5, 2, 11),
    ],
)
def test_transposed_convolution(padding: str, size: int, kernel: int, stride: int, out: int) -> None:

    def run(x: Any, k: Any) -> Any:
        return tf.nn.conv2d_transpose(x, k, [2, out, out, 3], stride, padding)

    agree(run, randn(2, size, size, 4), randn(kernel, kernel, 3, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_grouped_convolution(dims: int) -> None:
    """TensorFlow's CPU has no kernel for it in three dims: the groups are computed one by one."""
    x, k = randn(2, *[5] * dims, 6), randn(*[3] * dims, 2, 9)
    found = onnx_of(lambda v, w: tf.nn.convolution(v, w, padding="SAME"), x, k)[0]
    parts = zip(np.split(x, 3, -1), np.split(k, 3, -1), strict=True)
    wanted = np.concatenate([tf.nn.convolution(v, w, padding="SAME") for v, w in parts], -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- images
@pytest.mark.parametrize(
    ("size", "free"),
    quick(((5, 8), False), rest=[((13, 20), False), ((7, 10), False), ((1, 1), False), ((14, 3), True)]),
)
@pytest.mark.parametrize("kind", ["bilinear", "nearest", "bicubic"])
def test_resizing(kind: str, size: tuple[int, int], free: bool) -> None:
    names = {"bilinear": "ResizeBilinear", "nearest": "ResizeNearestNeighbor", "bicubic": "ResizeBicubic"}
    op = getattr(tf.raw_ops, names[kind])
    modes = [(False, True), (False, False), (True, False)]

    def run(x: Any) -> Any:
        return [op(images=x, size=size, align_corners=corners, half_pixel_centers=half) for corners, half in modes]

    agree(run, randn(2, 7, 10, 3), free=free, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "kernel",
    quick("lanczos3", rest=["lanczos1", "lanczos5", "gaussian", "box", "triangle", "keyscubic", "mitchellcubic"]),
)
def test_scale_and_translate(kernel: str) -> None:
    def run(x: Any, shift: Any) -> Any:
        return [
            tf.raw_ops.ScaleAndTranslate(
                images=x, size=[8, 6], scale=[1.3, 0.55], translation=shift, kernel_type=kernel, antialias=antialias
            )
            for antialias in (False, True)
        ]

    for shift in ([0.0, 0.0], [2.3, -1.6], [-40.0, 1.0]):
        agree(run, randn(1, 7, 10, 2), np.array(shift, np.float32), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("fill", quick("WRAP", rest=["CONSTANT", "REFLECT", "NEAREST"]))
@pytest.mark.parametrize("interpolation", ["NEAREST", "BILINEAR"])
def test_projective_transform(fill: str, interpolation: str) -> None:
    """A turn, a shift far outside, a perspective whose divisor passes through 0."""
    turns = np.array(
        [[0.8, 0.3, -1.2, -0.4, 1.1, 0.6, 0, 0], [1, 0, 17, 0, 1, -23, 0, 0], [1, 0.2, 0, 0, 1, 1, -0.5, 0]], np.float32
    )

    def run(x: Any, t: Any) -> Any:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=x, transforms=t, output_shape=[6, 9], fill_value=0.25, interpolation=interpolation, fill_mode=fill
        )

    agree(run, randn(3, 7, 5, 2), turns, free=fill == "WRAP", rtol=1e-5, atol=1e-5)
    agree(run, randn(3, 7, 5, 2), turns[:1])


# ------------------------------------------------------------------------------------------------------------- spectra
@pytest.mark.parametrize("n", quick(9, rest=[8, 5, 12]))
def test_real_transforms(n: int) -> None:
    def run(x: Any) -> Any:
        spectrum = tf.signal.rfft(x, [n])
        turned = spectrum * tf.complex(0.6, 0.8)
        return [tf.math.real(spectrum), tf.math.imag(spectrum), tf.abs(spectrum), tf.signal.irfft(turned, [n])]

    agree(run, randn(3, 9), rtol=1e-5, atol=1e-5)


def test_complex_transforms() -> None:
    def run(a: Any, b: Any) -> Any:
        z = tf.complex(a, b)
        made = [tf.signal.fft(z), tf.signal.ifft(z), tf.signal.fft2d(z), tf.signal.ifft2d(tf.math.conj(z))]
        return [part(y) for y in made for part in (tf.math.real, tf.math.imag)]

    agree(run, randn(2, 6, 7), randn(2, 6, 7), rtol=1e-5, atol=5e-5)


# -------------------------------------------------------------------------------------------------------------- float64
@pytest.mark.parametrize(
    "function",
    [
        tf.math.log,
        tf.math.expm1,
        tf.math.log1p,
        tf.math.cumprod,
        lambda x: tf.math.top_k(x, 3).values,
        lambda x: tf.math.xlogy(x - x[0], x),
        lambda x: tf.math.reduce_logsumexp(tf.where(x > 0.5, x, -np.inf), 0),
    ],
    ids=["log", "expm1", "log1p", "cumprod", "top_k", "xlogy", "logsumexp of infinities"],
)
def test_float64_stays_float64(function: Callable[..., Any]) -> None:
    """No op is computed in float32; ONNX Runtime lacks kernels for some, so ONNX's reference runs it."""
    import tf2onnx
    from onnx.reference import ReferenceEvaluator

    x = RNG.uniform(0.05, 0.95, (3, 4))
    run = tf.function(lambda v: tf.identity(function(v)), autograph=False)
    spec = tf.TensorSpec((None, 4), tf.float64)
    proto, _ = tf2onnx.convert.from_function(run, [spec], opset=18, custom_op_handlers=dict(HANDLERS))
    found = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x})[0]
    np.testing.assert_allclose(found, run(x), rtol=1e-12)


def test_select_takes_only_what_is_chosen() -> None:
    x = np.array([[1, np.inf], [np.nan, -2]])
    agree(lambda v: tf.where(tf.math.is_finite(v), v, 0), x)
    agree(lambda v: tf.where(v > 1, v, -v), np.arange(4, dtype=np.int8))
    agree(lambda v: tf.where(v, False, True), np.array([True, False]))


# -------------------------------------------------------------------------------------------------------------- tracing
def test_what_is_replaced_while_tracing_is_put_back() -> None:
    import keras
    import keras.src.ops.image

    from isomorph.convert.onnx_out.handlers.tracing import traceable

    def held() -> list[Any]:
        return [keras.layers.TimeDistributed.call, keras.src.ops.image.resize, tf.lookup.StaticHashTable.lookup]

    own = held()
    with traceable():
        assert all(a is not b for a, b in zip(held(), own, strict=True))
    assert held() == own
    with pytest.raises(KeyError):
        _broken(traceable)
    assert held() == own


def _broken(scope: Callable[[], Any]) -> None:
    with scope():
        raise KeyError


def test_a_second_handler_is_refused() -> None:
    from isomorph.convert.onnx_out.handlers.call import handler

    with pytest.raises(ValueError, match="Erfc has two handlers"):
        handler("Erfc")(lambda call, x: x)
