"""A torch net and its hand-made Keras twin behind a hand-made Conversion: honest, or with one planted bug.

The verdict is tested against it, so that its tests depend on no part of the converter but the weight entries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import torch
from keras import ops
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, CLASSES = 6, 4
PERMUTATION = (0, 2, 3, 1)


class Net(nn.Module):
    """(b, 3, h, w) -> (logits (b, 4), features (b, 6)): Conv, BatchNorm, ReLU, Dropout, mean, Linear, LeakyReLU, GELU,
    Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.bn = nn.BatchNorm2d(CHANNELS, momentum=0.2)
        self.square = nn.Linear(CHANNELS, CHANNELS)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.dropout(F.relu(self.bn(self.conv(x))), 0.4, self.training)
        features = F.gelu(F.leaky_relu(self.square(x.mean((2, 3))), 0.1))
        return self.head(features), features


def make_net(seed: int = 0) -> Net:
    """The net with every parameter and running statistic moved off its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            net.bn.running_mean.normal_()
            net.bn.running_var.uniform_(0.3, 2.0)
    return net


def mean_over(x: Any, axes: tuple[int, ...]) -> Any:
    """keras.ops.mean computes in float32 on the JAX backend, also of float64 (Keras 3.15)."""
    return ops.sum(x, axes) / ops.cast(ops.prod([ops.shape(x)[axis] for axis in axes]), x.dtype)


class TwinModel(keras.Model):
    """The same function in keras.ops, channels last. `fault` names the planted bug, "" for none."""

    def __init__(self, shapes: Mapping[str, tuple[tuple[int, ...], str, bool]], fault: str, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.fault, self.masks = fault, None
        self.held = {
            name: self.add_weight(
                shape=shape,
                dtype=kind,
                trainable=trainable,
                name=name.replace(".", "_"),
                initializer="zeros",
                autocast=False,
            )
            for name, (shape, kind, trainable) in shapes.items()
        }
        self.seeds = keras.random.SeedGenerator(0)
        self.built = True

    def call(self, x: Any, training: bool = False) -> Any:
        fault, w = self.fault, self.held
        bias = w["conv.bias"] if fault != "missing bias" else 0.0
        bias = ops.stop_gradient(bias) if fault == "stop_gradient" else bias
        x = ops.conv(x, w["conv.weight"], padding="same", data_format="channels_last") + bias
        if fault == "shifted":
            x = ops.roll(x, 1, axis=2)
        x = ops.relu(self._batch_norm(x, training))
        if training and fault != "dropout off":
            keep = (
                self.masks[0]
                if self.masks
                else keras.random.uniform(ops.shape(x), dtype=x.dtype, seed=self.seeds) < 0.6
            )
            x = x * ops.cast(keep, x.dtype) / (1.0 if fault == "dropout scale" else 0.6)
        x = mean_over(x, (1, 2))
        square = w["square.weight"]
        x = ops.matmul(x, ops.transpose(square) if fault == "transposed weight" else square) + w["square.bias"]
        slope = {"leaky slope": 0.3, "float32 slope": float(np.float32(0.1))}.get(fault, 0.1)
        x = ops.where(x > 0, x, slope * x)
        if fault == "gelu tanh":
            features = 0.5 * x * (1 + ops.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        else:
            features = 0.5 * x * (1 + ops.erf(x * float(np.sqrt(0.5))))
        if fault == "float32 inside":
            features = ops.cast(ops.cast(features, "float32"), features.dtype)
        logits = ops.matmul(features, w["head.weight"]) + w["head.bias"]
        if fault == "coarse":
            logits = ops.cast(ops.cast(logits, "bfloat16"), logits.dtype) if logits.dtype == "float32" else logits
        if fault == "output order":
            return [features, logits]
        if fault == "dtype":
            return [ops.cast(logits, "float16"), features]
        if fault == "batch baked":
            return [ops.reshape(logits, (2, CLASSES)), features]
        return [logits] if fault == "missing output" else [logits, features]

    def _batch_norm(self, x: Any, training: bool) -> Any:
        fault, w = self.fault, self.held
        mean, variance = w["bn.running_mean"].value, w["bn.running_var"].value
        if training and fault != "running statistics":
            count = ops.cast(ops.prod(ops.shape(x)[:3]), x.dtype)
            mean = mean_over(x, (0, 1, 2))
            variance = mean_over((x - mean) ** 2, (0, 1, 2))
            unbiased = variance if fault == "biased variance" else variance * count / (count - 1)
            momentum = 0.8 if fault == "swapped momentum" else 0.2
            if fault != "buffer not updated":
                for name, new in (("bn.running_mean", mean), ("bn.running_var", unbiased)):
                    w[name].assign((1 - momentum) * w[name] + momentum * new)
            w["bn.num_batches_tracked"].assign(w["bn.num_batches_tracked"] + 1)
        epsilon = 1e-3 if fault == "epsilon" else 1e-5
        return (x - mean) / ops.sqrt(variance + epsilon) * w["bn.weight"] + w["bn.bias"]


@dataclass(frozen=True)
class Port:
    """As the converter's: name, dtype, torch-side dims, and p with keras_array = torch_array.transpose(p)."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    permutation: tuple[int, ...] | None = None

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        return array if self.permutation is None else array.transpose(self.permutation)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return array if self.permutation is None else array.transpose(np.argsort(self.permutation))


