"""Rules: complex numbers and Fourier transforms. `keras.ops` transform the last axis of a (real, imaginary) pair, one
axis after the other; scaling is done on real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from ..builder import is_known
from .operands import joined
from .registry import rule
from .shape import part, plain, sizes_of

Pair = tuple[Any, Any]


def pair(x: Any) -> Pair:
    return ops.real(x), ops.imag(x)


# ------------------------------------------------------------------------------------------------------ complex numbers
@rule("aten.complex.default")
def complex_(k: Any, re: Any, im: Any) -> Any:
    sizes = sizes_of(k, k.out)
    return joined(k.broadcast_to(re, sizes), k.broadcast_to(im, sizes))


@rule("aten.polar.default")
def polar(k: Any, size: Any, angle: Any) -> Any:
    return joined(ops.multiply(size, ops.cos(angle)), ops.multiply(size, ops.sin(angle)))


@rule("aten.real.default")
def real(k: Any, x: Any) -> Any:
    return ops.real(x) if k.dtype(x).startswith("complex") else x


@rule("aten.imag.default")
def imag(k: Any, x: Any) -> Any:
    return ops.imag(x)


@rule("aten.view_as_real.default", "aten.view_as_real_copy.default")
def view_as_real(k: Any, x: Any) -> Any:
    return ops.stack(pair(x), axis=-1)


@rule("aten.view_as_complex.default", "aten.view_as_complex_copy.default")
def view_as_complex(k: Any, x: Any) -> Any:
    return joined(x[..., 0], x[..., 1])


@rule(
    "aten.conj.default",
    "aten._conj.default",
    "aten._conj_physical.default",
    "aten.conj_physical.default",
    "aten._conj_copy.default",
    "prims.conj_physical.default",
)
def conj(k: Any, x: Any) -> Any:
    if not k.dtype(x).startswith("complex"):
        return x
    re, im = pair(x)
    return joined(re, ops.negative(im))


# --------------------------------------------------------------------------------------------------- Fourier transforms
def along(k: Any, transform: Any, re: Any, im: Any, dim: int) -> Pair:
    """`transform(pair)` on one axis."""
    re, im = transform((ops.moveaxis(re, dim, -1), ops.moveaxis(im, dim, -1)))
    return ops.moveaxis(re, -1, dim), ops.moveaxis(im, -1, dim)


def factor_of(x: Any, n: Any) -> Any:
    """A size as a factor of the real `x`; inside a TensorFlow graph it is an integer tensor, which multiplies no
    floats."""
    return n if is_known(n) else ops.cast(n, x.dtype)


def scale(x: Any, sizes: Sequence[Any], normalization: int) -> Any:
    """The factor of the real `x`. torch's codes: 0 none, 1 divide by the root of the element count, 2 divide by the
    count."""
    count: Any = 1
    for n in plain(*sizes):
        count = count * factor_of(x, n)
    factors: tuple[Any, ...] = (1.0, count**-0.5, 1.0 / count)
    return factors[normalization]


def transformed(k: Any, re: Any, im: Any, dims: Sequence[int], forward: bool) -> Pair:
    """The unscaled transform; the inverse is the conjugate of the transform of the conjugate."""
    im = im if forward else ops.negative(im)
    for dim in dims:
        re, im = along(k, ops.fft, re, im, dim)
    return re, im if forward else ops.negative(im)


def half_spectrum(k: Any, re: Any, im: Any, dim: int, length: Any) -> Any:
    """The real inverse transform, unscaled, of half a spectrum: `length` real values along `dim`."""
    re, im = ops.moveaxis(re, dim, -1), ops.moveaxis(im, dim, -1)
    return ops.moveaxis(ops.irfft((re, im), fft_length=length) * factor_of(re, length), -1, dim)


@rule("aten._fft_c2c.default", "prims.fft_c2c.default")
def fft_c2c(k: Any, x: Any, dim: Sequence[int], normalization: int = 0, forward: bool = True) -> Any:
    re, im = transformed(k, *pair(x), dim, forward)
    factor = scale(re, [k.shape(x)[d] for d in dim], normalization)
    return joined(re * factor, im * factor)


@rule("aten._fft_r2c.default", "prims.fft_r2c.default")
def fft_r2c(k: Any, x: Any, dim: Sequence[int], normalization: int = 0, onesided: bool = True) -> Any:
    factor = scale(x, [k.shape(x)[d] for d in dim], normalization)
    re, im = transformed(k, x, ops.zeros_like(x), dim, True)
    if onesided:
        last = dim[-1] % k.rank(x)
        count = k.size(k.out.shape[last])
        re, im = part(re, last, 0, count), part(im, last, 0, count)
    return joined(re * factor, im * factor)


@rule("aten._fft_c2r.default", "prims.fft_c2r.default")
def fft_c2r(k: Any, x: Any, dim: Sequence[int], normalization: int = 0, last_dim_size: Any = None) -> Any:
    (n,) = plain(last_dim_size)
    re, im = transformed(k, *pair(x), dim[:-1], False)
    factor = scale(re, [*(k.shape(x)[d] for d in dim[:-1]), n], normalization)
    return half_spectrum(k, re, im, dim[-1] % k.rank(x), n) * factor


def _axes(k: Any, x: Any, s: Sequence[Any] | None, dim: Any) -> tuple[list[int], list[Any]]:
    """The axes and wanted lengths (None: as it is) of torch's `s` and `dim`."""
    rank = k.rank(x)
    if dim is None:
        dim = range(rank) if s is None else range(rank - len(s), rank)
    dims = [d % rank for d in dim]
    lengths = [None] * len(dims) if s is None else [None if is_known(n) and n == -1 else n for n in s]
    return dims, lengths


