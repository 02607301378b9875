"""Rules: convolutions. Kernels are in Keras' order here: (*size, in/groups, out), transposed (*size, out/groups, in).

Padding is explicit, as in torch, except where Keras' "same" is exactly the same. No grouped convolution is handed to
Keras: it compiles those with XLA, which ONNX, LiteRT and plain SavedModels cannot hold; they become depthwise or one
convolution per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .. import nn_layers
from ..builder import Dynamic
from .operands import plus
from .registry import SPATIAL, layer_form, rule
from .spatial import Pads, batched, crop, ints, out_sizes, pad, same_is_exact, sizes_of, taps, unbatched

CONVS = ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
PADDED_CONVS = ("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
TRANSPOSED = ("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")


def explicit(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> Pads:
    """torch's padding, ints or a word, as (before, after) per axis."""
    if padding == "valid":
        return [(0, 0) for _ in kernel]
    if padding == "same":
        totals = [d * (w - 1) for w, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in ints(padding, len(kernel))]


def depthwise_taps(x: Any, kernel: Any, stride: Sequence[int], dilation: Sequence[int], out: Sequence[Any]) -> Any:
    """A depthwise convolution of any rank and stride, summed over the positions of kernel (*size, channels, m)."""
    *width, channels, multiplier = kernel.shape
    rows = ops.reshape(kernel, (-1, channels, multiplier))
    total = None
    for i, view in enumerate(taps(x, width, stride, dilation, out)):
        term = ops.expand_dims(view, -1) * rows[i]
        total = term if total is None else total + term
    lead = (-1, *out) if all(isinstance(o, int) for o in out) else tuple(ops.shape(total)[:-2])
    return ops.reshape(total, (*lead, channels * multiplier))


def is_strided_pointwise(width: Sequence[int], stride: Sequence[int]) -> bool:
    """A 1x1 convolution with a stride, which is written as a plain one on every s-th pixel.

    TensorFlow 2.21's float32 kernel gradient (oneDNN) writes out of bounds for a 1x1 kernel with stride 2 on some even
    sizes (10x10 with 8 channels) and takes the process down; the subsampled form is exact and does not.
    """
    return all(w == 1 for w in width) and any(s > 1 for s in stride)


def subsample(x: Any, stride: Sequence[int]) -> Any:
    """Every s-th entry of each spatial axis of (N, *spatial, C): the mean of a window of one, which takes TensorFlow a
    third of a strided slice's time.
    """
    if len(stride) < 3 and len(set(stride)) == 1:
        return ops.average_pool(x, 1, stride[0], "valid", "channels_last")
    return x[(slice(None), *(slice(None, None, s) for s in stride))]


