"""Resizing. Linear is ONNX's; the others are one product with a small matrix for each spatial axis, which is exact and
differentiable as it stands: ONNX's Resize has no Lanczos, no translation, and a cubic whose coefficients are not those
of TensorFlow's table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .call import Call, Value, handler

Kernel = Callable[[Call, Value], Value]


@handler("ScaleAndTranslate")
def scale_and_translate(call: Call, x: Value, size: Value, scale: Value, shift: Value) -> Value:
    """Every sample is a mean of the source pixels weighted by a kernel; 0 where its centre is outside."""
    kernel, radius = KERNELS[call.attr("kernel_type")]

    def weights(i: int) -> Value:
        target, factor, offset = (v.slice(i, i + 1, 0) for v in (size, scale, shift))
        return _weights(call, x.size(1 + i), target, factor, offset, kernel, radius)

    return _resized(call, x, weights(0), weights(1))


def _weights(
    call: Call, source: Value, target: Value, scale: Value, shift: Value, kernel: Kernel, radius: float
) -> Value:
    """(target, source) float32."""
    inverse = 1 / scale
    stretch = call.op("Max", inverse, inverse.same(1.0)) if call.attr("antialias") else inverse.same(1.0)
    at = (call.range(target.cast("int64"), "float32") + 0.5) * inverse - inverse * shift
    distance = call.range(source, "float32") + 0.5 - at.unsqueeze(1)
    # TensorFlow counts the pixels whose centre is within the radius, inclusively
    weights = kernel(call, call.op("Abs", distance / stretch))
    weights = (call.op("Abs", distance) <= stretch * radius).where(weights, 0.0)
    total = weights.reduce("Sum", 1, keepdims=True)
    usable = (call.op("Abs", total) >= 1000 * 1.17549435e-38) & _inside(at, source).unsqueeze(1)
    return usable.where(weights / usable.where(total, 1.0), 0.0)


def _inside(at: Value, source: Value) -> Value:
    return (at >= 0.0) & (at <= source.cast("float32"))


def _resized(call: Call, x: Value, rows: Value, columns: Value) -> Value:
    """(b, h, w, c) by (h', h) and (w', w), in the dtype of the result."""
    dtype = call.output_dtype()
    image = x.cast(dtype).transpose(0, 3, 1, 2)
    image = rows.cast(dtype) @ (image @ columns.cast(dtype).transpose(1, 0))
    return image.transpose(0, 2, 3, 1)


@handler("ResizeBilinear")
def resize_bilinear(call: Call, x: Value, size: Value) -> Value:
    """By sizes: scales, as tf2onnx gives them, are rounded, and a row short."""
    mode = "half_pixel" if call.attr("half_pixel_centers", False) else "asymmetric"
    mode = "align_corners" if call.attr("align_corners", False) else mode
    image = x.cast(call.output_dtype()).transpose(0, 3, 1, 2)
    sizes = call.op("Concat", image.size(0), image.size(1), size.cast("int64"), axis=0)
    resized = call.op("Resize", image, None, None, sizes, mode="linear", coordinate_transformation_mode=mode)
    return resized.transpose(0, 2, 3, 1)


@handler("ResizeNearestNeighbor")
def resize_nearest(call: Call, x: Value, size: Value) -> Value:
    """Rows, then columns, picked by index."""
    corners, half = call.attr("align_corners", False), call.attr("half_pixel_centers", False)
    for axis in (1, 2):
        source, target = x.size(axis), size.slice(axis - 1, axis, 0).cast("int64")
        index, scale = call.range(target, "float32"), _scale(call, source, target, bool(corners))
        at = (index + 0.5 if half else index) * scale
        whole = _half_away(call, at) if corners else call.op("Floor", at)
        whole = call.op("Max", call.op("Min", whole, source.cast("float32") - 1), whole.same(0.0))
        x = call.op("Gather", x, whole.cast("int64"), axis=axis)
    return x.cast(call.output_dtype())


def _half_away(call: Call, x: Value) -> Value:
    return call.op("Floor", x + 0.5)


def _scale(call: Call, source: Value, target: Value, corners: bool) -> Value:
    n, m = source.cast("float32"), target.cast("float32")
    return (m > 1.0).where((n - 1) / call.op("Max", m - 1, m.same(1.0)), n / m) if corners else n / m


@handler("ResizeBicubic")
def resize_bicubic(call: Call, x: Value, size: Value) -> Value:
    """Keys' cubic (a = -1/2; -3/4 without half-pixel centres), its position in the pixel rounded to 1/1024."""
    corners, half = call.attr("align_corners", False), call.attr("half_pixel_centers", False)
    weights = []
    for axis in (1, 2):
        source, target = x.size(axis), size.slice(axis - 1, axis, 0).cast("int64")
        at = _cubic_positions(call, source, target, bool(corners), bool(half))
        weights.append(_cubic_weights(call, at, source, bool(half)))
    return _resized(call, x, *weights)


