"""Conv and ConvTranspose: nn.Conv1d/2d/3d, nn.ConvTranspose1d/2d/3d."""

from __future__ import annotations

from typing import Any

import torch

from . import layer
from .match import Call, Match

CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
TRANSPOSED = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}


@layer("Conv")
def conv(m: Match) -> Call | None:
    """Where the padding is the same on both sides of each axis."""
    found = _geometry(m)
    if found is None:
        return None
    weight, bias, rank, options = found
    group = m.attribute("group", 1)
    out, each = weight.shape[:2]
    options |= {"in_channels": each * group, "out_channels": out, "groups": group}
    return _call(m, CONV[rank], options, weight, bias)


@layer("ConvTranspose")
def conv_transpose(m: Match) -> Call | None:
    """The same, without a wanted output shape."""
    found = _geometry(m)
    if found is None or m.attribute("output_shape") is not None:
        return None
    weight, bias, rank, options = found
    group = m.attribute("group", 1)
    inside, each = weight.shape[:2]
    extra = tuple(m.attribute("output_padding", (0,) * rank))
    options |= {"in_channels": inside, "out_channels": each * group, "groups": group, "output_padding": extra}
    if any(e >= max(s, d) for e, s, d in zip(extra, options["stride"], options["dilation"], strict=True)):
        return None  # torch refuses it
    return _call(m, TRANSPOSED[rank], options, weight, bias)


def _geometry(m: Match) -> Any:
    """(weight, bias, rank, what both kinds share), None where torch's layer does not say it."""
    weight, bias = m.weight(1), m.weight(2)
    if weight is None or (m.has(2) and (bias is None or len(bias.shape) != 1)):
        return None
    rank = len(weight.shape) - 2
    if rank not in CONV:
        return None
    stride, dilation = (tuple(m.attribute(name, (1,) * rank)) for name in ("strides", "dilations"))
    padding = _padding(m, weight.shape[2:], stride, dilation)
    if padding is None:
        return None
    return weight, bias, rank, {"kernel_size": weight.shape[2:], "stride": stride, "padding": padding, "dilation": dilation}


def _padding(m: Match, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
    """Zeros on both sides of each axis; None where the sides differ or depend on the input's size."""
    auto = m.attribute("auto_pad", "NOTSET")
    rank = len(kernel)
    if auto == "VALID":
        return (0,) * rank
    if auto != "NOTSET":
        widths = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        even = m.node.op_type == "Conv" and all(s == 1 for s in stride) and all(w % 2 == 0 for w in widths)
        return tuple(w // 2 for w in widths) if even else None
    pads = tuple(m.attribute("pads", (0,) * 2 * rank))
    return pads[:rank] if pads[:rank] == pads[rank:] and min(pads) >= 0 else None


def _call(m: Match, kind: Any, options: dict[str, Any], weight: Any, bias: Any) -> Call:
    nodes, out = [m.node], m.node.outputs[0]
    if bias is None and not m.has(2):
        found = m.added(out, options["out_channels"], len(options["kernel_size"]))
        if found is not None:
            nodes, bias, out = [m.node, found[0]], found[1], found[0].outputs[0]
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    name = "conv" if m.node.op_type == "Conv" else "conv_transpose"
    options["bias"] = bias is not None
    return Call(name, kind, options, weights, [m.node.inputs[0]], [out], nodes)  # type: ignore[list-item]
