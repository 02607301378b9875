"""Models ported by hand, as people do it: renamed, in another layout, fused or split, with the weights carried over.

`TORCH` are ports within torch, `KERAS` to Keras layers. Each entry makes (original, example inputs, port).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, tuple[Tensor, ...], Any]


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def vary(module: nn.Module) -> nn.Module:
    """Values as after training: no scale of exactly 1, no bias of exactly 0."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.mul_(1 + 0.3 * torch.rand_like(tensor)).add_(0.1 * torch.rand_like(tensor))
    return module


# --- within torch -------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class MlpByHand(nn.Module):
    def __init__(self, one: Mlp) -> None:
        super().__init__()
        self.w1 = nn.Parameter(one.first.weight.detach().T.clone())
        self.b1 = nn.Parameter(one.first.bias.detach().clone())
        self.w0 = nn.Parameter(one.second.weight.detach().T.clone())
        self.b0 = nn.Parameter(one.second.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs @ self.w1 + self.b1).tanh() @ self.w0 + self.b0


def mlp() -> Made:
    one = Mlp()
    return one, (torch.randn(3, 6),), MlpByHand(one)


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 5 * 6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


class CnnChannelsLast(nn.Module):
    """NHWC outside and in the flattened features; HWIO kernels."""

    def __init__(self, one: Cnn) -> None:
        super().__init__()
        self.kernel = nn.Parameter(one.conv.weight.detach().permute(2, 3, 1, 0).clone())
        self.conv_bias = nn.Parameter(one.conv.bias.detach().clone())
        self.bn = nn.BatchNorm2d(4)
        self.bn.load_state_dict(one.norm.state_dict())
        weight = one.head.weight.detach().reshape(7, 4, 5, 6).permute(2, 3, 1, 0).reshape(-1, 7)
        self.dense = nn.Parameter(weight.clone())
        self.dense_bias = nn.Parameter(one.head.bias.detach().clone())

    def forward(self, image: Tensor) -> Tensor:
        y = F.conv2d(image.permute(0, 3, 1, 2), self.kernel.permute(3, 2, 0, 1), self.conv_bias, padding=1)
        y = torch.relu(self.bn(y)).permute(0, 2, 3, 1).flatten(1)
        return y @ self.dense + self.dense_bias


def cnn() -> Made:
    one = Cnn()
    vary(one)
    return one, (torch.randn(2, 3, 5, 6),), CnnChannelsLast(one)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class AttentionSplit(nn.Module):
    """q, k and v by einsum, heads apart."""

    def __init__(self, one: nn.MultiheadAttention) -> None:
        super().__init__()
        for i, name in enumerate(("v", "k", "q")):
            part = slice(16 - 8 * i, 24 - 8 * i)
            self.register_parameter(name, nn.Parameter(one.in_proj_weight.detach()[part].T.reshape(8, 2, 4).clone()))
            self.register_parameter(f"{name}_bias", nn.Parameter(one.in_proj_bias.detach()[part].reshape(2, 4).clone()))
        self.o = nn.Parameter(one.out_proj.weight.detach().T.reshape(2, 4, 8).clone())
        self.o_bias = nn.Parameter(one.out_proj.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            torch.einsum("bte,ehd->bthd", x, w) + b
            for w, b in ((self.q, self.q_bias), (self.k, self.k_bias), (self.v, self.v_bias))
        )
        weights = torch.softmax(torch.einsum("bthd,bshd->bhts", q, k) / 2.0, -1)
        return torch.einsum("bhts,bshd,hde->bte", weights, v, self.o) + self.o_bias


def attention() -> Made:
    one = Attention()
    vary(one)
    return one, (torch.randn(2, 3, 8),), AttentionSplit(one.attention)


