"""Convolutions, linear maps and embeddings: weights turned, padding on another side, biases, groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from isomorph.parity.explaining.cause_tests.base import Again, alternative

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


def _weight(again: Again, change: Any) -> Any:
    def changed(module: Any) -> None:
        module.weight = torch.nn.Parameter(change(module.weight).contiguous(), requires_grad=False)

    return again.altered(changed)


@alternative(*CONVOLUTIONS, *TRANSPOSED, "Linear", "NonDynamicallyQuantizableLinear")
def bias(again: Again) -> Iterator[tuple[str, Any]]:
    if again.module.bias is not None:
        yield "the bias is missing", again.altered(lambda m: m.bias.zero_())
        yield "the bias is added twice", again.altered(lambda m: m.bias.mul_(2.0))
        yield "the bias is subtracted", again.altered(lambda m: m.bias.neg_())


@alternative("Linear", "NonDynamicallyQuantizableLinear")
def linear(again: Again) -> Iterator[tuple[str, Any]]:
    weight = again.module.weight
    if weight.shape[0] == weight.shape[1]:
        yield "the square weight is transposed", _weight(again, lambda w: w.t())
        return
    yield (
        "the weight's memory is read in the other order (reshaped where it should be transposed)",
        _weight(again, lambda w: w.t().reshape(w.shape)),
    )


@alternative(*CONVOLUTIONS, *TRANSPOSED)
def kernel(again: Again) -> Iterator[tuple[str, Any]]:
    weight = again.module.weight
    space = list(range(2, weight.ndim))
    yield "the kernel is flipped", _weight(again, lambda w: w.flip(space))
    for axis in space:
        yield f"the kernel is flipped along spatial axis {axis - 2}", _weight(again, lambda w, a=axis: w.flip([a]))
    if len(space) > 1 and weight.shape[2] == weight.shape[3]:
        yield "the kernel's height and width are exchanged", _weight(again, lambda w: w.transpose(2, 3))
    if weight.shape[0] == weight.shape[1]:
        yield "the kernel's input and output channels are exchanged", _weight(again, lambda w: w.transpose(0, 1))


@alternative(*CONVOLUTIONS)
def padding(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    if isinstance(module.padding, str):
        return
    rank = x.ndim - 2
    if rank == 2 and module.padding[0] != module.padding[1]:
        yield (
            "the padding of height and width is exchanged",
            again.having(padding=module.padding[::-1], _reversed_padding_repeated_twice=_twice(module.padding[::-1])),
        )
    yield "padding is asymmetric ('same' as TensorFlow pads it)", _same(module, x)
    total = [2 * p for p in module.padding]
    for text, sides in (("before", [(t, 0) for t in total]), ("after", [(0, t) for t in total])):
        if any(total):
            yield f"all padding is {text} the image", _padded(module, x, sides)
    for mode in ("zeros", "reflect", "replicate", "circular"):
        if mode != module.padding_mode and any(total):
            yield f"padding mode {mode}, not {module.padding_mode}", again.having(padding_mode=mode)


def _twice(padding: Any) -> list[int]:
    return [p for p in reversed(padding) for _ in range(2)]


def _same(module: Any, x: torch.Tensor) -> torch.Tensor:
    sides = []
    for size, kernel, stride, dilation in zip(
        x.shape[2:], module.kernel_size, module.stride, module.dilation, strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        sides.append((total // 2, total - total // 2))
    return _padded(module, x, sides)


def _padded(module: Any, x: torch.Tensor, sides: list[tuple[int, int]]) -> torch.Tensor:
    x = F.pad(x, [p for pair in reversed(sides) for p in pair])
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[len(sides) - 1]
    bias = None if module.bias is None else module.bias.detach()
    result: torch.Tensor = convolve(x, module.weight.detach(), bias, module.stride, 0, module.dilation, module.groups)
    return result


@alternative(*CONVOLUTIONS, *TRANSPOSED)
def groups(again: Again) -> Iterator[tuple[str, Any]]:
    module, x = again.module, again.x
    count = module.groups
    if count < 2:
        return
    outputs = again.run()[0]
    size = outputs.shape[1]
    order = torch.arange(size).view(count, -1).t().reshape(-1).numpy()
    yield "output channels are interleaved over the groups", outputs.take(order, axis=1)
    yield "output channels of the groups are gathered", outputs.take(torch.tensor(order).argsort().numpy(), axis=1)
    inputs = torch.arange(x.shape[1]).view(count, -1)
    for text, index in (
        ("input channels are interleaved over the groups", inputs.t().reshape(-1)),
        *(
            (f"group {shift} takes the input of group 0", inputs.roll(-shift, 0).reshape(-1))
            for shift in (1, count - 1)
        ),
    ):
        yield text, again.run(lambda given, *rest, index=index, **more: module(given[:, index], *rest, **more))


@alternative(*TRANSPOSED)
def crop(again: Again) -> Iterator[tuple[str, Any]]:
    """Another part of the full transposed convolution."""
    module, x = again.module, again.x
    rank = x.ndim - 2
    convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    bias = None if module.bias is None else module.bias.detach()
    full = convolve(x, module.weight.detach(), bias, module.stride, 0, 0, module.groups, module.dilation)
    shape = again.fault.expected[0].shape[2:]
    for start in itertools.product(*(range(max(f - s, 0) + 1) for f, s in zip(full.shape[2:], shape, strict=True))):
        index = (slice(None), slice(None), *(slice(a, a + s) for a, s in zip(start, shape, strict=True)))
        if all(a + s <= f for a, s, f in zip(start, shape, full.shape[2:], strict=True)):
            yield f"cropped from {list(start)}, not from {list(module.padding)}", full[index]


@alternative("Embedding")
def embedding(again: Again) -> Iterator[tuple[str, Any]]:
    module, index = again.module, again.x
    table = module.weight.detach()
    rows = table.shape[0]
    for shift in (1, -1):
        yield (
            f"the row {'after' if shift > 0 else 'before'} the one asked for (off by one)",
            table[(index + shift) % rows],
        )
    if module.padding_idx is not None:
        yield "the padding row is zero", table.index_fill(0, torch.tensor([module.padding_idx]), 0.0)[index]
    yield "scaled by the root of the width", table[index] * table.shape[1] ** 0.5


@alternative("embedding")
def embedding_function(again: Again) -> Iterator[tuple[str, Any]]:
    index, table = (torch.from_numpy(a.copy()) for a in again.fault.inputs[:2])
    for shift in (1, -1):
        yield f"the row {'after' if shift > 0 else 'before'} the one asked for", table[(index + shift) % table.shape[0]]
