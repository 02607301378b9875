"""Rules: complex numbers and Fourier transforms. torch's fft functions all decompose into three ops: real to complex, complex
to complex, complex to real. `keras.ops` transform the last axis of a (real, imaginary) pair, one axis after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from ..builder import Dynamic
from .registry import rule
from .shape import part, plain, sizes_of

Pair = tuple[Any, Any]


def at_call_time(k: Any) -> None:
    """Functional models hold no complex tensors."""
    if k.functional:
        raise Dynamic("complex numbers")


def pair(x: Any) -> Pair:
    return ops.real(x), ops.imag(x)


def joined(k: Any, re: Any, im: Any) -> Any:
    return ops.view_as_complex(ops.stack([re, im], axis=-1))


# ------------------------------------------------------------------------------------------------------ complex numbers
@rule("aten.complex.default")
def complex_(k: Any, re: Any, im: Any) -> Any:
    at_call_time(k)
    sizes = sizes_of(k, k.out)
    return joined(k, k.broadcast_to(re, sizes), k.broadcast_to(im, sizes))


@rule("aten.polar.default")
def polar(k: Any, size: Any, angle: Any) -> Any:
    at_call_time(k)
    return joined(k, ops.multiply(size, ops.cos(angle)), ops.multiply(size, ops.sin(angle)))


@rule("aten.real.default")
def real(k: Any, x: Any) -> Any:
    at_call_time(k)
    return ops.real(x) if k.dtype(x).startswith("complex") else x


@rule("aten.imag.default")
def imag(k: Any, x: Any) -> Any:
    at_call_time(k)
    return ops.imag(x)


@rule("aten.view_as_real.default", "aten.view_as_real_copy.default")
def view_as_real(k: Any, x: Any) -> Any:
    at_call_time(k)
    return ops.stack(pair(x), axis=-1)


@rule("aten.view_as_complex.default", "aten.view_as_complex_copy.default")
def view_as_complex(k: Any, x: Any) -> Any:
    at_call_time(k)
    return ops.view_as_complex(x)


@rule("aten.conj.default", "aten._conj.default", "aten._conj_physical.default", "aten.conj_physical.default", "aten._conj_copy.default")
def conj(k: Any, x: Any) -> Any:
    if not k.dtype(x).startswith("complex"):
        return x
    at_call_time(k)
    return ops.conj(x)


# --------------------------------------------------------------------------------------------------- Fourier transforms
def along(k: Any, transform: Any, re: Any, im: Any, dim: int) -> Pair:
    """`transform(pair)` on one axis."""
    re, im = transform((ops.moveaxis(re, dim, -1), ops.moveaxis(im, dim, -1)))
    return ops.moveaxis(re, -1, dim), ops.moveaxis(im, -1, dim)


def scale(k: Any, sizes: Sequence[Any], normalization: int) -> float:
    """torch's codes: 0 none, 1 divide by the root of the element count, 2 divide by the count."""
    count = 1
    for n in plain(*sizes):
        count = count * n
    return {0: 1.0, 1: count**-0.5, 2: 1.0 / count}[normalization]


def transformed(k: Any, re: Any, im: Any, dims: Sequence[int], forward: bool) -> Pair:
    """The unscaled transform; the inverse is the conjugate of the transform of the conjugate."""
    im = im if forward else ops.negative(im)
    for dim in dims:
        re, im = along(k, ops.fft, re, im, dim)
    return re, im if forward else ops.negative(im)


@rule("aten._fft_c2c.default")
def fft_c2c(k: Any, x: Any, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    at_call_time(k)
    factor = scale(k, [k.shape(x)[d] for d in dim], normalization)
    re, im = transformed(k, *pair(x), dim, forward)
    return joined(k, re * factor, im * factor)


@rule("aten._fft_r2c.default")
def fft_r2c(k: Any, x: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    at_call_time(k)
    factor = scale(k, [k.shape(x)[d] for d in dim], normalization)
    re, im = transformed(k, x, ops.zeros_like(x), dim, True)
    if onesided:
        last = dim[-1] % k.rank(x)
        count = k.size(k.out.shape[last])
        re, im = part(re, last, 0, count), part(im, last, 0, count)
    return joined(k, re * factor, im * factor)


@rule("aten._fft_c2r.default")
def fft_c2r(k: Any, x: Any, dim: Sequence[int], normalization: int, last_dim_size: Any) -> Any:
    at_call_time(k)
    (n,) = plain(last_dim_size)
    last = dim[-1] % k.rank(x)
    factor = scale(k, [*(k.shape(x)[d] for d in dim[:-1]), n], normalization)
    re, im = transformed(k, *pair(x), dim[:-1], False)
    re, im = ops.moveaxis(re, last, -1), ops.moveaxis(im, last, -1)
    half = ops.irfft((re, im), fft_length=n) * n
    return ops.moveaxis(half, -1, last) * factor