class Separate(nn.Module):
    """Three projections, which the port fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.q(x) * self.k(x), -1) * self.v(x)


class Fused(nn.Module):
    def __init__(self, one: Separate) -> None:
        super().__init__()
        layers = one.q, one.k, one.v
        self.qkv = nn.Parameter(torch.cat([layer.weight.detach().T for layer in layers], 1))
        self.qkv_bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x @ self.qkv + self.qkv_bias).chunk(3, -1)
        return torch.softmax(q * k, -1) * v


def fused() -> Made:
    one = Separate()
    return one, (torch.randn(3, 6),), Fused(one)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(self.embed(ids))))


class TiedByHand(nn.Module):
    def __init__(self, one: Tied) -> None:
        super().__init__()
        self.table = nn.Parameter(one.embed.weight.detach().T.clone())
        self.w, self.b = nn.Parameter(one.mix.weight.detach().clone()), nn.Parameter(one.mix.bias.detach().clone())

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.relu(F.linear(self.table.T[tokens], self.w, self.b)) @ self.table


def tied() -> Made:
    one = Tied()
    return one, (torch.randint(0, 11, (2, 5)),), TiedByHand(one)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        return {"sum": self.left(image) + self.right(text), "product": self.left(image) * self.right(text)}


class TwoInputsTurned(nn.Module):
    """The other order of inputs, and of the names of the outputs."""

    def __init__(self, one: TwoInputs) -> None:
        super().__init__()
        self.one = nn.Linear(3, 5)
        self.one.load_state_dict(one.right.state_dict())
        self.two = nn.Linear(4, 5)
        self.two.load_state_dict(one.left.state_dict())

    def forward(self, text: Tensor, image: Tensor) -> dict[str, Tensor]:
        return {"product": self.one(text) * self.two(image), "sum": self.one(text) + self.two(image)}


def two_inputs() -> Made:
    one = TwoInputs()
    return one, (torch.randn(2, 4), torch.randn(2, 3)), TwoInputsTurned(one)


class Squares(nn.Module):
    """Layers of one shape, square, with zero biases: nothing but values and order tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(5) for _ in range(4))
        for layer in self.layers:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(torch.tanh(layer(x)))
        return x


class SquaresByHand(nn.Module):
    """Biases apart from their matrices, in the other order."""

    def __init__(self, one: Squares) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(nn.Parameter(layer.weight.detach().T.clone()) for layer in one.layers)
        self.scales = nn.ParameterList(nn.Parameter(norm.weight.detach().clone()) for norm in one.norms)
        self.offsets = nn.ParameterList(nn.Parameter(norm.bias.detach().clone()) for norm in one.norms)
        self.biases = nn.ParameterList(nn.Parameter(layer.bias.detach().clone()) for layer in one.layers)

    def forward(self, x: Tensor) -> Tensor:
        for w, b, s, o in zip(self.matrices, self.biases, self.scales, self.offsets, strict=True):
            x = F.layer_norm(torch.tanh(x @ w + b), (5,), s, o)
        return x


def squares() -> Made:
    one = Squares()
    return one, (torch.randn(3, 5),), SquaresByHand(one)


# --- to Keras layers ----------------------------------------------------------------------------------------------


def keras_mlp() -> Made:
    one = Mlp()
    x = keras.Input((6,))
    first, second = keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(4)
    port = keras.Model(x, second(first(x)))
    for layer, source in ((first, one.first), (second, one.second)):
        layer.set_weights([array(source.weight).T, array(source.bias)])
    return one, (torch.randn(3, 6),), port


def _batch_norm(layer: Any, norm: Any) -> None:
    layer.set_weights([array(t) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)])


