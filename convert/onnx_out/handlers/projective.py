"""Images sampled through a projective transform."""

from __future__ import annotations

from .call import Call, Value, handler


@handler("ImageProjectiveTransformV3")
def projective_transform(call: Call, x: Value, transforms: Value, size: Value, fill: Value) -> Value:
    """(b, h, w, c) at ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k), k = c0 x + c1 y + 1, for each pixel (x, y) of
    the result; transforms (b or 1, 8). fill where k is 0, or outside with fill_mode CONSTANT."""
    rows, columns = (size.slice(i, i + 1, 0).cast("int64") for i in (0, 1))
    out_y = call.range(rows, "float32").unsqueeze(0, 2)
    out_x = call.range(columns, "float32").unsqueeze(0, 1)
    a0, a1, a2, b0, b1, b2, c0, c1 = (
        part.unsqueeze(2) for part in call.ops("Split", 8, transforms, call.const([1] * 8, "int64"), axis=1)
    )
    k = c0 * out_x + c1 * out_y + 1
    nowhere = k.equal(0.0)
    k = nowhere.where(k.same(1.0), k)
    at_x = (a0 * out_x + a1 * out_y + a2) / k
    at_y = (b0 * out_x + b1 * out_y + b2) / k
    mode = call.attr("fill_mode")
    at_y, at_x = _mapped(call, at_y, x.size(1), mode), _mapped(call, at_x, x.size(2), mode)
    value = SAMPLERS[call.attr("interpolation")](_Image(call, x, fill, rows, columns), at_y, at_x)
    return nowhere.unsqueeze(3).where(fill.cast(x.dtype), value)


def _mapped(call: Call, at: Value, size: Value, mode: str) -> Value:
    """A coordinate carried into the image."""
    n = size.cast("float32")
    last = n - 1
    if mode == "REFLECT":  # dcba|abcd|dcba
        at = _reflected(call, at, n)
    elif mode == "WRAP":
        span = call.op("Max", last, last.same(1.0))
        low = at + n * (_truncated(call, -at / span) + 1)
        high = at - n * _truncated(call, at / span)
        at = (at < 0.0).where(low, (at > last).where(high, at))
    elif mode == "CONSTANT":
        return at
    return call.op("Min", call.op("Max", at, at.same(0.0)), last)


def _reflected(call: Call, at: Value, n: Value) -> Value:
    double = n * 2
    low = (at < double).where(double * _truncated(call, -at / double) + at, at)
    low = (low < -n).where(low + double, -low - 1)
    high = at - double * _truncated(call, at / double)
    high = (high >= n).where(double - high - 1, high)
    return (at < 0.0).where(low, (at > n - 1).where(high, at))


def _truncated(call: Call, x: Value) -> Value:
    return x.cast("int64").cast("float32")


class _Image:
    """The pixels, read at integral coordinates (b or 1, rows, columns) of float32; `fill` outside."""

    def __init__(self, call: Call, x: Value, fill: Value, rows: Value, columns: Value) -> None:
        self.call, self.fill, self.dtype = call, fill.cast(x.dtype), x.dtype
        self.height, self.width = (x.size(i).cast("float32") for i in (1, 2))
        self.flat = x.reshape(x.size(0), -1, x.size(3))
        self.batch, self.rows, self.columns, self.channels = x.size(0), rows, columns, x.size(3)

    def read(self, y: Value, x: Value) -> Value:
        call = self.call
        inside = (y >= 0.0) & (x >= 0.0) & (y < self.height) & (x < self.width)
        index = inside.where(y * self.width + x, 0.0).cast("int64")
        index = call.op("Expand", index, call.op("Concat", self.batch, self.rows, self.columns, axis=0))
        pixels = call.op("GatherND", self.flat, index.reshape(self.batch, -1, 1), batch_dims=1)
        shape = call.op("Concat", self.batch, self.rows, self.columns, self.channels, axis=0)
        return inside.unsqueeze(3).where(call.op("Reshape", pixels, shape), self.fill)


def _nearest(image: _Image, y: Value, x: Value) -> Value:
    return image.read(_rounded(image.call, y), _rounded(image.call, x))


def _rounded(call: Call, x: Value) -> Value:
    """Halves go away from zero."""
    return call.op("Sign", x) * call.op("Floor", call.op("Abs", x) + 0.5)


def _bilinear(image: _Image, y: Value, x: Value) -> Value:
    call = image.call
    top, left = call.op("Floor", y), call.op("Floor", x)
    below, right = (y - top).unsqueeze(3).cast(image.dtype), (x - left).unsqueeze(3).cast(image.dtype)
    upper = (1 - right) * image.read(top, left) + right * image.read(top, left + 1)
    lower = (1 - right) * image.read(top + 1, left) + right * image.read(top + 1, left + 1)
    return (1 - below) * upper + below * lower


SAMPLERS = {"NEAREST": _nearest, "BILINEAR": _bilinear}
