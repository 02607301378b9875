"""A Keras model and the torch module it becomes, written by hand: what the check of the way back is tested on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from isomorph.convert.conversion import Port
from isomorph.convert.weights import Transform, WeightEntry

KERNEL = Transform((("transpose", (2, 3, 1, 0), ()),))  # torch's (out, in, h, w) to Keras' (h, w, in, out)
MATRIX = Transform((("transpose", (1, 0), ()),))


def keras_net(rate: float = 0.5, frozen: bool = False) -> Any:
    """Convolution, normalisation, dropout and a dense layer on (6, 6, 2), statistics and weights off their defaults."""
    keras.utils.set_random_seed(3)
    x = keras.Input((6, 6, 2), name="image")
    h = keras.layers.Conv2D(3, 3, padding="same", name="conv")(x)
    h = keras.layers.BatchNormalization(name="norm", momentum=0.9)(h)
    h = keras.layers.Activation("tanh")(h)
    h = keras.layers.Flatten()(h)
    h = keras.layers.Dropout(rate, name="dropout")(h)
    model = keras.Model(x, keras.layers.Dense(4, name="head")(h))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" not in variable.name:
            variable.assign(rng.uniform(0.5, 1.0, variable.shape) * 0.4)
    model.get_layer("conv").trainable = not frozen
    return model


class Norm(nn.BatchNorm2d):
    """With Keras' update of the running variance: that of the batch, not its unbiased estimate."""

    population = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.population:
            return super().forward(x)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


class Net(nn.Module):
    """The module, channels first. It flattens in Keras' order."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = Norm(3, eps=1e-3, momentum=0.1)
        self.dropout = nn.Dropout(rate)
        self.head = nn.Linear(108, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.norm(self.conv(image)))
        return self.head(self.dropout(h.permute(0, 2, 3, 1).flatten(1)))


NAMES = {
    "conv/kernel": ("conv.weight", KERNEL),
    "conv/bias": ("conv.bias", Transform()),
    "norm/gamma": ("norm.weight", Transform()),
    "norm/beta": ("norm.bias", Transform()),
    "norm/moving_mean": ("norm.running_mean", Transform()),
    "norm/moving_variance": ("norm.running_var", Transform()),
    "head/kernel": ("head.weight", MATRIX),
    "head/bias": ("head.bias", Transform()),
}


def torch_conversion(model: Any, rate: float = 0.5, net: nn.Module | None = None) -> Any:
    """What `to_torch` is to return for `keras_net`: duck-typed, so that nothing of the importer is needed."""
    net = net or Net(rate)
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    entries = []
    for variable in model.variables:
        if variable.path not in NAMES:
            continue
        name, transform = NAMES[variable.path]
        with torch.no_grad():
            tensors[name].copy_(torch.from_numpy(transform.to_torch(np.asarray(variable)).copy()))
        tensors[name].requires_grad_(variable.trainable)
        kind = "buffer" if "moving" in variable.path else "parameter"
        entries.append(
            WeightEntry(name, tensors[name], kind, variable.trainable, None, transform, (variable.path,), "float32")
        )
    return SimpleNamespace(
        module=net, weights=tuple(entries), report={},
        inputs=(Port("image", "float32", ("batch", 2, 6, 6), (0, 2, 3, 1)),),
        outputs=(Port("head", "float32", ("batch", 4)),),
    )  # fmt: skip