class Separable(nn.Module):
    """Depthwise with multiplier 2, pointwise, grouped; batch norms as they are initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2)
        self.head = nn.Linear(6 * 2 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.depthwise(x)))
        return self.head(self.grouped(torch.relu(self.norm2(self.pointwise(x)))).flatten(1))


def keras_cnn(varied: bool = True) -> Made:
    one = Separable()
    if varied:
        vary(one)
    x = keras.Input((6, 7, 4), name="image")
    layers = keras.layers
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)
    norm1, norm2 = (layers.BatchNormalization(momentum=0.9, epsilon=1e-5) for _ in range(2))
    pointwise = layers.Conv2D(8, 1, use_bias=False)
    grouped = layers.Conv2D(6, 3, groups=2)
    head = layers.Dense(5)
    y = layers.ReLU()(norm1(depthwise(x)))
    port = keras.Model(x, head(layers.Flatten()(grouped(layers.ReLU()(norm2(pointwise(y)))))))
    depthwise.set_weights([array(one.depthwise.weight).reshape(4, 2, 3, 3).transpose(2, 3, 0, 1)])
    _batch_norm(norm1, one.norm1)
    _batch_norm(norm2, one.norm2)
    pointwise.set_weights([array(one.pointwise.weight).transpose(2, 3, 1, 0)])
    grouped.set_weights([array(one.grouped.weight).transpose(2, 3, 1, 0), array(one.grouped.bias)])
    weight = array(one.head.weight).reshape(5, 6, 2, 3).transpose(2, 3, 1, 0).reshape(-1, 5)
    head.set_weights([weight, array(one.head.bias)])
    return one, (torch.randn(2, 4, 6, 7),), port


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = (nn.LSTM if kind == "lstm" else nn.GRU)(3, 4, num_layers=2, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


def keras_rnn(kind: str, zero: bool = False) -> Made:
    one = Recurrent(kind)
    if zero:
        for name, parameter in one.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
    x = keras.Input((5, 3))
    make = keras.layers.LSTM if kind == "lstm" else keras.layers.GRU
    rnns = [make(4, return_sequences=True) for _ in range(2)]
    out = keras.layers.Dense(2)
    port = keras.Model(x, out(rnns[1](rnns[0](x))))
    gates = np.arange(16) if kind == "lstm" else np.r_[4:8, 0:4, 8:12]  # i f g o; z r h of r z n
    for index, layer in enumerate(rnns):
        w, u, b, c = (
            array(getattr(one.rnn, f"{name}_l{index}"))[gates]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        layer.set_weights([w.T, u.T, b + c if kind == "lstm" else np.stack([b, c])])
    out.set_weights([array(one.out.weight).T, array(one.out.bias)])
    return one, (torch.randn(2, 5, 3),), port


def keras_attention(varied: bool = True) -> Made:
    one = Attention()
    if varied:
        vary(one)
    x = keras.Input((3, 8))
    layer = keras.layers.MultiHeadAttention(2, 4)
    port = keras.Model(x, layer(x, x))
    weight, bias = array(one.attention.in_proj_weight), array(one.attention.in_proj_bias)
    values = []
    for i in range(3):
        values += [weight[8 * i : 8 * i + 8].T.reshape(8, 2, 4), bias[8 * i : 8 * i + 8].reshape(2, 4)]
    out = one.attention.out_proj
    layer.set_weights([*values, array(out.weight).T.reshape(2, 4, 8), array(out.bias)])
    return one, (torch.randn(2, 3, 8),), port


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.body(x))
        return self.a(y), self.b(y)


def keras_two_outputs() -> Made:
    """A tuple becomes a dict with names of its own."""
    one = TwoOutputs()
    x = keras.Input((4,))
    body, a, b = keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3), keras.layers.Dense(2)
    y = body(x)
    port = keras.Model(x, {"first": a(y), "second": b(y)})
    for layer, source in ((body, one.body), (a, one.a), (b, one.b)):
        layer.set_weights([array(source.weight).T, array(source.bias)])
    return one, (torch.randn(3, 4),), port


def keras_two_inputs() -> Made:
    """By name, in the other order; the outputs' names are the original's."""
    one = TwoInputs()
    text, image = keras.Input((3,), name="text"), keras.Input((4,), name="image")
    right, left = keras.layers.Dense(5), keras.layers.Dense(5)
    r, i = right(text), left(image)
    port = keras.Model([text, image], {"product": i * r, "sum": i + r})
    for layer, source in ((left, one.left), (right, one.right)):
        layer.set_weights([array(source.weight).T, array(source.bias)])
    return one, (torch.randn(2, 4), torch.randn(2, 3)), port


def keras_tied() -> Made:
    one = Tied()
    ids = keras.Input((5,), dtype="int32", name="ids")
    table, mix = keras.layers.ReversibleEmbedding(11, 6, tie_weights=True), keras.layers.Dense(6, activation="relu")
    port = keras.Model(ids, table(mix(table(ids)), reverse=True))
    table.set_weights([array(one.embed.weight)])
    mix.set_weights([array(one.mix.weight).T, array(one.mix.bias)])
    return one, (torch.randint(0, 11, (2, 5)),), port


TORCH: Mapping[str, Callable[[], Made]] = {
    "mlp": mlp, "cnn": cnn, "attention": attention, "fused": fused, "tied": tied, "two inputs": two_inputs,
    "squares": squares,
}  # fmt: skip
KERAS: Mapping[str, Callable[[], Made]] = {
    "mlp": keras_mlp,
    "cnn": keras_cnn,
    "cnn as initialised": lambda: keras_cnn(varied=False),
    "lstm": lambda: keras_rnn("lstm"),
    "gru": lambda: keras_rnn("gru"),
    "gru with zero biases": lambda: keras_rnn("gru", zero=True),
    "lstm with zero biases": lambda: keras_rnn("lstm", zero=True),
    "attention": keras_attention,
    "attention as initialised": lambda: keras_attention(varied=False),
    "two outputs": keras_two_outputs,
    "two inputs": keras_two_inputs,
    "tied": keras_tied,
}
