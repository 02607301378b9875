"""Rows: convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .harness import Case, rand

OPS = {
    nn.Conv1d: "aten.conv1d.default",
    nn.Conv2d: "aten.conv2d.default",
    nn.Conv3d: "aten.conv3d.default",
    nn.ConvTranspose1d: "aten.conv_transpose1d.default",
    nn.ConvTranspose2d: "aten.conv_transpose2d.input",
    nn.ConvTranspose3d: "aten.conv_transpose3d.input",
}


def layer(
    name: str,
    cls: Any,
    args: tuple[Any, ...],
    shape: tuple[int, ...],
    dynamic: Any = False,
    op: str = "",
    **options: Any,
) -> Case:
    return Case(
        name, (op or OPS[cls],), lambda: cls(*args, **options), lambda: [rand(*shape)], module=True, dynamic=dynamic
    )


def functional(name: str, op: str, function: Any, *shapes: tuple[int, ...], **options: Any) -> Case:
    return Case(name, (op,), function, lambda: [rand(*s, seed=i) for i, s in enumerate(shapes)], **options)


CASES = [
    layer("conv1d", nn.Conv1d, (3, 4, 3), (2, 3, 9), dynamic=True),
    layer("conv1d_same", nn.Conv1d, (3, 4, 4), (2, 3, 9), padding="same", op="aten.conv1d.padding"),
    layer("conv1d_stride", nn.Conv1d, (3, 4, 5), (2, 3, 12), stride=3, padding=2, dynamic=({0: "b", 2: "t"},)),
    layer("conv1d_depthwise", nn.Conv1d, (4, 4, 3), (2, 4, 9), padding=1, groups=4),
    layer("conv1d_groups", nn.Conv1d, (4, 6, 3), (2, 4, 9), padding=1, groups=2, dilation=2),
    layer("conv1d_unbatched", nn.Conv1d, (3, 4, 3), (3, 9)),
    layer("conv2d", nn.Conv2d, (3, 4, 3), (2, 3, 7, 8), padding=1, dynamic=True),
    layer("conv2d_no_bias", nn.Conv2d, (3, 4, 3), (2, 3, 7, 8), bias=False),
    layer("conv2d_even_stride", nn.Conv2d, (3, 4, 3), (2, 3, 8, 8), padding=1, stride=2, dynamic=True),
    layer("conv1d_pointwise_stride", nn.Conv1d, (3, 4, 1), (2, 3, 9), stride=3),
    layer("conv2d_pointwise_stride", nn.Conv2d, (3, 4, 1), (2, 3, 8, 10), stride=2, dynamic=True),
    layer("conv2d_pointwise_padded", nn.Conv2d, (3, 4, 1), (2, 3, 8, 9), stride=2, padding=1),
    layer("conv2d_pointwise_uneven", nn.Conv2d, (3, 4, 1), (2, 3, 8, 9), stride=(2, 3)),
    layer("conv3d_pointwise_stride", nn.Conv3d, (2, 3, 1), (2, 2, 5, 6, 7), stride=2),
    layer("conv2d_odd_stride", nn.Conv2d, (3, 4, 3), (2, 3, 7, 9), padding=1, stride=2),
    layer(
        "conv2d_free_size", nn.Conv2d, (3, 4, 3), (2, 3, 7, 8), padding=1, stride=2, dynamic=({0: "b", 2: "h", 3: "w"},)
    ),
    layer("conv2d_7x7", nn.Conv2d, (3, 4, 7), (2, 3, 16, 16), padding=3, stride=2),
    layer("conv2d_asymmetric", nn.Conv2d, (3, 4, (3, 5)), (2, 3, 9, 11), padding=(0, 2), stride=(2, 1)),
    layer("conv2d_even_kernel", nn.Conv2d, (3, 4, 4), (2, 3, 9, 11), padding=1),
    layer("conv2d_dilated", nn.Conv2d, (3, 4, 3), (2, 3, 9, 11), padding=2, dilation=2, dynamic=True),
    layer("conv2d_dilated_stride", nn.Conv2d, (3, 4, 3), (2, 3, 9, 11), padding=2, dilation=2, stride=2),
    layer(
        "conv2d_same_word",
        nn.Conv2d,
        (3, 4, (4, 3)),
        (2, 3, 9, 11),
        padding="same",
        dilation=2,
        op="aten.conv2d.padding",
    ),
    layer(
        "conv2d_valid_word", nn.Conv2d, (3, 4, 3), (2, 3, 9, 11), padding="valid", stride=2, op="aten.conv2d.padding"
    ),
    layer("conv2d_depthwise", nn.Conv2d, (4, 4, 3), (2, 4, 8, 8), padding=1, groups=4, stride=2, dynamic=True),
    layer("conv2d_depthwise_multiplier", nn.Conv2d, (4, 8, 3), (2, 4, 7, 8), padding=1, groups=4),
    layer("conv2d_depthwise_dilated", nn.Conv2d, (4, 4, 3), (2, 4, 9, 8), padding=2, groups=4, dilation=2),
    layer(
        "conv2d_depthwise_uneven_stride",
        nn.Conv2d,
        (4, 4, 3),
        (2, 4, 9, 8),
        padding=1,
        groups=4,
        stride=(2, 1),
        dynamic=True,
    ),
    layer(
        "conv2d_depthwise_stride_dilated", nn.Conv2d, (4, 4, 3), (2, 4, 9, 8), padding=1, groups=4, stride=2, dilation=2
    ),
    layer("conv2d_groups", nn.Conv2d, (4, 6, 3), (2, 4, 7, 8), padding=1, groups=2, dynamic=True),
    layer("conv2d_groups_stride", nn.Conv2d, (6, 9, 3), (2, 6, 8, 8), padding=1, groups=3, stride=2),
    layer("conv2d_unbatched", nn.Conv2d, (3, 4, 3), (3, 7, 8), padding=1),
    layer("conv2d_padding_mode", nn.Conv2d, (3, 4, 3), (2, 3, 7, 8), padding=1, padding_mode="zeros"),
    layer("conv3d", nn.Conv3d, (2, 3, 3), (2, 2, 5, 6, 7), padding=1, stride=2, dynamic=True),
    layer("conv3d_same", nn.Conv3d, (2, 3, 3), (2, 2, 5, 6, 7), padding="same", op="aten.conv3d.padding"),
    layer("conv3d_depthwise", nn.Conv3d, (2, 4, 3), (2, 2, 5, 6, 7), padding=1, groups=2),
    layer("conv3d_unbatched", nn.Conv3d, (2, 3, 3), (2, 5, 6, 7)),
    layer(
        "conv_transpose1d",
        nn.ConvTranspose1d,
        (3, 4, 3),
        (2, 3, 6),
        stride=2,
        padding=1,
        output_padding=1,
        dynamic=True,
    ),
    layer("conv_transpose1d_dilated", nn.ConvTranspose1d, (3, 4, 3), (2, 3, 6), stride=2, dilation=2, padding=1),
    layer("conv_transpose1d_unbatched", nn.ConvTranspose1d, (3, 4, 3), (3, 6), stride=2),
    layer("conv_transpose2d", nn.ConvTranspose2d, (3, 4, 3), (2, 3, 5, 6), dynamic=True),
    layer(
        "conv_transpose2d_dcgan",
        nn.ConvTranspose2d,
        (3, 4, 4),
        (2, 3, 4, 5),
        stride=2,
        padding=1,
        bias=False,
        dynamic=True,
    ),
    layer("conv_transpose2d_unet", nn.ConvTranspose2d, (3, 4, 2), (2, 3, 4, 5), stride=2),
    layer(
        "conv_transpose2d_output_padding",
        nn.ConvTranspose2d,
        (3, 4, 3),
        (2, 3, 4, 5),
        stride=2,
        padding=1,
        output_padding=1,
    ),
    layer("conv_transpose2d_wide_stride", nn.ConvTranspose2d, (3, 4, 2), (2, 3, 4, 5), stride=3, output_padding=2),
    layer(
        "conv_transpose2d_uneven",
        nn.ConvTranspose2d,
        (3, 4, (3, 5)),
        (2, 3, 4, 5),
        stride=(1, 2),
        padding=(0, 2),
        output_padding=(0, 1),
    ),
    layer("conv_transpose2d_groups", nn.ConvTranspose2d, (4, 6, 3), (2, 4, 4, 5), stride=2, padding=1, groups=2),
    layer("conv_transpose2d_depthwise", nn.ConvTranspose2d, (4, 8, 4), (2, 4, 4, 5), stride=2, padding=1, groups=4),
    layer(
        "conv_transpose2d_depthwise_odd",
        nn.ConvTranspose2d,
        (4, 4, 3),
        (2, 4, 4, 5),
        stride=2,
        output_padding=1,
        padding=1,
        groups=4,
    ),
    layer(
        "conv_transpose2d_free_size",
        nn.ConvTranspose2d,
        (3, 4, 3),
        (2, 3, 4, 5),
        stride=2,
        padding=1,
        dynamic=({0: "b", 2: "h", 3: "w"},),
    ),
    layer(
        "conv_transpose3d",
        nn.ConvTranspose3d,
        (2, 3, 3),
        (2, 2, 3, 4, 5),
        stride=2,
        padding=1,
        output_padding=(1, 0, 1),
    ),
    layer("conv_transpose3d_dilated", nn.ConvTranspose3d, (2, 3, 3), (2, 2, 3, 4, 5), stride=2, dilation=(1, 2, 1)),
    functional(
        "conv2d_computed_kernel",
        OPS[nn.Conv2d],
        lambda x, w: F.conv2d(x, w * 2, None, 1, 1),
        (2, 3, 6, 7),
        (4, 3, 3, 3),
    ),
    functional(
        "conv2d_computed_depthwise",
        OPS[nn.Conv2d],
        lambda x, w: F.conv2d(x, w * 2, None, 2, 1, 1, 4),
        (2, 4, 6, 7),
        (4, 1, 3, 3),
    ),
    functional(
        "conv_transpose2d_computed",
        OPS[nn.ConvTranspose2d],
        lambda x, w, b: F.conv_transpose2d(x, w * 2, b, 2, 1),
        (2, 3, 6, 7),
        (3, 4, 3, 3),
        (4,),
    ),
    functional(
        "convolution",
        "aten.convolution.default",
        lambda x, w, b: torch.convolution(x, w, b, [2, 2], [1, 1], [1, 1], False, [0, 0], 1),
        (2, 3, 6, 7),
        (4, 3, 3, 3),
        (4,),
    ),
    functional(
        "convolution_transposed",
        "aten.convolution.default",
        lambda x, w: torch.convolution(x, w, None, [2, 2], [1, 1], [1, 1], True, [1, 0], 1),
        (2, 3, 6, 7),
        (3, 4, 3, 3),
    ),
    Case(
        "weight_norm",
        ("aten._weight_norm.default",),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3, padding=1), dim=2),
        lambda: [rand(2, 3, 9)],
        module=True,
        dynamic=True,
    ),
    Case(
        "weight_norm_linear",
        ("aten._weight_norm.default",),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)),
        lambda: [rand(2, 5)],
        module=True,
    ),
]
