"""The same function written twice: torch's own kernel, and the mathematics spelt out in another order.

Every second form is right in every place: at ties and bounds it has torch's subgradient, at NaN and infinity torch's
value.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FORMS", "ONE_D", "TWO_D", "spelt_attention", "spelt_batch_norm"]


def halves_matmul(layer: nn.Linear, x: Tensor) -> Tensor:
    """A matrix product, its inner axis in two parts, the second first."""
    half = layer.in_features // 2
    left, right = layer.weight[:, :half], layer.weight[:, half:]
    return x[..., half:] @ right.T + (layer.bias + x[..., :half] @ left.T)


def columns_matmul(layer: nn.Linear, x: Tensor) -> Tensor:
    """A matrix product, one product and one sum per output."""
    return torch.stack([(x * row).sum(-1) for row in layer.weight], -1) + layer.bias


def tree_sum(y: Tensor) -> Tensor:
    """A sum over the last axis by pairs."""
    while y.shape[-1] > 1:
        if y.shape[-1] % 2:
            y = F.pad(y, (0, 1))
        y = y[..., 0::2] + y[..., 1::2]
    return y[..., 0]


def one_pass_variance(y: Tensor) -> Tensor:
    """Honest where the mean is no larger than the deviation can bear: of values within [-1, 1], plus one."""
    z = y.sin()
    return 1.0 + ((z * z).mean(-1) - z.mean(-1) ** 2)


def two_pass_variance(y: Tensor) -> Tensor:
    return 1.0 + y.sin().var(-1, unbiased=False)


def spelt_layer_norm(y: Tensor) -> Tensor:
    """In half precision torch keeps the statistics in float32, where squares do not overflow."""
    wide = y if y.dtype == torch.float32 else y.float()
    centred = wide - wide.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).to(y.dtype)


def spelt_softplus(y: Tensor) -> Tensor:
    """torch's is linear above 20."""
    safe = torch.where(y > 20.0, torch.zeros_like(y), y)
    return torch.where(y > 20.0, y, safe.exp().log1p())


def spelt_log_sigmoid(y: Tensor) -> Tensor:
    return torch.where(y < 0, y, 0.0) - torch.where(y < 0, y, -y).exp().log1p()


def spelt_logistic_loss(y: Tensor, target: Tensor) -> Tensor:
    return (torch.where(y >= 0, y, 0.0) - y * target + torch.where(y < 0, y, -y).exp().log1p()).mean()


def spelt_maximum(a: Tensor, b: Tensor) -> Tensor:
    """torch halves the gradient at a tie."""
    return torch.where(a == b, 0.5 * a + 0.5 * b, torch.where(a > b, a, b))


def spelt_hardswish(y: Tensor) -> Tensor:
    return torch.where(y <= -3.0, 0.0 * y.detach(), torch.where(y < 3.0, y * (y / 6.0 + 0.5), y))


def unfold_mean(y: Tensor) -> Tensor:
    """Average pooling, window 3 and stride 2, of (b, d)."""
    return y.unfold(-1, 3, 2).mean(-1)


def triangular_cumsum(y: Tensor) -> Tensor:
    size = y.shape[-1]
    return y @ torch.ones(size, size, dtype=y.dtype).triu()


def running_cumsum(y: Tensor) -> Tensor:
    total, parts = torch.zeros_like(y[..., 0]), []
    for column in y.unbind(-1):
        total = total + column
        parts.append(total)
    return torch.stack(parts, -1)


def spelt_dft(y: Tensor) -> Tensor:
    """The real and imaginary parts of a discrete Fourier transform as two matrix products."""
    z = y.tanh().nan_to_num()
    steps = torch.arange(y.shape[-1], dtype=y.dtype)
    angle = 2 * math.pi * (torch.outer(steps, steps) % y.shape[-1]) / y.shape[-1]  # large angles lose digits
    return torch.stack([z @ angle.cos(), -(z @ angle.sin())], -1)


def own_dft(y: Tensor) -> Tensor:
    """Of finite numbers: a fast transform takes NaN another way than a product."""
    return torch.view_as_real(torch.fft.fft(y.tanh().nan_to_num()))


def spelt_log_softmax(y: Tensor) -> Tensor:
    centred = y - y.detach().amax(-1, keepdim=True)
    return centred - centred.exp().sum(-1, keepdim=True).log()


def softmax_by_logs(y: Tensor) -> Tensor:
    """torch's gives NaN throughout a row that has an infinity."""
    total = y.logsumexp(-1, keepdim=True)
    return (y - total).exp() + 0.0 * total.detach()


