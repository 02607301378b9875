"""Conv and ConvTranspose: nn.Conv1d/2d/3d, nn.ConvTranspose1d/2d/3d, and around them what those cannot say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch

from ..moved import Moved
from ..rules.windows import Pads, conv_pads, pad_spatial, pad_window, spatial_sizes, split_pads
from . import layer
from .match import Call, Match

CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
TRANSPOSED = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}


@dataclass(frozen=True)
class Window:
    """What one convolution goes over, for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, ...] | None
    auto_pad: str

    def options(self) -> dict[str, Any]:
        return {"kernel_size": self.kernel, "stride": self.stride, "dilation": self.dilation}


@layer("Conv")
def conv(m: Match) -> Call | None:
    """Zeros that are not the same on both sides, or depend on the input's size, are put there in front."""
    found = _parts(m)
    if found is None:
        return None
    weight, bias, window, lines = found
    group = m.attribute("group", 1)
    out, each = weight.shape[:2]
    options = window.options() | {"in_channels": each * group, "out_channels": out, "groups": group}
    pads = conv_pads(None, window.kernel, window.stride, window.dilation, window.pads, window.auto_pad)
    if pads is not None and pads[0] == pads[1] and min(pads[0]) >= 0:
        options["padding"] = pads[0]
        around: Callable[..., Any] | None = None
    else:
        around = _PaddedFirst(window)
    return lines.call("conv", CONV[len(window.kernel)], options, weight, bias, around)


@layer("ConvTranspose")
def conv_transpose(m: Match) -> Call | None:
    """What is cut off the two ends of an axis need not be the same."""
    found = _parts(m)
    if found is None or m.attribute("output_shape") is not None:
        return None
    weight, bias, window, lines = found
    rank, group = len(window.kernel), m.attribute("group", 1)
    if window.auto_pad not in ("NOTSET", "VALID"):
        return None
    inside, each = weight.shape[:2]
    extra = tuple(m.attribute("output_padding", (0,) * rank))[-rank:]
    if any(e >= max(s, d) for e, s, d in zip(extra, window.stride, window.dilation, strict=True)):
        return None  # torch refuses it
    options = window.options() | {"in_channels": inside, "out_channels": each * group, "groups": group}
    begins, ends = split_pads(window.pads, rank)
    around = None
    if begins == ends and min(begins) >= 0:
        options |= {"padding": begins, "output_padding": extra}
    elif min(*begins, *ends) >= 0:
        options["output_padding"] = extra
        around = _CutAfter((begins, ends))
    else:
        return None
    return lines.call("conv_transpose", TRANSPOSED[rank], options, weight, bias, around)


@dataclass(frozen=True)
class _PaddedFirst:
    """Zeros around the input, and then the layer."""

    window: Window

    def __call__(self, module: Any, x: Any) -> list[Any]:
        w = self.window
        pads = conv_pads(spatial_sizes(x), w.kernel, w.stride, w.dilation, w.pads, w.auto_pad)
        if pads is None:
            return [module(pad_window(x, w.kernel, w.stride, w.dilation, w.auto_pad))]
        return [module(pad_spatial(x, *pads))]


@dataclass(frozen=True)
class _CutAfter:
    """The layer, and then its ends cut off."""

    pads: Pads

    def __call__(self, module: Any, x: Any) -> list[Any]:
        y = module(x)
        keep = [slice(b, -e if e else None) for b, e in zip(*self.pads, strict=True)]
        return [y[(slice(None), slice(None), *keep)]]


# --------------------------------------------------------------------------------------------------- what belongs to it
@dataclass(frozen=True)
class Lines:
    """Where the layer begins and ends in the graph: what it reads, what it makes, the nodes that go."""

    m: Match
    x: ir.Value
    y: ir.Value
    nodes: tuple[ir.Node, ...]

    def call(
        self,
        name: str,
        kind: Callable[..., Any],
        options: dict[str, Any],
        weight: Moved,
        bias: Moved | None,
        around: Callable[..., Any] | None,
    ) -> Call:
        nodes, y = list(self.nodes), self.y
        if bias is None and not self.m.adds(2):
            found = self.m.added(y, options["out_channels"], len(options["kernel_size"]))
            if found is not None:
                nodes, bias, y = [*nodes, found[0]], found[1], found[0].outputs[0]
        weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
        return Call(name, kind, options | {"bias": bias is not None}, weights, [self.x], [y], nodes, around=around)


def _parts(m: Match) -> tuple[Moved, Moved | None, Window, Lines] | None:
    """None where the weights are no weights, or there are too many axes."""
    weight, bias = m.weight(1), m.weight(2)
    if weight is None or (m.adds(2) and (bias is None or len(bias.shape) != 1)):
        return None
    rank = len(weight.shape) - 2
    if rank not in CONV or m.node.inputs[0] is None:
        return None
    ones = (1,) * rank
    window = Window(
        weight.shape[2:],
        tuple(m.attribute("strides", ones)),
        tuple(m.attribute("dilations", ones)),
        None if m.attribute("pads") is None else tuple(m.attribute("pads")),
        m.attribute("auto_pad", "NOTSET"),
    )
    lines = Lines(m, m.node.inputs[0], m.node.outputs[0], (m.node,))
    window, lines = _with_pad(m, window, lines)
    return weight, bias, window, lines


def _with_pad(m: Match, window: Window, lines: Lines) -> tuple[Window, Lines]:
    """Zeros that a Pad in front puts on the spatial axes count as the convolution's own."""
    node, rank = lines.x.producer(), len(window.kernel)
    plain = m.node.op_type == "Conv" and window.auto_pad in ("NOTSET", "VALID")
    if node is None or node.op_type != "Pad" or node.domain or not plain or m.only_user(lines.x) is not m.node:
        return window, lines
    given = Match(node, m.held, m.origin, m.version)
    zero = given.constant(2) if given.has(2) else None
    filled = given.attribute("value", 0.0) != 0 or (given.has(2) and (zero is None or bool(zero.any())))
    pads = tuple(given.attribute("pads", ())) or given.integers(1)
    if given.attribute("mode", "constant") != "constant" or filled or pads is None or given.has(3):
        return window, lines
    outside = (*pads[:2], *pads[rank + 2 : rank + 4])
    if len(pads) != 2 * (rank + 2) or any(outside) or min(pads) < 0 or node.inputs[0] is None:
        return window, lines
    own = window.pads if window.pads is not None and window.auto_pad == "NOTSET" else (0,) * 2 * rank
    whole = tuple(a + b for a, b in zip(own, (*pads[2 : rank + 2], *pads[rank + 4 :]), strict=True))
    return replace(window, pads=whole, auto_pad="NOTSET"), replace(lines, x=node.inputs[0], nodes=(node, *lines.nodes))
