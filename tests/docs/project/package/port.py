"""The same network, ported to Keras by hand. Keras' BatchNormalization has another default epsilon than PyTorch's, and
moves its running variance by the biased variance of the batch."""

from __future__ import annotations

from typing import Any

import keras
import torch

from package.net import Net


def build(epsilon: float = 1e-5) -> Any:
    """With the weights of the PyTorch net of seed 0."""
    image = keras.Input((32, 32, 3), name="x")
    y = keras.layers.ZeroPadding2D(1)(image)
    y = keras.layers.Conv2D(8, 3, strides=2, name="conv")(y)
    y = keras.layers.BatchNormalization(epsilon=epsilon, momentum=0.9, name="norm")(y)
    y = keras.ops.mean(keras.ops.relu(y), axis=(1, 2))
    y = keras.layers.Dense(10, name="head")(keras.layers.Dropout(0.1)(y))
    model = keras.Model(image, y, name="port")
    torch.manual_seed(0)
    net = Net()
    model.get_layer("conv").set_weights([net.conv.weight.detach().permute(2, 3, 1, 0).numpy(), net.conv.bias.detach()])
    model.get_layer("norm").set_weights([t.detach().numpy() for t in (
        net.norm.weight, net.norm.bias, net.norm.running_mean, net.norm.running_var)])  # fmt: skip
    model.get_layer("head").set_weights([net.head.weight.detach().T.numpy(), net.head.bias.detach()])
    return model


def keras_net() -> Any:
    """A right port, of what the model answers and of its gradients."""
    return build()


def forgetful() -> Any:
    """A port that keeps Keras' own epsilon."""
    return build(epsilon=1e-3)