def spelt_logsumexp(y: Tensor) -> Tensor:
    top = y.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top.isinf(), 0.0)
    return ((y - top).exp().sum(-1).log() + top[..., 0]).unsqueeze(-1)


def product_by_logs(y: Tensor) -> Tensor:
    """A product of positive numbers."""
    return (y.sigmoid() + 0.5).log().sum(-1).exp()


def wide_and_back(layer: nn.Linear, x: Tensor) -> Tensor:
    """More exact than the original: computed in float64, rounded once."""
    return F.linear(x.double(), layer.weight.double(), layer.bias.double()).float()


def in_place(layer: nn.Linear, x: Tensor) -> Tensor:
    y = layer(x)
    y.mul_(0.5).add_(x)
    return y.relu_()


def spelt_dropout(layer: nn.Linear, x: Tensor) -> Tensor:
    y = layer(x)
    if not layer.training:
        return y
    return y * torch.empty_like(y).bernoulli_(0.7) / 0.7


# (layer, x (b, 8)) -> tensor: torch's own, and the twin. The layer is Linear(8, 8).
ONE_D: dict[str, tuple[Any, Any]] = {
    "matmul by halves": (lambda f, x: f(x), halves_matmul),
    "matmul by columns": (lambda f, x: f(x), columns_matmul),
    "matmul in float64": (lambda f, x: f(x), wide_and_back),
    "sum reversed": (lambda f, x: f(x).sum(-1), lambda f, x: f(x).flip(-1).sum(-1)),
    "sum by pairs": (lambda f, x: f(x).sum(-1), lambda f, x: tree_sum(f(x))),
    "sum of all": (lambda f, x: f(x).sum(), lambda f, x: f(x).sum(0).flip(0).sum()),
    "mean": (lambda f, x: f(x).mean(-1), lambda f, x: (f(x) / 8.0).sum(-1)),
    "variance in one pass": (lambda f, x: two_pass_variance(f(x)), lambda f, x: one_pass_variance(f(x))),
    "deviation": (lambda f, x: (f(x).var(-1) + 0.1).sqrt(),
        lambda f, x: ((f(x) - f(x).mean(-1, True)).square().sum(-1) / 7 + 0.1) ** 0.5),
    "softmax": (lambda f, x: F.softmax(f(x), -1), lambda f, x: softmax_by_logs(f(x))),
    "log softmax": (lambda f, x: F.log_softmax(f(x), -1), lambda f, x: spelt_log_softmax(f(x))),
    "logsumexp": (lambda f, x: f(x).logsumexp(-1, True), lambda f, x: spelt_logsumexp(f(x))),
    "layer norm": (lambda f, x: F.layer_norm(f(x), (8,)), lambda f, x: spelt_layer_norm(f(x))),
    "gelu": (lambda f, x: F.gelu(f(x)), lambda f, x: 0.5 * f(x) * (1 + torch.erf(f(x) * 0.5**0.5))),
    "silu": (lambda f, x: F.silu(f(x)), lambda f, x: f(x) * torch.sigmoid(f(x))),
    "softplus": (lambda f, x: F.softplus(f(x)), lambda f, x: spelt_softplus(f(x))),
    "log sigmoid": (lambda f, x: F.logsigmoid(f(x)), lambda f, x: spelt_log_sigmoid(f(x))),
    "tanh": (lambda f, x: torch.tanh(f(x)), lambda f, x: 2 * torch.sigmoid(2 * f(x)) - 1),
    "hardswish": (lambda f, x: F.hardswish(f(x)), lambda f, x: spelt_hardswish(f(x))),
    "relu": (lambda f, x: F.relu(x) + F.relu(f(x)),
        lambda f, x: torch.where(x <= 0, 0.0, x) + torch.where(f(x) <= 0, 0.0, f(x))),
    "leaky relu": (lambda f, x: F.leaky_relu(x, 0.1) * f(x), lambda f, x: torch.where(x > 0, x, 0.1 * x) * f(x)),
    "abs": (lambda f, x: x.abs() + f(x), lambda f, x: x * x.sign() + f(x)),
    "clamp": (lambda f, x: x.clamp(-1.0, 0.5) * f(x),
        lambda f, x: torch.where(x < -1.0, -1.0, torch.where(x > 0.5, 0.5, x)) * f(x)),
    "maximum": (lambda f, x: torch.maximum(x, x.flip(-1)) + f(x), lambda f, x: spelt_maximum(x, x.flip(-1)) + f(x)),
    "amax": (lambda f, x: x.amax(-1) + f(x).amax(-1), lambda f, x: x.flip(-1).amax(-1) + f(x).roll(3, -1).amax(-1)),
    "max of many": (lambda f, x: (f(x) * 2).max(-1).values, lambda f, x: 2 * f(x).max(-1).values),
    "sort": (lambda f, x: f(x).sort(-1).values, lambda f, x: -(-f(x)).sort(-1, descending=True).values),
    "top k": (lambda f, x: x.topk(3, -1).values * f(x)[:, :3],
        lambda f, x: torch.sort(x, dim=-1, descending=True, stable=True).values[:, :3] * f(x)[:, :3]),
    "cumulative sum": (lambda f, x: f(x).cumsum(-1), lambda f, x: running_cumsum(f(x))),
    "cumulative sum as product": (lambda f, x: f(x).tanh().cumsum(-1), lambda f, x: triangular_cumsum(f(x).tanh())),
    "product": (lambda f, x: (f(x).sigmoid() + 0.5).prod(-1), lambda f, x: product_by_logs(f(x))),
    "norm": (lambda f, x: F.normalize(f(x), dim=-1),
        lambda f, x: f(x) / f(x).norm(dim=-1, keepdim=True).clamp(min=1e-12)),
    "cosine": (lambda f, x: F.cosine_similarity(f(x), x + 3.0, -1),
        lambda f, x: (F.normalize(f(x), dim=-1, eps=1e-8) * F.normalize(x + 3.0, dim=-1, eps=1e-8)).sum(-1)),
    "outer product": (lambda f, x: torch.einsum("bi,bj->bij", x, f(x)), lambda f, x: x[:, :, None] * f(x)[:, None]),
    "bilinear form": (lambda f, x: torch.einsum("bi,ij,bj->b", x, f.weight, x),
        lambda f, x: ((x @ f.weight) * x).sum(1)),
    "average pool": (lambda f, x: F.avg_pool1d(f(x)[:, None], 3, 2)[:, 0], lambda f, x: unfold_mean(f(x))),
    "fourier": (lambda f, x: own_dft(f(x)), lambda f, x: spelt_dft(f(x))),
    "in place": (lambda f, x: F.relu(f(x) * 0.5 + x), in_place),
    "dropout": (lambda f, x: F.dropout(f(x), 0.3, f.training), spelt_dropout),
    "two outputs": (lambda f, x: (f(x), f(x).exp()), lambda f, x: (f(x) + 0.0, torch.pow(torch.e, f(x)))),
    "integer output": (lambda f, x: (f(x), torch.argsort(x, dim=-1, stable=True)),
        lambda f, x: (f(x), torch.sort(x, stable=True, dim=-1).indices)),
    "cross entropy": (lambda f, x: F.cross_entropy(f(x), x.argmax(-1)),
        lambda f, x: -F.log_softmax(f(x), -1).gather(-1, x.argmax(-1, True)).mean()),
    "power": (lambda f, x: f(x) ** 3, lambda f, x: f(x) * f(x) * f(x)),
    "logistic loss": (lambda f, x: F.binary_cross_entropy_with_logits(f(x), x.sigmoid()),
        lambda f, x: spelt_logistic_loss(f(x), x.sigmoid())),
}  # fmt: skip