@dataclass(frozen=True)
class Entry:
    """As the converter's weight entry."""

    torch_name: str
    variable: Any
    kind: str
    trainable: bool
    tied_to: str | None
    axes: tuple[int, ...]

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        return np.transpose(array, self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        return np.transpose(array, np.argsort(self.axes))


@dataclass(frozen=True)
class Site:
    index: int
    layer: str
    op: str


AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,), 0: ()}


class TwinConversion:
    """What `to_keras` would return for `Net`."""

    def __init__(self, net: Net, fault: str = "", dtype: str = "float32") -> None:
        self._net, self._fault = net, fault
        state = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
        trainable = {name for name, p in net.named_parameters() if p.requires_grad}
        if fault == "frozen":
            trainable.discard("head.bias")
        if fault == "thawed":
            trainable.add("conv.weight")
        shapes = {
            name: (
                tuple(np.transpose(a, AXES[a.ndim]).shape),
                dtype if a.dtype.kind == "f" else "int64",
                name in trainable,
            )
            for name, a in state.items()
        }
        self.model = TwinModel(shapes, fault, dtype)
        entries = [
            Entry(
                name, self.model.held[name], "parameter" if name in dict(net.named_parameters()) else "buffer",
                name in trainable, None, AXES[state[name].ndim],
            )
            for name in state
            if not (fault == "missing entry" and name == "bn.bias")
        ]  # fmt: skip
        self.weights = tuple(entries)
        for name, array in state.items():
            self.model.held[name].assign(np.transpose(array, AXES[array.ndim]))
        if fault == "wrong value":
            self.model.held["square.bias"].assign(np.zeros(CHANNELS))
        self.inputs = (Port("x", dtype, ("b", 3, "h", "w"), PERMUTATION),)
        self.outputs = (Port("output_0", dtype, ("b", CLASSES)), Port("output_1", dtype, ("b", CHANNELS)))
        if fault == "missing output":
            self.outputs = self.outputs[:1]
        self.output_structure = (0,) if fault == "missing output" else (0, 1)
        self.random_sites = (
            () if fault in ("dropout off", "site lost") else (Site(0, "dropout", "aten.dropout.default"),)
        )

    def flatten_outputs(self, result: Any) -> list[Any]:
        return list(result)

    @contextlib.contextmanager
    def replay(self, draws: Mapping[int, np.ndarray]) -> Iterator[None]:
        self.model.masks = [np.transpose(draws[0], PERMUTATION)]
        try:
            yield
        finally:
            self.model.masks = None

    def with_dtype(self, dtype: str) -> TwinConversion:
        twin = TwinConversion(self._net, self._fault, dtype)
        for mine, other in zip(self.weights, twin.weights, strict=True):
            other.variable.assign(np.asarray(mine.variable))
        return twin
