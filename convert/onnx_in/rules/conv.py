"""Convolutions over one to three spatial axes, plain, transposed and of integers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..operands import leaf
from ..registry import rule
from .windows import Pads, conv_pads, pad_spatial, pad_window, spatial_rank, spatial_sizes, split_pads

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def kernel_of(w: Any, kernel_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The spatial dims of the weights; None where they are unknown by now."""
    return tuple(kernel_shape) if kernel_shape else spatial_sizes(w)


@rule("Conv")
def conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    rank, kernel = spatial_rank(x, w, kernel_shape), kernel_of(w, kernel_shape)
    if rank is None or (kernel is None and auto_pad.startswith("SAME")):
        return conv_at_run(x, w, b, auto_pad, dilations, group, pads, strides)
    _require(rank, CONV)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    found = conv_pads(spatial_sizes(x), kernel or (1,) * rank, strides, dilations, pads, auto_pad)
    if found is None:
        assert kernel is not None
        x = pad_window(x, kernel, strides, dilations, auto_pad)
    elif found[0] == found[1]:
        return CONV[rank](x, w, b, strides, found[0], dilations, group)
    else:
        x = pad_spatial(x, *found)
    return CONV[rank](x, w, b, strides, 0, dilations, group)


@leaf
def conv_at_run(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    auto_pad: str,
    dilations: tuple[int, ...] | None,
    group: int,
    pads: tuple[int, ...] | None,
    strides: tuple[int, ...] | None,
) -> Any:
    """ONNX's Conv whose rank or kernel is known at run time only."""
    return conv(x, w, b, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)


def _require(rank: int, table: dict[int, Any]) -> None:
    if rank not in table:
        raise ValueError(f"{rank} spatial axes; torch has convolutions over 1 to 3")


# ------------------------------------------------------------------------------------------------------- transposed
def transposed_pads(
    sizes: tuple[Any, ...] | None,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...] | None,
    auto_pad: str,
    output_padding: tuple[int, ...],
    output_shape: tuple[int, ...] | None,
) -> Pads | None:
    """What ConvTranspose cuts from both ends of its full output; None where it depends on sizes unknown by now."""
    rank = len(kernel)
    same = auto_pad.startswith("SAME")
    if output_shape is None and not same:
        return split_pads(None if auto_pad == "VALID" else pads, rank)
    totals = []
    for i in range(rank):
        reach = output_padding[i] + (kernel[i] - 1) * dilations[i] + 1
        if output_shape is None:  # size * stride elements are wanted
            totals.append(reach - strides[i])
        elif sizes is None:
            return None
        else:
            totals.append(strides[i] * (sizes[i] - 1) + reach - output_shape[i])
    if same and output_shape is None:
        totals = [max(t, 0) for t in totals]
    less = tuple(t // 2 for t in totals)
    more = tuple(total - half for total, half in zip(totals, less, strict=True))
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


@rule("ConvTranspose")
def conv_transpose(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    attributes = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "output_padding": output_padding,
        "output_shape": output_shape,
        "pads": pads,
        "strides": strides,
    }
    rank, kernel = spatial_rank(x, w, kernel_shape), kernel_of(w, kernel_shape)
    needs_kernel = auto_pad.startswith("SAME") or output_shape is not None
    if rank is None or (kernel is None and needs_kernel):
        return conv_transpose_at_run(x, w, b, attributes)
    _require(rank, CONV_TRANSPOSE)
    ones, zeros = (1,) * rank, (0,) * rank
    strides, dilations, extra = strides or ones, dilations or ones, output_padding or zeros
    output_shape = None if output_shape is None else tuple(output_shape[-rank:])  # some models name batch and channels
    found = transposed_pads(spatial_sizes(x), kernel or ones, strides, dilations, pads, auto_pad, extra, output_shape)
    if found is None:
        return conv_transpose_at_run(x, w, b, attributes)
    begins, ends = found
    function = CONV_TRANSPOSE[rank]
    # the end keeps begin - end more elements than torch's symmetric padding does
    more = tuple(o + p - q for o, p, q in zip(extra, begins, ends, strict=True))
    fits = zip(more, begins, strides, dilations, strict=True)
    if all(isinstance(m, int) and 0 <= m < max(s, d) and p >= 0 for m, p, s, d in fits):
        return function(x, w, b, strides, begins, more, group, dilations)
    y = function(x, w, None, strides, zeros, zeros, group, dilations)
    y = pad_spatial(y, tuple(-p for p in begins), tuple(o - p for o, p in zip(extra, ends, strict=True)))
    return y if b is None else y + b.reshape(1, -1, *ones)


@leaf
def conv_transpose_at_run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, attributes: dict[str, Any]) -> Any:
    """ONNX's ConvTranspose whose pads follow from sizes known at run time only."""
    return conv_transpose(x, w, b, **attributes)


# --------------------------------------------------------------------------------------------------------- integers
@rule("ConvInteger", since=10)
def conv_integer(x: Any, w: Any, x_zero_point: Any = None, w_zero_point: Any = None, **attributes: Any) -> Any:
    return integer_conv(x, w, x_zero_point, w_zero_point, None, attributes).to(torch.int32)


@rule("QLinearConv", since=10)
def qlinear_conv(
    x: Any,
    x_scale: Any,
    x_zero_point: Any,
    w: Any,
    w_scale: Any,
    w_zero_point: Any,
    y_scale: Any,
    y_zero_point: Any,
    b: Any = None,
    **attributes: Any,
) -> Any:
    total = integer_conv(x, w, x_zero_point, w_zero_point, b, attributes)
    return requantize(total, x_scale, w_scale, y_scale, y_zero_point)


@leaf
def integer_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    x_zero_point: torch.Tensor | None,
    w_zero_point: torch.Tensor | None,
    b: torch.Tensor | None,
    attributes: dict[str, Any],
) -> Any:
    """A convolution of integers less their zero points, in float64, which holds every sum of theirs exactly."""
    exact = [t if t is None else t.to(torch.float64) for t in (x, w, x_zero_point, w_zero_point, b)]
    data, kernel, data_zero, kernel_zero, bias = exact
    assert data is not None
    assert kernel is not None
    if data_zero is not None:
        data = data - data_zero.reshape(-1)
    if kernel_zero is not None:
        kernel = kernel - kernel_zero.reshape(-1, *[1] * (kernel.dim() - 1))
    return conv(data, kernel, bias, **attributes)


@leaf
def requantize(
    total: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
) -> torch.Tensor:
    """Sums of a quantised convolution in the scale of its output, rounded to even and saturated."""
    shape = (1, -1, *[1] * (total.dim() - 2))
    scale = x_scale.reshape(()) * w_scale.reshape(shape) / y_scale.reshape(())
    limits = torch.iinfo(y_zero_point.dtype)
    return torch.clamp(
        torch.round(total * scale) + y_zero_point.reshape(()).to(total.dtype), limits.min, limits.max
    ).to(y_zero_point.dtype)


# ------------------------------------------------------------------------------------------------ causal, with state
@rule("CausalConvWithState", since=27)
def causal_conv_with_state(
    x: Any, w: Any, b: Any = None, past_state: Any = None, *, activation: str = "none"
) -> tuple[Any, Any]:
    """A depthwise convolution that sees the past alone; the last kernel - 1 elements it saw are handed on."""
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation is {activation!r}")
    width = w.size(2) - 1
    seen = F.pad(x, (width, 0)) if past_state is None else torch.cat((past_state, x), -1)
    y = F.conv1d(seen, w, b, groups=w.size(0))
    return y if activation == "none" else F.silu(y), seen.narrow(2, seen.size(2) - width, width)