def unfold_conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution, kernel 3 and padding 1, as patches times a matrix."""
    patches = F.unfold(x, 3, padding=1)
    return (layer.weight.flatten(1) @ patches).unflatten(-1, x.shape[-2:]) + layer.bias[:, None, None]


def shifted_conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution as the sum of nine shifted pointwise ones, last first."""
    height, width = x.shape[-2:]
    padded, total = F.pad(x, (1, 1, 1, 1)), layer.bias[:, None, None]
    for row in (2, 1, 0):
        for column in (2, 1, 0):
            part = padded[..., row : row + height, column : column + width]
            total = total + torch.einsum("oi,bihw->bohw", layer.weight[:, :, row, column], part)
    return total


def spelt_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Batch statistics, one channel axis (1)."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) * (weight[:, None, None] * (variance + eps).rsqrt()) + bias[:, None, None]


def spelt_upsample(y: Tensor) -> Tensor:
    """Twice as large, bilinear, corners aligned: rows, then columns."""
    for axis in (-2, -1):
        size = y.shape[axis]
        place = torch.arange(2 * size, dtype=y.dtype) * (size - 1) / (2 * size - 1)
        low = place.long()
        share = (place - low).unflatten(0, (-1, 1) if axis == -2 else (1, -1))
        high = y.index_select(axis, (low + 1).clamp(max=size - 1))
        y = y.index_select(axis, low) * (1 - share) + high * share
    return y