def convolve(
    x: Any, kernel: Any, sizes: Sequence[Any], stride: Sequence[int], pads: Pads, dilation: Sequence[int], groups: int
) -> Any:
    """The convolution of batched `x` with `kernel` (*kernel, in/groups, out)."""
    n = len(stride)
    width = tuple(kernel.shape[:n])
    channels = kernel.shape[n] * groups
    strided_and_dilated = any(s > 1 for s in stride) and any(d > 1 for d in dilation)
    same = not strided_and_dilated and same_is_exact(sizes, width, stride, dilation, pads)
    x = x if same else pad(x, pads)
    if is_strided_pointwise(width, stride):
        x, stride, same = subsample(x, stride), [1] * n, False
    mode = "same" if same else "valid"
    if groups > 1 and groups == channels:
        kernel = ops.reshape(kernel, (*width, channels, kernel.shape[-1] // channels))
        if n == 3 or len(set(stride)) > 1 or len(set(dilation)) > 1 or strided_and_dilated:
            x = pad(x, pads) if same else x
            return depthwise_taps(x, kernel, stride, dilation, out_sizes(sizes, pads, width, stride, dilation))
        return ops.depthwise_conv(x, kernel, stride[0], mode, "channels_last", dilation[0])
    pairs = [(x, kernel)] if groups == 1 else zip(ops.split(x, groups, -1), ops.split(kernel, groups, -1), strict=True)
    ys = []
    for xg, kg in pairs:
        y = ops.conv(xg, kg, [1] * n if strided_and_dilated else list(stride), mode, "channels_last", list(dilation))
        ys.append(y[(slice(None), *(slice(None, None, s) for s in stride))] if strided_and_dilated else y)
    return ys[0] if groups == 1 else ops.concatenate(ys, -1)


@rule(*CONVS, *PADDED_CONVS, layout=SPATIAL)
def conv(k: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    n = len(weight.shape) - 2
    stride, dilation = ints(stride, n), ints(dilation, n)
    sizes = sizes_of(k, x, n)
    x, single = batched(x, n)
    kernel = ops.transpose(weight, (*range(2, n + 2), 1, 0))
    y = convolve(x, kernel, sizes, stride, explicit(padding, kernel.shape[:n], dilation), dilation, groups)
    y = y if bias is None else plus(y, bias)
    return unbatched(y, n) if single else y


# -------------------------------------------------------------------------------------------------------- transposed
def dilated(kernel: Any, dilation: Sequence[int]) -> Any:
    """The kernel with zeros between its entries, so that it acts as a dilated one."""
    for axis, d in enumerate(dilation):
        if d > 1:
            shape = list(kernel.shape)
            spread = ops.pad(
                ops.expand_dims(kernel, axis + 1),
                [(0, d - 1) if a == axis + 1 else (0, 0) for a in range(len(shape) + 1)],
            )
            shape[axis] *= d
            kernel = ops.reshape(spread, shape)[
                tuple(slice(0, shape[a] - d + 1) if a == axis else slice(None) for a in range(len(shape)))
            ]
    return kernel


def spread(k: Any, x: Any, sizes: Sequence[Any], stride: Sequence[int]) -> Any:
    """`x` with stride - 1 zeros after each entry, per spatial axis."""
    shape = list(k.shape(x)[:1]) + list(sizes) + [x.shape[-1]]
    for axis, s in enumerate(stride, start=1):
        if s > 1:
            x = ops.pad(
                ops.expand_dims(x, axis + 1), [(0, s - 1) if a == axis + 1 else (0, 0) for a in range(len(shape) + 1)]
            )
            shape[axis] = shape[axis] * s
            x = k.reshape(x, shape)
    return x


def transposed_same_is_exact(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], extra: Sequence[int]
) -> bool:
    """Whether Keras' 'same' result, n*stride long, is torch's."""
    rows = list(zip(kernel, stride, padding, extra, strict=True))
    return all(w >= s and p == (w - s) // 2 and e == s + 2 * p - w for w, s, p, e in rows)


def convolve_transposed(
    k: Any, x: Any, weight: Any, sizes: Sequence[Any], stride: Any, padding: Any, extra: Any, dilation: Any, groups: int
) -> Any:
    """The transposed convolution of batched `x`; `weight` in torch's order (in, out/groups, *kernel)."""
    n = len(stride)
    kernel = dilated(ops.transpose(weight, (*range(2, n + 2), 1, 0)), dilation)
    width = tuple(kernel.shape[:n])
    channels, per_group = kernel.shape[-1], kernel.shape[-2]
    if groups > 1 and groups == channels:
        flipped = ops.flip(kernel, tuple(range(n)))
        flipped = ops.reshape(ops.transpose(flipped, (*range(n), n + 1, n)), (*width, 1, channels * per_group))
        pads = [(w - 1 - p, w - s - p + e) for w, s, p, e in zip(width, stride, padding, extra, strict=True)]
        wide = crop(spread(k, x, sizes, stride), [(-lo, -hi) for lo, hi in pads])
        ones = (1,) * n
        length = [size * s + lo + hi for size, s, (lo, hi) in zip(sizes, stride, pads, strict=True)]
        return convolve(wide, flipped, length, ones, [(0, 0)] * n, ones, groups)
    if k.functional:
        raise Dynamic(
            "keras.ops.conv_transpose, as a Functional node, hands its arguments on in the wrong order (Keras 3.15)"
        )
    same = transposed_same_is_exact(width, stride, padding, extra)
    pairs = [(x, kernel)] if groups == 1 else zip(ops.split(x, groups, -1), ops.split(kernel, groups, -1), strict=True)
    mode, more = ("same", None) if same else ("valid", list(extra))
    ys = [ops.conv_transpose(a, b, list(stride), mode, more, "channels_last") for a, b in pairs]
    y = ys[0] if groups == 1 else ops.concatenate(ys, -1)
    return y if same else crop(y, [(p, p) for p in padding])


@rule(*TRANSPOSED, layout=SPATIAL)
def conv_transpose(
    k: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
) -> Any:
    n = len(weight.shape) - 2
    sizes = sizes_of(k, x, n)
    given = x
    x, single = batched(x, n)
    if single:
        k.note(x, k.type(given), ())
    options = [ints(v, n) for v in (stride, padding, output_padding, dilation)]
    y = convolve_transposed(k, x, weight, sizes, options[0], options[1], options[2], options[3], groups)
    y = y if bias is None else plus(y, bias)
    return unbatched(y, n) if single else y


@rule("aten.convolution.default", layout=SPATIAL)
def convolution(
    k: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    if transposed:
        return conv_transpose(k, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(k, x, weight, bias, stride, padding, dilation, groups)


# --------------------------------------------------------------------------------------------------------- layer forms
@layer_form(*CONVS, *PADDED_CONVS, params=("weight", "bias"))
def conv_layer(k: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    filters, per_group, *width = weight.type.shape
    n = len(width)
    stride, dilation = ints(stride, n), ints(dilation, n)
    if len(x.shape) != n + 2 or (any(s > 1 for s in stride) and any(d > 1 for d in dilation)):
        return None
    pads = explicit(padding, width, dilation)
    same = same_is_exact(sizes_of(k, x, n), width, stride, dilation, pads)
    if is_strided_pointwise(width, stride):
        x, pads, stride, same = subsample(x if same else pad(x, pads), stride), [(0, 0)] * n, [1] * n, False
    config: dict[str, Any] = {"kernel_size": tuple(width), "strides": stride, "dilation_rate": dilation}
    config |= {"padding": "same" if same else "valid", "data_format": "channels_last", "use_bias": bias is not None}
    order = tuple(range(2, n + 2))
    if groups == 1:
        cls = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)[n - 1]
        kernel = weight.transposed(*order, 1, 0)
        config |= {"filters": filters}
    elif per_group == 1:
        if n == 3 or len(set(stride)) > 1 or len(set(dilation)) > 1:
            return None
        cls = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)[n - 1]
        multiplier = filters // groups
        kernel = weight.reshaped(groups, multiplier, *width).transposed(*(a for a in order), 0, 1)
        config |= {"depth_multiplier": multiplier}
    else:
        cls = (nn_layers.GroupedConv1D, nn_layers.GroupedConv2D, nn_layers.GroupedConv3D)[n - 1]
        kernel = weight.transposed(*order, 1, 0)
        config |= {"filters": filters, "groups": groups}
    return k.layer(cls, x if same else pad(x, pads), weights={"kernel": kernel, "bias": bias}, **config)


@layer_form(*TRANSPOSED, params=("weight", "bias"))
def conv_transpose_layer(
    k: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
) -> Any:
    _, filters, *width = weight.type.shape
    n = len(width)
    stride, padding, extra, dilation = (ints(v, n) for v in (stride, padding, output_padding, dilation))
    if len(x.shape) != n + 2 or groups > 1 or any(d > 1 for d in dilation):
        return None
    same = transposed_same_is_exact(width, stride, padding, extra)
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        return None  # Keras allows less output padding than torch
    y = k.layer(
        (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)[n - 1],
        x,
        weights={"kernel": weight.transposed(*range(2, n + 2), 1, 0), "bias": bias},
        filters=filters,
        kernel_size=tuple(width),
        strides=stride,
        padding="same" if same else "valid",
        output_padding=None if same else extra,
        data_format="channels_last",
        use_bias=bias is not None,
    )
    return y if same else crop(y, [(p, p) for p in padding])


# --------------------------------------------------------------------------------------------------- weight norm
def norm_except(v: Any, dim: int) -> Any:
    """The 2-norm over every axis but `dim` (-1: over all), axes kept."""
    axes = [a for a in range(len(v.shape)) if a != dim]
    return ops.sqrt(ops.sum(ops.square(v), axis=axes, keepdims=True))


@rule("aten._weight_norm.default")
def weight_norm(k: Any, v: Any, g: Any, dim: int) -> Any:
    return v * (g / norm_except(v, dim))


@rule("aten._weight_norm_interface.default")
def weight_norm_interface(k: Any, v: Any, g: Any, dim: int) -> tuple[Any, Any]:
    norm = norm_except(v, dim)
    return v * (g / norm), norm


@rule("aten.norm_except_dim.default")
def norm_except_dim(k: Any, v: Any, power: int, dim: int) -> Any:
    axes = [a for a in range(len(v.shape)) if a != dim]
    if power == 2:
        return norm_except(v, dim)
    return ops.power(ops.sum(ops.power(ops.abs(v), power), axis=axes, keepdims=True), 1.0 / power)
