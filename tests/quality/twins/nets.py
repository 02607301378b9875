"""Whole networks written twice: one set of parameters, two forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.quality.twins.forms import softmax_by_logs, spelt_attention, spelt_batch_norm

__all__ = ["NETS", "Form", "ill_conditioned"]


class Form(nn.Module):
    """A module that holds parameters, and the function of it and of the inputs that the net computes."""

    def __init__(self, body: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.body, *inputs)


def ill_conditioned(size: int, condition: float) -> Tensor:
    """A square matrix with singular values from 1 down to 1/condition."""
    left, right = (torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q for _ in range(2))
    return (left * condition ** -torch.linspace(0, 1, size, dtype=torch.float64) @ right).float()


def _stiff(layers: int, condition: float) -> nn.Module:
    """Linear layers of a large condition, each the rough inverse of the one before it."""
    body = nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers)))
    with torch.no_grad():
        for layer in body:
            layer.weight.copy_(ill_conditioned(16, condition))
    return body


def _chain(body: nn.Module, x: Tensor) -> Tensor:
    return body(x)


def _by_columns(body: nn.Module, x: Tensor) -> Tensor:
    """The same product with the batch as columns, its inner axis in two parts."""
    y = x.T
    for layer in body:
        if isinstance(layer, nn.Linear):
            half = layer.in_features // 2
            y = layer.weight[:, half:] @ y[half:] + layer.weight[:, :half] @ y[:half] + layer.bias[:, None]
        else:
            y = layer(y)
    return y.T


def _solved(body: nn.Module, x: Tensor) -> Tensor:
    matrix = body.weight @ body.weight.T + 1e-6 * torch.eye(16, dtype=x.dtype)
    return torch.linalg.solve(matrix, x.tanh().T).T


def _solved_by_cholesky(body: nn.Module, x: Tensor) -> Tensor:
    matrix = body.weight @ body.weight.T + 1e-6 * torch.eye(16, dtype=x.dtype)
    return torch.cholesky_solve(x.tanh().T, torch.linalg.cholesky(matrix)).T


def _deep(layers: int, activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(16, 16), activation())))


def _residual(body: nn.Module, x: Tensor) -> Tensor:
    for layer in body:
        x = x + F.gelu(layer(x)) * 0.3
    return x


def _residual_summed_last(body: nn.Module, x: Tensor) -> Tensor:
    """The residual stream as a base and a sum of branches."""
    total = torch.zeros_like(x)
    for layer in body:
        y = F.linear(x + total, layer.weight) + layer.bias
        total = 0.15 * y * (1 + torch.erf(y * 0.5**0.5)) + total
    return total + x


class ResNet(nn.Module):
    """Two residual blocks with BatchNorm, its statistics kept in its own buffers."""

    def __init__(self, spelt: bool) -> None:
        super().__init__()
        self.spelt = spelt
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1, bias=False) for i in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(5))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self._step(0, x))
        for first in (1, 3):
            x = F.relu(self._step(first + 1, F.relu(self._step(first, x))) + x)
        return self.head(x.flatten(2).mean(-1) if self.spelt else F.adaptive_avg_pool2d(x, 1).flatten(1))

    def _step(self, index: int, x: Tensor) -> Tensor:
        norm, x = self.norms[index], self.convs[index](x)
        if not self.spelt:
            return norm(x)
        if not self.training:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            return x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
        with torch.no_grad():
            count = x.numel() / x.shape[1]
            mean = x.mean((0, 2, 3))
            variance = (x - mean[:, None, None]).square().sum((0, 2, 3)) / (count - 1)
            norm.running_mean.copy_(0.9 * norm.running_mean + 0.1 * mean)
            norm.running_var.copy_(0.9 * norm.running_var + 0.1 * variance)
            norm.num_batches_tracked.add_(1)
        return spelt_batch_norm(x, norm.weight, norm.bias, norm.eps)


def _resnets() -> tuple[nn.Module, nn.Module]:
    left, right = ResNet(False), ResNet(True)
    for norm in left.norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.3, 2.0)
    right.load_state_dict(left.state_dict())
    return left, right


def _tiny_variance(body: nn.Module, x: Tensor) -> Tensor:
    return F.batch_norm(body(x) * 1e-4 + 1.0, None, None, body.bias, body.bias, training=True)


def _tiny_variance_spelt(body: nn.Module, x: Tensor) -> Tensor:
    return spelt_batch_norm((body(x) * 1e-4 + 1.0)[..., None, None], body.bias, body.bias)[..., 0, 0]


def _lstm(body: nn.Module, x: Tensor) -> Tensor:
    return body(x)[0]


def _lstm_by_hand(body: nn.Module, x: Tensor) -> Tensor:
    h = c = torch.zeros(x.shape[0], body.hidden_size, dtype=x.dtype)
    before = x @ body.weight_ih_l0.T + (body.bias_ih_l0 + body.bias_hh_l0)
    outputs = []
    for step in before.unbind(1):
        i, f, g, o = (step + h @ body.weight_hh_l0.T).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 1)


def _gru_by_hand(body: nn.Module, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], body.hidden_size, dtype=x.dtype)
    before, outputs = F.linear(x, body.weight_ih_l0, body.bias_ih_l0), []
    for step in before.unbind(1):
        r_in, z_in, n_in = step.chunk(3, -1)
        r_h, z_h, n_h = F.linear(h, body.weight_hh_l0, body.bias_hh_l0).chunk(3, -1)
        z = torch.sigmoid(z_in + z_h)
        n = torch.tanh(n_in + torch.sigmoid(r_in + r_h) * n_h)
        h = (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs, 1)


def _rnn_by_hand(body: nn.Module, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], body.hidden_size, dtype=x.dtype)
    outputs = []
    for step in x.unbind(1):
        h = torch.tanh(F.linear(torch.cat([step, h], -1), torch.cat([body.weight_ih_l0, body.weight_hh_l0], -1))
                       + body.bias_ih_l0 + body.bias_hh_l0)  # fmt: skip
        outputs.append(h)
    return torch.stack(outputs, 1)


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)


def _encoder_by_hand(body: nn.Module, x: Tensor) -> Tensor:
    attention, y = body.self_attn, body.norm1(x)
    q, k, v = (
        F.linear(y, w, b).unflatten(-1, (4, 4)).transpose(1, 2)
        for w, b in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    )
    x = x + attention.out_proj(spelt_attention(q, k, v).transpose(1, 2).flatten(2))
    return x + body.linear2(F.gelu(body.linear1(body.norm2(x))))


def _embed(body: nn.Module, ids: Tensor) -> Tensor:
    return body(ids) * 4.0


def _embed_by_product(body: nn.Module, ids: Tensor) -> Tensor:
    """One-hot rows times the table; the row at padding_idx gets no gradient."""
    table = body.weight
    padding = (torch.arange(table.shape[0]) == body.padding_idx)[:, None]
    table = torch.where(padding, table.detach(), table)
    return F.one_hot(ids, table.shape[0]).to(table.dtype) @ (4.0 * table)


def _images() -> Tensor:
    return torch.randn(4, 3, 6, 5)


# name -> (the body or both nets, left, right, inputs, whether it is fast)
NETS: dict[str, tuple[Callable[[], Any], Any, Any, Callable[[], Tensor], bool]] = {
    "ill-conditioned layer": (lambda: _stiff(1, 1e6), _chain, _by_columns, lambda: torch.randn(3, 16), True),
    "ill-conditioned layers": (lambda: _stiff(3, 1e6), _chain, _by_columns, lambda: torch.randn(3, 16), True),
    "ill-conditioned solve": (lambda: nn.Linear(16, 16), _solved, _solved_by_cholesky,
        lambda: torch.randn(3, 16), True),
    "60 layers of tanh": (lambda: _deep(60, nn.Tanh), _chain, _by_columns, lambda: torch.randn(2, 16), False),
    "60 layers of relu": (lambda: _deep(60, nn.ReLU), _chain, _by_columns, lambda: torch.randn(2, 16), False),
    "80 residual layers": (lambda: nn.Sequential(*(nn.Linear(16, 16) for _ in range(80))),
        _residual, _residual_summed_last, lambda: torch.randn(2, 16), False),
    "resnet": (_resnets, None, None, _images, False),
    "batch norm of tiny variance": (lambda: nn.Linear(8, 8), _tiny_variance, _tiny_variance_spelt,
        lambda: torch.randn(6, 8), True),
    "lstm of 200 steps": (lambda: nn.LSTM(4, 6, batch_first=True), _lstm, _lstm_by_hand,
        lambda: torch.randn(2, 200, 4), False),
    "gru of 200 steps": (lambda: nn.GRU(4, 6, batch_first=True), _lstm, _gru_by_hand,
        lambda: torch.randn(2, 200, 4), False),
    "rnn of 200 steps": (lambda: nn.RNN(4, 6, batch_first=True), _lstm, _rnn_by_hand,
        lambda: torch.randn(2, 200, 4), False),
    "transformer block": (_encoder, _chain, _encoder_by_hand, lambda: torch.randn(2, 5, 16), True),
    "embedding with padding": (lambda: nn.Embedding(11, 8, padding_idx=2), _embed, _embed_by_product,
        lambda: torch.randint(0, 11, (3, 7)), True),
    "softmax of 100,000": (lambda: nn.Linear(4, 100_000), lambda f, x: F.softmax(f(x), -1),
        lambda f, x: softmax_by_logs(f(x)), lambda: torch.randn(2, 4), False),
    "log softmax of 100,000": (lambda: nn.Linear(4, 100_000), lambda f, x: F.log_softmax(f(x), -1),
        lambda f, x: f(x) - ((f(x) - f(x).amax(-1, True)).exp().sum(-1, True).log() + f(x).amax(-1, True)),
        lambda: torch.randn(2, 4), False),
    "reductions of a million": (lambda: nn.Linear(1, 1000), lambda f, x: _million(f(x)),
        lambda f, x: _million_in_parts(f(x)), lambda: torch.randn(1000, 1), False),
}  # fmt: skip


def _million(y: Tensor) -> tuple[Tensor, ...]:
    return y.sum(), y.mean(), y.square().sum().sqrt(), y.flatten().logsumexp(0), y.var()


def _million_in_parts(y: Tensor) -> tuple[Tensor, ...]:
    rows = y.sum(1)
    mean = rows.sum() / y.numel()
    return (
        rows.flip(0).sum(),
        (y / y.numel()).sum(0).sum(),
        torch.sqrt((y * y).sum(0).sum()),
        y.logsumexp(1).logsumexp(0),
        (y - mean).square().sum(0).sum() / (y.numel() - 1),
    )
