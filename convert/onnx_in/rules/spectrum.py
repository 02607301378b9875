"""Fourier transforms, windows, the mel scale. Complex numbers are two reals in the last dim."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..operands import dtype_of, leaf, number, shape_of
from ..registry import rule
from .dtypes import held

FLOAT = 1


def wide(x: Any) -> Any:
    """Floats of 16 bits as float32: torch transforms no others."""
    return x.to(torch.float32) if dtype_of(x) in (torch.float16, torch.bfloat16) else x


def like(result: Any, x: Any) -> Any:
    return result.to(dtype_of(x)) if dtype_of(x) in (torch.float16, torch.bfloat16) else result


@leaf
def complex_of(x: torch.Tensor) -> torch.Tensor:
    """(..., 2) or (..., 1) of reals as complex numbers."""
    return torch.view_as_complex(x.contiguous()) if x.size(-1) == 2 else torch.complex(x[..., 0], 0 * x[..., 0])


@leaf
def real_of(x: torch.Tensor) -> torch.Tensor:
    """The real part of (..., 2) or (..., 1)."""
    return x[..., 0]


@rule("DFT", since=20)
def dft(x: Any, length: Any = None, axis: Any = None, *, inverse: int = 0, onesided: int = 0) -> Any:
    return transform(x, number(length), -2 if axis is None else number(axis), inverse, onesided)


@rule("DFT", since=17)
def dft_17(x: Any, length: Any = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Any:
    return transform(x, number(length), axis, inverse, onesided)


def transform(x: Any, length: Any, axis: Any, inverse: int, onesided: int) -> Any:
    """The transform along an axis of x, cut or filled with zeros to the length."""
    if not isinstance(axis, int):
        return transform_along(x, length, axis, inverse, onesided)
    axis = axis + 1 if axis < 0 else axis  # without the last dim
    signal = wide(x)
    if onesided and inverse:
        return like(torch.fft.irfft(complex_of(signal), length, axis).unsqueeze(-1), x)
    if onesided:
        return like(torch.view_as_real(torch.fft.rfft(real_of(signal), length, axis)), x)
    function = torch.fft.ifft if inverse else torch.fft.fft
    return like(torch.view_as_real(function(complex_of(signal), length, axis)), x)


@leaf
def transform_along(x: torch.Tensor, length: int | None, axis: int, inverse: int, onesided: int) -> torch.Tensor:
    """`transform` along an axis that is known at run time only."""
    result: torch.Tensor = transform(x, length, axis, inverse, onesided)
    return result


@rule("STFT", since=17)
def stft(signal: Any, step: Any, window: Any = None, length: Any = None, *, onesided: int = 1) -> Any:
    """Frames that lie in the signal whole, each times the window, transformed: (N, frames, bins, 2)."""
    size = number(length)
    if size is None:
        size = signal.size(1) if window is None else window.size(0)
    frames = wide(signal).unfold(1, size, number(step)).transpose(2, 3)  # (N, frames, size, 1 or 2)
    if window is not None:
        frames = frames * wide(window).unsqueeze(-1)
    shape = shape_of(signal)
    half = onesided and (shape is None or shape[-1] != 2)
    return like(transform(frames, None, -2, 0, int(half)), signal)


# ------------------------------------------------------------------------------------------------------------- windows
@leaf
def cosine_window(size: Any, coefficients: tuple[float, ...], periodic: bool, dtype: torch.dtype) -> torch.Tensor:
    """A sum of cosines over one period: c0 - c1 cos(x) + c2 cos(2x). size: a number or a tensor of one."""
    device = size.device if isinstance(size, torch.Tensor) else None
    count = int(size)
    exact = torch.float64
    phase = torch.arange(count, dtype=exact, device=device) * (2 * math.pi / max(count if periodic else count - 1, 1))
    terms = [(-1) ** k * c * torch.cos(k * phase) for k, c in enumerate(coefficients)]
    return torch.stack(terms).sum(0).to(dtype)


def _window(*coefficients: float) -> Any:
    def apply(size: Any, *, output_datatype: int = FLOAT, periodic: int = 1) -> Any:
        return cosine_window(size, coefficients, bool(periodic), held(output_datatype))

    return apply


rule("HannWindow", since=17)(_window(0.5, 0.5))
rule("HammingWindow", since=17)(_window(25 / 46, 21 / 46))
rule("BlackmanWindow", since=17)(_window(0.42, 0.5, 0.08))


@rule("MelWeightMatrix", since=17)
def mel_weight_matrix(
    bins: Any, dft_length: Any, sample_rate: Any, low: Any, high: Any, *, output_datatype: int = FLOAT
) -> Any:
    return mel_weights(bins, dft_length, sample_rate, low, high, held(output_datatype))


@leaf
def mel_weights(
    bins: torch.Tensor,
    dft_length: torch.Tensor,
    sample_rate: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Triangles whose corners lie evenly on the mel scale, rounded down to bins of the spectrum; each rises from 0 to
    1 at its middle and falls again. Of shape (dft_length // 2 + 1, bins)."""
    count, length, rate = int(bins.item()), int(dft_length.item()), sample_rate.item()
    mel = [2595 * math.log10(1 + f.item() / 700) for f in (low, high)]
    step = (mel[1] - mel[0]) / (count + 2)
    hertz = [700 * (10 ** ((mel[0] + i * step) / 2595) - 1) for i in range(count + 2)]
    corners = [int((length + 1) * f // rate) for f in hertz]
    result = torch.zeros(length // 2 + 1, count)
    for i, (left, middle, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        rising, falling = torch.arange(left, middle), torch.arange(middle, right)
        result[rising, i] = (rising - left).to(result.dtype) / max(middle - left, 1)
        result[middle, i] = 1
        result[falling, i] = (right - falling) / max(right - middle, 1)
    return result.to(low.device, dtype)
