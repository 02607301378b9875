"""The nets that bugs are planted in: small, of parts with known names, every weight moved off its initial value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shapes = Any


class Do(nn.Module):
    """A function as a part with a name of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: Tensor) -> Any:
        return self.function(*xs)


class Vision(nn.Module):
    """(b, 2, 12, 16) -> (b, 3): strided and grouped convolution, batch norm, pooling, channel shuffle, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, (3, 5), 2, (1, 2), bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.mix = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.shuffle = Do(lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2))
        self.flatten = nn.Flatten()
        self.head = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x)) - 1.0
        return self.head(self.flatten(self.shuffle(self.mix(x))))


class Pools(nn.Module):
    """(b, 2, h, w) -> (b, 4): overlapping max and average pooling, the mean over what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(2, 4, 1)
        self.high = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(3, 2, 1)
        self.wide = nn.Conv2d(4, 4, (3, 5), padding=(1, 2))
        self.mean = Do(lambda x: x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        return self.mean(torch.sigmoid(self.wide(self.high(x)))) + self.mean(torch.sigmoid(self.average(x)))


class Resizes(nn.Module):
    """(b, 2, 4, 5) -> (b, 3, 7, 9): one image enlarged in four ways, then deconvolved."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Upsample((7, 9), mode="bilinear")
        self.aligned = nn.Upsample((7, 9), mode="bilinear", align_corners=True)
        self.bicubic = nn.Upsample((7, 9), mode="bicubic")
        self.nearest = nn.Upsample((7, 9), mode="nearest")
        self.exact = nn.Upsample((7, 9), mode="nearest-exact")
        self.drop = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bilinear(x) + 0.7 * self.bicubic(x) - 0.6 * self.aligned(x)
        return self.drop(y + 0.8 * self.nearest(x) - 1.3 * self.exact(x))


class Mlp(nn.Module):
    """(b, 6) -> (b, 4): linear layers, one of them square, and an activation of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.gelu = nn.GELU()
        self.leaky = nn.LeakyReLU(0.01)
        self.elu = nn.ELU(0.7)
        self.celu = nn.CELU(0.5)
        self.softplus = nn.Softplus(2.0)
        self.hardswish = nn.Hardswish()
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gelu(self.norm(self.square(x))) + self.leaky(x)
        y = y - self.elu(x) + self.celu(x) * 0.3 + self.softplus(x.flip(-1)) - self.hardswish(x)
        return self.head(self.dropout(y))


class Attention(nn.Module):
    """(b, t, 8) -> (b, t, 8): causal self-attention of two heads with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.rotary = Rotary()
        self.scale = Do(lambda x: x / 2.0)
        self.mask = Causal()
        self.softmax = nn.Softmax(-1)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, t = x.shape[0], x.shape[1]
        q, k, v = (f(x).reshape(b, t, 2, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = self.mask(self.scale(self.rotary(q) @ self.rotary(k).transpose(-1, -2)))
        return self.out((self.softmax(scores) @ v).transpose(1, 2).reshape(b, t, 8))


class Rotary(nn.Module):
    """Each half of the last axis turned by the position."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("speed", torch.tensor([0.9, 0.31]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * self.speed
        angle = torch.cat([angle, angle], -1)
        half = torch.cat([-x[..., 2:], x[..., :2]], -1)
        return x * angle.cos() + half * angle.sin()


class Causal(nn.Module):
    """Scores with the future at minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[-1]
        return x.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))


class Masked(nn.Module):
    """x (b, t, 4), mask (b, t) bool -> (b, 4): attention pooling over what is not masked."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 1)
        self.mask = Do(lambda s, m: s.masked_fill(~m, float("-inf")))
        self.softmax = nn.Softmax(-1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        weight = self.softmax(self.mask(self.score(x).squeeze(-1), mask))
        return (weight.unsqueeze(-1) * x).sum(1)


class Tokens(nn.Module):
    """ids (b, t) -> logits (b, t, 7): scaled embedding with a padding row, positions, tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=0)
        self.scale = Do(lambda x: x * 6.0**0.5)
        self.positions = nn.Parameter(torch.zeros(16, 6))
        self.inner = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.scale(self.embed(ids)) + self.positions[: ids.shape[1]]
        return self.head(self.norm(x + torch.tanh(self.inner(x))))


class Gru(nn.Module):
    """(b, t, 3) -> (b, t, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0])


class Lstm(nn.Module):
    """(b, t, 3) -> (b, t, 2): both directions, a learned initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, batch_first=True, bidirectional=True)
        self.first = nn.Parameter(torch.zeros(2, 1, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = self.first.expand(2, x.shape[0], 2)
        return self.head(self.lstm(x, (state, state * 0.5))[0])


class Norms(nn.Module):
    """(b, 5) -> ((b, 5), (b, 5), (b, 5)): what divides by a root or a norm, and logarithms of softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(5, 5)
        self.rms = Rms()
        self.unit = Do(lambda x: F.normalize(x, dim=-1))
        self.logits = nn.LogSoftmax(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.rms(x), self.unit(x), self.logits(self.lift(x))


class Rms(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Ties(nn.Module):
    """(b, 6) -> (b, 6): everything whose gradient at ties and bounds is a convention."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(6, 6)
        self.relu = nn.ReLU()
        self.clamp = Do(lambda x: x.clamp(-1.0, 1.5))
        self.amax = Do(lambda x: x.amax(-1, keepdim=True))
        self.max = Do(lambda x: x.max(0, keepdim=True).values)
        self.abs = Do(torch.abs)
        self.where = Do(lambda x: torch.where(x > 0.5, x, 0.2 * x))
        self.larger = Do(lambda x: torch.maximum(x, x.flip(-1)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x) + self.clamp(x) * 0.7 - 0.4 * self.amax(x) + 0.3 * self.max(x)
        return self.lift(x) + y + 0.9 * self.abs(x) - self.where(x) + 1.1 * self.larger(x)


class Order(nn.Module):
    """(b, t, 4) -> (b, t, 4): ops that are off by one if anything is."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.running = Do(lambda x: x.cumsum(1))
        self.roll = Do(lambda x: x.roll(1, 1))
        self.late = Do(lambda x: x[:, :, 1:3].repeat(1, 1, 2))
        self.last = Do(lambda x: x.select(1, -1).unsqueeze(1))
        self.mean = Do(lambda x: x.sum(1, keepdim=True) / x.shape[1])
        self.place = Do(lambda x: torch.arange(x.shape[1], dtype=torch.float32)[None, :, None] * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        y = self.running(x) + 0.7 * self.roll(x) + 0.3 * self.late(x)
        return y + 0.2 * self.last(x) - 0.9 * self.mean(x) + self.place(x)


class Integers(nn.Module):
    """n (b, 4) int64 -> (floats (b, 4), integers (b, 4), (b,)): division, promotion, indices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.halved = Do(lambda n: n / 2)
        self.thirds = Do(lambda n: torch.div(n, 3, rounding_mode="floor"))
        self.rest = Do(lambda n: n % 3)
        self.mean = Do(lambda n: n.to(torch.float32).mean(-1, keepdim=True))
        self.best = Do(lambda n: n.argmax(-1))

    def forward(self, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (self.halved(n) + self.mean(n)) * self.weight, self.thirds(n) * 10 + self.rest(n), self.best(n)


class Numerics(nn.Module):
    """(b, 4) -> (b, 4) seven times and (b,): functions that overflow, lose digits, or meet NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(4, 4)
        self.exp = Do(torch.exp)
        self.small = Do(lambda x: torch.expm1(x * 1e-4))
        self.log = Do(lambda x: torch.log1p(x * x * 1e-6))
        self.beside = Do(lambda x: torch.cat([x[:, :1].cos(), x[:, 1:] * 1e-6], -1))
        self.grown = Do(torch.expm1)
        self.slow = Do(lambda x: torch.log1p(x.abs()))
        self.pooled = Do(lambda x: torch.logsumexp(x, -1))
        self.whole = Do(lambda x: x.to(torch.int32).to(torch.float32))
        self.root = Do(lambda x: torch.maximum(torch.sqrt(x.detach()), x * 0.1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.beside(x)
        tiny, grown = (self.small(x), self.log(x)), (self.grown(y), self.slow(y))
        return self.exp(x), *tiny, self.pooled(self.lift(x)), self.root(x), self.whole(x), *grown


class Several(nn.Module):
    """(b, 4) -> {"left", "right" (b, 4), "square" (4, 4), "total" ()}: detached path, frozen weight, own buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.left.weight.requires_grad_(False)
        self.norm = nn.BatchNorm1d(4, momentum=0.3)
        self.register_buffer("seen", torch.tensor([0.5, 0.1, -0.2, 0.3]))
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.outer = Do(lambda x, y: x.transpose(0, 1) @ y)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        left = self.left(x) * self.scale
        if self.training:
            with torch.no_grad():
                self.seen.mul_(0.9).add_(x.mean(0) * 0.1)
        right = self.norm(self.right(x) - left.detach()) + self.seen
        return {"left": left + right, "right": right, "square": self.outer(torch.tanh(left), x), "total": right.mean()}


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...] | str, ...], Shapes]] = {
    "vision": (Vision, ((2, 2, 12, 16),), None),
    "pools": (Pools, ((2, 2, 7, 9),), {"x": {0: "b", 2: "h", 3: "w"}}),
    "resizes": (Resizes, ((2, 2, 4, 5),), None),
    "mlp": (Mlp, ((3, 6),), None),
    "attention": (Attention, ((2, 4, 8),), {"x": {0: "b", 1: "t"}}),
    "masked": (Masked, ((2, 4, 4), "mask 2 4"), {"x": {0: "b", 1: "t"}, "mask": {0: "b", 1: "t"}}),
    "tokens": (Tokens, ("ids 7 2 4",), {"ids": {0: "b", 1: "t"}}),
    "gru": (Gru, ((2, 4, 3),), None),
    "lstm": (Lstm, ((2, 4, 3),), None),
    "norms": (Norms, ((3, 5),), None),
    "ties": (Ties, ((3, 6),), None),
    "order": (Order, ((2, 4, 4),), {"x": {0: "b", 1: "t"}}),
    "integers": (Integers, ("integers 3 4",), None),
    "numerics": (Numerics, ((3, 4),), None),
    "several": (Several, ((3, 4),), None),
}  # fmt: skip


def make(name: str) -> nn.Module:
    """The net with every parameter and running statistic moved off its initial value; the same every time."""
    factory, _, _ = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = factory()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            for buffer_name, buffer in net.named_buffers():
                if buffer_name.endswith("running_mean"):
                    buffer.normal_()
                elif buffer_name.endswith("running_var"):
                    buffer.uniform_(0.3, 2.0)
    return net


def example(name: str) -> tuple[Tensor, ...]:
    """Example inputs of the net."""
    generator = torch.Generator().manual_seed(1)

    def tensor(spec: tuple[int, ...] | str) -> Tensor:
        if not isinstance(spec, str):
            return torch.randn(spec, generator=generator)
        kind, *sizes = spec.split()
        numbers = [int(size) for size in sizes]
        if kind == "mask":
            mask = torch.rand(numbers, generator=generator) < 0.3
            mask[:, 0] = True
            return mask
        if kind == "integers":
            return torch.randint(-9, 10, numbers, generator=generator)
        return torch.randint(0, numbers[0], numbers[1:], generator=generator)

    return tuple(tensor(spec) for spec in MODELS[name][1])


def dynamic_shapes(name: str) -> Shapes:
    """The dims that vary, None for axis 0."""
    return MODELS[name][2]
