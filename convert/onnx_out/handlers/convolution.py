"""Convolutions that tf2onnx writes wrongly: groups in three dims, transposed ones larger than their full size."""

from __future__ import annotations

from collections.abc import Sequence

from .call import Call, Value, handler


@handler("Conv3D")
def conv3d(call: Call, x: Value, kernel: Value, *bias: Value) -> None:
    """tf2onnx writes group=1 always."""
    channels = x.dims[-1 if call.attr("data_format") == "NDHWC" else 1]
    per_group = kernel.dims[-2]
    call.as_tf2onnx()
    if channels is not None and per_group:
        call.node.set_attr("group", channels // per_group)


@handler("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def conv_transpose(call: Call, sizes: Value, kernel: Value, x: Value, *bias: Value) -> Value | None:
    """With static spatial dims one ConvTranspose: what TensorFlow leaves of the full result is `pads`, what it adds to
    it (kernel smaller than the stride) `output_padding`. bias: tf2onnx has put a following addition into the op."""
    spatial = kernel.rank - 2
    first = call.attr("data_format").startswith("NC")
    at = slice(2, None) if first else slice(1, -1)
    size, out = _known(x.dims[at]), _static(call, at)
    window = _known(kernel.dims[:spatial])
    if out is None or size is None or window is None:
        call.as_tf2onnx()
        return None
    strides = call.attr("strides")[at]
    dilations = call.attr("dilations", [1] * (spatial + 2))[at]
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    surplus = [(n - 1) * s + r - o for n, s, r, o in zip(size, strides, reach, out, strict=True)]
    pads = [max(p, 0) for p in surplus]
    channels_first = [0, spatial + 1, *range(1, spatial + 1)]
    given = x if first else x.transpose(*channels_first)
    y = call.op(
        "ConvTranspose",
        given,
        kernel.transpose(spatial + 1, spatial, *range(spatial)),
        *bias,
        strides=list(strides),
        dilations=list(dilations),
        pads=[p // 2 for p in pads] + [p - p // 2 for p in pads],
        output_padding=[max(-p, 0) for p in surplus],
    )
    return y if first else y.transpose(0, *range(2, spatial + 2), 1)


def _known(dims: Sequence[int | None]) -> list[int] | None:
    found = [d for d in dims if d is not None]
    return found if len(found) == len(dims) else None


def _static(call: Call, at: slice) -> list[int] | None:
    """The spatial dims of the result."""
    shape = call.ctx.get_shape(call.node.output[0])
    dims = None if shape is None else list(shape)[at]
    return None if dims is None or any(d is None or d < 0 for d in dims) else dims