def spelt_transposed(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The transpose of a convolution, as a convolution with the turned kernel."""
    return F.conv2d(x, layer.weight.transpose(0, 1).flip(-1, -2), padding=1)


# (layer, x (b, 4, 6, 5)) -> tensor. The layer is Conv2d(4, 4, 3, padding=1).
TWO_D: dict[str, tuple[Any, Any]] = {
    "conv by unfold": (lambda f, x: f(x), unfold_conv),
    "conv by shifts": (lambda f, x: f(x), shifted_conv),
    "conv channels last": (lambda f, x: f(x), lambda f, x: f(x.contiguous(memory_format=torch.channels_last))),
    "conv transposed": (lambda f, x: F.conv_transpose2d(x, f.weight, padding=1), spelt_transposed),
    "depthwise": (lambda f, x: F.conv2d(x, f.weight[:, :1], padding=1, groups=4),
        lambda f, x: torch.cat([F.conv2d(x[:, i:i + 1], f.weight[i:i + 1, :1], padding=1) for i in range(4)], 1)),
    "batch norm": (lambda f, x: F.batch_norm(f(x), None, None, f.bias, f.bias, training=True),
        lambda f, x: spelt_batch_norm(f(x), f.bias, f.bias)),
    "group norm": (lambda f, x: F.group_norm(f(x), 2, f.bias, f.bias),
        lambda f, x: F.layer_norm(f(x).reshape(x.shape[0], 2, -1), (60,)).reshape(x.shape)
            * f.bias[:, None, None] + f.bias[:, None, None]),
    "max pool": (lambda f, x: F.max_pool2d(f(x), 2), lambda f, x: F.max_pool2d(f(x).flip(0), 2).flip(0)),
    "global mean": (lambda f, x: F.adaptive_avg_pool2d(f(x), 1).flatten(1), lambda f, x: f(x).mean(-1).mean(-1)),
    "upsample": (lambda f, x: F.interpolate(f(x), scale_factor=2, mode="bilinear", align_corners=True),
        lambda f, x: spelt_upsample(f(x))),
    "pixel shuffle": (lambda f, x: F.pixel_shuffle(f(x), 2).square(),
        lambda f, x: f(x).square().unflatten(1, (1, 2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)),
}  # fmt: skip


def spelt_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, heads in a leading axis."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype).triu(1)
    return torch.softmax(scores, -1) @ v


def wide_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """In half precision torch's kernel keeps its scores in float32, where they do not overflow."""
    return spelt_attention(q.float(), k.float(), v.float()).to(q.dtype)


# (layer, x (b, 5, 8)) -> tensor. The layer is Linear(8, 8).
FORMS: dict[str, tuple[Any, Any]] = {
    "attention": (lambda f, x: F.scaled_dot_product_attention(f(x), x, f(x)),
        lambda f, x: spelt_attention(f(x), x, f(x))),
    "attention in float32": (lambda f, x: F.scaled_dot_product_attention(f(x), x, f(x)),
        lambda f, x: wide_attention(f(x), x, f(x))),
    "causal attention": (lambda f, x: F.scaled_dot_product_attention(f(x), x, x, is_causal=True),
        lambda f, x: spelt_attention(f(x), x, x, True)),
    "batched product": (lambda f, x: torch.einsum("bti,bsi->bts", f(x), x),
        lambda f, x: torch.stack([a @ b.T for a, b in zip(f(x), x, strict=True)])),
    "linear by rows": (lambda f, x: f(x), lambda f, x: torch.stack([f(row) for row in x])),
    "linear as conv": (lambda f, x: f(x),
        lambda f, x: F.conv1d(x.transpose(1, 2), f.weight[:, :, None], f.bias).transpose(1, 2)),
    "rms norm": (lambda f, x: F.rms_norm(f(x), (8,), eps=1e-6),
        lambda f, x: f(x) * (f(x).square().sum(-1, keepdim=True) / 8 + 1e-6).rsqrt()),
    "conv over time": (lambda f, x: F.conv1d(x.transpose(1, 2), f.weight[:, :, None].expand(8, 8, 3), padding=1),
        lambda f, x: (f.weight @ (F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).sum(-1)).transpose(1, 2))),
}  # fmt: skip
