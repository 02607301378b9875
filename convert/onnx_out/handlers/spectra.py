"""Fourier transforms and complex numbers: in ONNX a complex tensor is a float one with a last axis of (real,
imaginary). tf2onnx goes on to call such a tensor complex, without that axis; so does `Value.dims`.
"""

from __future__ import annotations

from .call import PARTS, Call, Value, handler


def _part(call: Call, x: Value, index: int) -> Value:
    return call.op("Gather", x, call.const(index, "int64"), axis=x.rank)


def _paired(call: Call, real: Value, imaginary: Value) -> Value:
    return call.op("Concat", real.unsqueeze(-1), imaginary.unsqueeze(-1), axis=-1)


@handler("Complex")
def complex_(call: Call, real: Value, imaginary: Value) -> Value:
    if real.dims != imaginary.dims:
        shape = call.op("Shape", real + imaginary)
        real, imaginary = call.op("Expand", real, shape), call.op("Expand", imaginary, shape)
    return _paired(call, real, imaginary)


@handler("Cast")
def cast(call: Call, x: Value) -> Value | None:
    """Real numbers become pairs with zeros, and of pairs that become real the real parts stay."""
    wanted = PARTS.get(call.ctx.get_dtype(call.node.output[0]))
    if wanted is None and not x.complex:
        call.as_tf2onnx()
        return None
    if wanted is None:
        return _part(call, x, 0).cast(call.output_dtype())
    if x.complex:
        return x.cast(wanted)
    given = x.cast(wanted)
    return _paired(call, given, call.op("Expand", call.const(0, wanted), call.op("Shape", given)))


@handler("Real")
def real(call: Call, x: Value) -> Value:
    return _part(call, x, 0)


@handler("Imag")
def imag(call: Call, x: Value) -> Value:
    return _part(call, x, 1)


@handler("Conj")
def conj(call: Call, x: Value) -> Value:
    return call.op("Mul", x, call.const([1, -1], x.dtype))


@handler("ComplexAbs")
def complex_abs(call: Call, x: Value) -> Value:
    a, b = _part(call, x, 0), _part(call, x, 1)
    return call.op("Sqrt", a * a + b * b)


@handler("Mul")
def mul(call: Call, x: Value, y: Value) -> Value | None:
    if not x.complex:
        call.as_tf2onnx()
        return None
    (a, b), (c, d) = ((_part(call, v, 0), _part(call, v, 1)) for v in (x, y))
    return _paired(call, a * c - b * d, a * d + b * c)


@handler("RFFT")
def rfft(call: Call, x: Value, length: Value) -> Value:
    """The half of the spectrum that a real signal has, over the last axis cut or padded to `length`."""
    return _dft(call, x.unsqueeze(x.rank), x.rank - 1, length, onesided=1)


@handler("FFT", "IFFT")
def fft(call: Call, x: Value) -> Value:
    return _dft(call, x, x.rank - 1, None, inverse=int(call.node.type == "IFFT"))


@handler("FFT2D", "IFFT2D")
def fft2d(call: Call, x: Value) -> Value:
    inverse = int(call.node.type == "IFFT2D")
    return _dft(call, _dft(call, x, x.rank - 1, None, inverse=inverse), x.rank - 2, None, inverse=inverse)


@handler("IRFFT")
def irfft(call: Call, x: Value, length: Value) -> Value:
    """The mirrored half is put back first. Only the real part of what comes out is kept: the imaginary parts of the
    first and of the middle value have no say in it."""
    if length.array is None:
        raise ValueError("IRFFT of a length that is not known while converting")
    n, axis = int(length.array.reshape(-1)[0]), x.rank - 1
    half = n // 2 + 1
    have = x.dims[axis]
    if have is None or have < half:  # padded with zeros
        pads = [0] * (2 * x.rank + 2)
        pads[x.rank + 1 + axis] = half
        x = call.op("Pad", x, call.const(pads, "int64"), call.const(0, x.dtype))
    kept = call.op("Slice", x, *(call.const([v], "int64") for v in (0, half, axis)))
    mirror = call.op("Slice", x, *(call.const([v], "int64") for v in (n - half, 0, axis, -1)))
    conjugate = call.op("Mul", mirror, call.const([1, -1], x.dtype))
    whole = call.op("Concat", kept, conjugate, axis=axis)
    back = call.op("DFT", whole, axis=axis, inverse=1)
    return call.op("Gather", back, call.const(0, "int64"), axis=-1)


def _dft(call: Call, x: Value, axis: int, length: Value | None, **attributes: int) -> Value:
    """Over an axis of x, whose last axis has one or two parts. ONNX wants another axis before it, for the batch."""
    given = [] if length is None else [length.cast("int64").reshape()]
    if axis:
        return call.op("DFT", x, *given, axis=axis, **attributes)
    row = call.op("Unsqueeze", x, call.const([0], "int64"))
    return call.op("Squeeze", call.op("DFT", row, *given, axis=1, **attributes), call.const([0], "int64"))
