"""Sliding windows: what Conv, the pools and their layers share. Pads are resolved to (begins, ends), one number each
per spatial axis."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..operands import leaf, shape_of

__all__ = [
    "Pads",
    "conv_pads",
    "pad_spatial",
    "pad_window",
    "pool_pads",
    "spatial_rank",
    "spatial_sizes",
    "split_pads",
    "windows",
]

Pads = tuple[tuple[int, ...], tuple[int, ...]]


def spatial_rank(x: Any, w: Any = None, kernel: tuple[int, ...] | None = None) -> int | None:
    """How many spatial axes, from the kernel or the rank of input or weights; None where it is unknown by now."""
    if kernel:
        return len(kernel)
    known = next((s for s in map(shape_of, (w, x)) if s is not None), None)
    return None if known is None else len(known) - 2


def spatial_sizes(x: Any) -> tuple[int, ...] | None:
    """The spatial dims, if all are known numbers."""
    shape = shape_of(x)
    if shape is None or not all(isinstance(d, int) for d in shape[2:]):
        return None
    return tuple(int(d) for d in shape[2:])  # type: ignore[arg-type]


def split_pads(pads: tuple[int, ...] | None, rank: int) -> Pads:
    """ONNX's pads (all begins, then all ends), zeros where there are none."""
    pads = tuple(pads or (0,) * 2 * rank)
    return pads[:rank], pads[rank:]


def span(kernel: int, dilation: int) -> int:
    """How far a kernel reaches."""
    return (kernel - 1) * dilation + 1


def same_pads(size: Any, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[Any, Any]:
    """Begin and end so that the output has ceil(size / stride) elements; an odd one goes to the end if `upper`. Never
    negative, as in TensorFlow, where the padding comes from."""
    total = (-(-size // stride) - 1) * stride + span(kernel, dilation) - size
    total = torch.sym_max(total, 0)
    half = total // 2
    return (half, total - half) if upper else (total - half, half)


def conv_pads(
    sizes: tuple[Any, ...] | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
) -> Pads | None:
    """The pads of a convolution or of a pool that rounds down; None where they depend on sizes unknown by now."""
    rank = len(kernel)
    if auto_pad in ("NOTSET", ""):
        return split_pads(pads, rank)
    if auto_pad == "VALID":
        return split_pads(None, rank)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad is {auto_pad!r}")
    if sizes is None:
        if any(s != 1 for s in strides):
            return None
        sizes = tuple(span(k, d) for k, d in zip(kernel, dilations, strict=True))  # any size has the same pads
    axes = zip(sizes, kernel, strides, dilations, strict=True)
    pairs = [same_pads(*axis, auto_pad == "SAME_UPPER") for axis in axes]
    return tuple(b for b, _ in pairs), tuple(e for _, e in pairs)


def pool_pads(
    sizes: tuple[Any, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    ceil_mode: int,
) -> Pads:
    """The pads with which a pool that rounds *down* gives what ONNX asks for. With ceil_mode the ends reach as far as
    the last window (negative: it ends before the input does); a window must not start in the end's own padding."""
    found = conv_pads(sizes, kernel, strides, dilations, pads, auto_pad)
    assert found is not None
    begins, ends = found
    if not ceil_mode or auto_pad not in ("NOTSET", ""):  # for auto_pad both roundings give the same
        return begins, ends
    reach = []
    for size, k, stride, dilation, begin, end in zip(sizes, kernel, strides, dilations, begins, ends, strict=True):
        length = span(k, dilation)
        last = -(-(size + begin + end - length) // stride)
        if last * stride >= size + begin:
            last -= 1
        reach.append(last * stride + length - size - begin)
    return begins, tuple(reach)


def pad_spatial(x: Any, begins: tuple[int, ...], ends: tuple[int, ...], value: float = 0.0) -> Any:
    """The spatial axes padded by a constant; negative pads cut."""
    if all(isinstance(p, int) and p == 0 for p in (*begins, *ends)):
        return x
    flat = [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair]
    return F.pad(x, flat, value=value) if value else F.pad(x, flat)


@leaf
def pad_window(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    auto_pad: str,
) -> torch.Tensor:
    """Zeros around the spatial axes as auto_pad asks for, by the size at run time."""
    pads = conv_pads(tuple(x.shape[2:]), kernel, strides, dilations, None, auto_pad)
    assert pads is not None
    padded: torch.Tensor = pad_spatial(x, *pads)
    return padded


def windows(
    x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> torch.Tensor:
    """What the kernel sees: (N, C, *out, elements of the kernel). No padding; any rank."""
    for axis, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
        x = x.unfold(axis, span(k, dilation), stride)[..., ::dilation]
    return x.flatten(-len(kernel))
