"""Attention, and code that moves elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from isomorph.parity.explaining.cause_tests.base import Again, alternative

SHUFFLES = ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")


@alternative("scaled_dot_product_attention")
def attention(again: Again) -> Iterator[tuple[str, Any]]:
    query = again.x
    width = query.shape[-1]
    scale = again.argument("scale", None, None) or width**-0.5
    yield f"not scaled by 1/sqrt({width})", again.run(scale=1.0)
    found = again.solve(lambda value: again.run(scale=value), (width**-1.0, width**0.5), float(scale))
    if found is not None:
        yield f"the scale is {found[0]:.6g}, not {float(scale):.6g}", found[1]
    causal = bool(again.argument("is_causal", 5, False))
    mask = again.argument("attn_mask", 3, None)
    if mask is not None:
        yield "the mask is not applied", again.given("attn_mask", 3, None)
        if mask.dtype == torch.bool:
            yield "the mask is reversed", again.given("attn_mask", 3, ~mask)
            yield "masked with -1e4, not -infinity", again.given("attn_mask", 3, _finite(mask, query.dtype, -1e4))
    else:
        long = query.shape[-2], again.fault.inputs[1].shape[-2]
        ones = torch.ones(long, dtype=torch.bool)
        if causal:
            yield "the causal mask is missing", again.run(is_causal=False)
        else:
            yield "a causal mask is applied", again.run(is_causal=True)
        for shift in (-1, 1):
            text = f"the causal mask is shifted by {shift}"
            yield text, again.run(is_causal=False, attn_mask=ones.tril(shift))
        yield (
            "masked with -1e4, not -infinity",
            again.run(is_causal=False, attn_mask=_finite(ones.tril(), query.dtype, -1e4)),
        )


def _finite(mask: torch.Tensor, dtype: torch.dtype, value: float) -> torch.Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, value)


@alternative("Flatten", "flatten", "reshape", "view", "Unflatten", "unflatten")
def layout(again: Again) -> Iterator[tuple[str, Any]]:
    """The classic: elements are laid out channels last when they are reshaped."""
    x, expected = again.fault.inputs[0], again.fault.expected[0]
    if x.ndim > 2:
        moved = np.moveaxis(x, 1, -1)
        text = "reshaped with channels last: rows of the next weight are in NHWC order, not NCHW"
        yield text, [np.ascontiguousarray(moved).reshape(expected.shape)]
        if x.shape[1] > 1:
            back = np.moveaxis(x, -1, 1)
            yield "reshaped with the last axis first", [np.ascontiguousarray(back).reshape(expected.shape)]


@alternative(*SHUFFLES)
def shuffle(again: Again) -> Iterator[tuple[str, Any]]:
    x = again.x
    kind = again.fault.kind.removeprefix("F.").removeprefix("torch.").lower().replace("_", "")
    batch, channels = x.shape[:2]
    if kind == "channelshuffle":
        groups = int(again.number("groups", 1, 1))
        text = f"shuffled with {channels // groups} groups, not {groups}"
        yield text, torch.nn.functional.channel_shuffle(x, channels // groups)
    elif kind == "pixelshuffle":
        factor = int(again.number("upscale_factor", 1, 1))
        height, width = x.shape[-2:]
        parts = x.reshape(batch, factor, factor, channels // factor**2, height, width)
        text = "channels are taken apart as (r, r, c), not (c, r, r)"
        yield text, parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * factor, width * factor)


@alternative("roll")
def roll(again: Again) -> Iterator[tuple[str, Any]]:
    shifts, dims = again.argument("shifts", 1, 0), again.argument("dims", 2, None)
    several = [shifts] if isinstance(shifts, int) else list(shifts)
    yield "rolled the other way", again.given("shifts", 1, [-s for s in several] if dims is not None else -several[0])


@alternative("cumsum", "cumprod", "logcumsumexp")
def cumulative(again: Again) -> Iterator[tuple[str, Any]]:
    x, dim = again.x, int(again.argument("dim", 1, 0))
    outputs = again.run()[0]
    if again.live.function.__name__ == "cumsum":
        yield "exclusive: without the element itself", outputs - x.numpy()
        yield "from the end", torch.flip(torch.cumsum(torch.flip(x, [dim]), dim), [dim])


@alternative("cat", "concat", "concatenate", "stack")
def joined(again: Again) -> Iterator[tuple[str, Any]]:
    tensors = [torch.from_numpy(a.copy()) for a in again.fault.inputs]
    name = again.live.function.__name__
    dim = int(again.argument("dim", 1, 0))
    join: Any = torch.stack if name == "stack" else torch.cat
    if len(tensors) > 1:
        yield "joined in the reverse order", join(tensors[::-1], dim)
        if name != "stack" and len({t.shape for t in tensors}) == 1:
            mixed = torch.stack(tensors, dim % tensors[0].ndim + 1).flatten(
                dim % tensors[0].ndim, dim % tensors[0].ndim + 1
            )
            yield "interleaved, not one after the other", mixed