def _resized(k: Any, x: Any, dims: Sequence[int], lengths: Sequence[Any]) -> Any:
    """Cut or filled up with zeros to the lengths."""
    for d, n in zip(dims, lengths, strict=True):
        if n is not None:
            have, want = plain(k.shape(x)[d], n)
            x = (
                part(x, d, 0, want)
                if want <= have
                else ops.pad(x, [(0, want - have if a == d else 0) for a in range(k.rank(x))])
            )
    return x


def _code(norm: str | None, forward: bool) -> int:
    return 1 if norm == "ortho" else 2 if (norm == "forward") == forward else 0


def _parts(k: Any, x: Any) -> Pair:
    if k.dtype(x).startswith("complex"):
        return pair(x)
    x = k.cast(x, "float64" if k.out.dtype in ("complex128", "float64") else "float32")
    return x, ops.zeros_like(x)


def spectrum(k: Any, x: Any, s: Any, dim: Any, norm: str | None, forward: bool, onesided: bool = False) -> Any:
    """fft, ifft, rfft of any axes, scaled in real numbers."""
    dims, lengths = _axes(k, x, s, dim)
    re, im = (_resized(k, p, dims, lengths) for p in _parts(k, x))
    factor = scale(re, [k.shape(re)[d] for d in dims], _code(norm, forward))
    re, im = transformed(k, re, im, dims, forward)
    if onesided:
        count = k.size(k.out.shape[dims[-1]])
        re, im = part(re, dims[-1], 0, count), part(im, dims[-1], 0, count)
    return joined(re * factor, im * factor)


def real_inverse(k: Any, x: Any, s: Any, dim: Any, norm: str | None) -> Any:
    """irfft of any axes."""
    dims, lengths = _axes(k, x, s, dim)
    n = k.size(k.out.shape[dims[-1]])
    lengths[-1] = None
    re, im = (_resized(k, p, dims, lengths) for p in _parts(k, x))
    factor = scale(re, [*(k.shape(re)[d] for d in dims[:-1]), n], _code(norm, False))
    re, im = transformed(k, re, im, dims[:-1], False)
    re, im = (_resized(k, p, dims[-1:], [n // 2 + 1]) for p in (re, im))
    return half_spectrum(k, re, im, dims[-1], n) * factor


def _one(n: Any) -> list[Any] | None:
    return None if n is None else [n]


@rule("aten.fft_fft.default")
def fft_fft(k: Any, x: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    return spectrum(k, x, _one(n), [dim], norm, True)


@rule("aten.fft_ifft.default")
def fft_ifft(k: Any, x: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    return spectrum(k, x, _one(n), [dim], norm, False)


@rule("aten.fft_rfft.default")
def fft_rfft(k: Any, x: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    return spectrum(k, x, _one(n), [dim], norm, True, onesided=True)


@rule("aten.fft_irfft.default")
def fft_irfft(k: Any, x: Any, n: Any = None, dim: int = -1, norm: str | None = None) -> Any:
    return real_inverse(k, x, _one(n), [dim], norm)


@rule("aten.fft_fft2.default", "aten.fft_fftn.default")
def fft_fftn(k: Any, x: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    return spectrum(k, x, s, dim, norm, True)


@rule("aten.fft_ifft2.default", "aten.fft_ifftn.default")
def fft_ifftn(k: Any, x: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    return spectrum(k, x, s, dim, norm, False)


@rule("aten.fft_rfft2.default", "aten.fft_rfftn.default")
def fft_rfftn(k: Any, x: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    return spectrum(k, x, s, dim, norm, True, onesided=True)


@rule("aten.fft_irfft2.default", "aten.fft_irfftn.default")
def fft_irfftn(k: Any, x: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    return real_inverse(k, x, s, dim, norm)