def _cubic_positions(call: Call, source: Value, target: Value, corners: bool, half: bool) -> Value:
    index, scale = call.range(target, "float32"), _scale(call, source, target, corners)
    return (index + 0.5) * scale - 0.5 if half else index * scale


def _cubic_weights(call: Call, at: Value, source: Value, half: bool) -> Value:
    """(target, source): four neighbours each. Beyond the border the weight goes to the border pixel, or, with
    half-pixel centres, is left out and the rest scaled up."""
    floor = call.op("Floor", at)
    part = call.op("Round", (at - floor) * 1024) / 1024
    kernel = _cubic(-0.5 if half else -0.75)
    pixels = call.range(source, "float32")
    last = source.cast("float32") - 1
    total = None
    for k in (-1, 0, 1, 2):
        neighbour = floor + k
        weight = kernel(call, call.op("Abs", part - k))
        inside = call.op("Min", call.op("Max", neighbour, neighbour.same(0.0)), last)
        if half:
            weight = neighbour.equal(inside).where(weight, 0.0)
        hit = inside.unsqueeze(1).equal(pixels).where(weight.unsqueeze(1), 0.0)
        total = hit if total is None else total + hit
    assert total is not None
    return total / total.reduce("Sum", 1, keepdims=True) if half else total


def _cubic(a: float) -> Kernel:
    """Keys 1981, over |x|."""

    def kernel(call: Call, x: Value) -> Value:
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return (x <= 1.0).where(near, (x < 2.0).where(far, 0.0))

    return kernel


def _triangle(call: Call, x: Value) -> Value:
    return (x < 1.0).where(1 - x, 0.0)


def _box(call: Call, x: Value) -> Value:
    return (x < 0.5).where(x.same(1.0), x.equal(0.5).where(x.same(0.5), 0.0))


def _lanczos(radius: float) -> Kernel:
    def kernel(call: Call, x: Value) -> Value:
        angle = x * math.pi
        far = (x <= 1e-3).where(angle.same(1.0), angle)
        wave = radius * call.op("Sin", far) * call.op("Sin", far / radius) / (far * far)
        return (x > radius).where(x.same(0.0), (x <= 1e-3).where(x.same(1.0), wave))

    return kernel


def _gaussian(call: Call, x: Value) -> Value:
    """Of standard deviation 1/2, cut at 3 of them."""
    return (x >= 1.5).where(x.same(0.0), call.op("Exp", x * x * -2.0))


def _mitchell(call: Call, x: Value) -> Value:
    near = (7 / 6 * x - 2) * x * x + 8 / 9
    far = ((-7 / 18 * x + 2) * x - 10 / 3) * x + 16 / 9
    return (x < 1.0).where(near, (x < 2.0).where(far, 0.0))


KERNELS: dict[str, tuple[Kernel, float]] = {
    "lanczos1": (_lanczos(1.0), 1.0),
    "lanczos3": (_lanczos(3.0), 3.0),
    "lanczos5": (_lanczos(5.0), 5.0),
    "gaussian": (_gaussian, 1.5),
    "box": (_box, 0.5),
    "triangle": (_triangle, 1.0),
    "keyscubic": (_cubic(-0.5), 2.0),
    "mitchellcubic": (_mitchell, 2.0),
}
