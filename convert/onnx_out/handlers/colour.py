"""Colour spaces, channels last, values in [0, 1]."""

from __future__ import annotations

from .call import Call, Value, handler


@handler("RGBToHSV")
def rgb_to_hsv(call: Call, x: Value) -> Value:
    r, g, b = call.ops("Split", 3, x, call.const([1, 1, 1], "int64"), axis=-1)
    value = call.op("Max", r, g, b)
    span = value - call.op("Min", r, g, b)
    saturation = (value > 0.0).where(span / (value > 0.0).where(value, 1.0), 0.0)
    scale = 1 / (6 * (span > 0.0).where(span, 1.0))
    hue = value.equal(r).where(scale * (g - b), value.equal(g).where(scale * (b - r) + 1 / 3, scale * (r - g) + 2 / 3))
    hue = (span > 0.0).where(hue, 0.0)
    hue = (hue < 0.0).where(hue + 1, hue)
    return call.op("Concat", hue, saturation, value, axis=-1)


@handler("HSVToRGB")
def hsv_to_rgb(call: Call, x: Value) -> Value:
    h, s, v = call.ops("Split", 3, x, call.const([1, 1, 1], "int64"), axis=-1)
    turned = h * 6

    def clipped(y: Value) -> Value:
        return call.op("Clip", y, y.same(0.0), y.same(1.0))

    parts = [
        clipped(call.op("Abs", turned - 3) - 1),
        clipped(2 - call.op("Abs", turned - 2)),
        clipped(2 - call.op("Abs", turned - 4)),
    ]
    return call.op("Concat", *[v * (1 - s + s * part) for part in parts], axis=-1)
