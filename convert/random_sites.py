"""Where a model draws random numbers in train mode, numbered in the order of the torch program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ir import Node, by_mode
from .rules.registry import RULES


@dataclass(frozen=True)
class RandomSite:
    """One draw: `layer` makes it. `perm` is the order in which the layer's tensor lies (`layout.Placed`)."""

    index: int
    layer: Any
    op: str
    perm: tuple[int, ...]


def draws_of(node: Node) -> int:
    """How many random tensors the node draws in train mode."""
    rule = RULES.get(node.op)
    if rule is None or not rule.random:
        return 0
    args = [by_mode(a, True) for a in node.args]
    if node.op in (
        "aten.dropout.default",
        "aten.native_dropout.default",
        "aten.feature_dropout.default",
        "aten.alpha_dropout.default",
    ):
        return int(bool(args[1]) and args[2] is not False)
    if node.op == "aten.scaled_dot_product_attention.default":
        return int(bool(args[4]))
    if node.op in ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input"):
        layers, dropout, train = args[4], args[5], args[6]
        return int(layers) - 1 if dropout and train else 0
    return 1


@contextlib.contextmanager
def recording(sites: tuple[RandomSite, ...]) -> Iterator[dict[int, list[Any]]]:
    """While open, the sites' layers keep what they draw: id of a layer -> its draws in order, Keras tensors."""
    import keras

    drawn: dict[int, list[Any]] = {}
    layers = {id(site.layer): site.layer for site in sites}
    try:
        for key, layer in layers.items():
            drawn[key] = []
            if isinstance(layer, keras.layers.Dropout):
                layer.call = _keeping(layer, drawn[key])
            else:
                layer.drawn = drawn[key]
        yield drawn
    finally:
        for layer in layers.values():
            if isinstance(layer, keras.layers.Dropout):
                vars(layer).pop("call", None)
            else:
                layer.drawn = None


def _keeping(layer: Any, drawn: list[Any]) -> Any:
    """The call of a Keras Dropout that appends its keep mask to `drawn`."""
    import keras
    from keras import ops

    def call(x: Any, training: bool | None = None) -> Any:
        if not training:
            return x
        noise = layer.noise_shape or [None] * len(x.shape)
        shape = [ops.shape(x)[axis] if size is None else size for axis, size in enumerate(noise)]
        keep = ops.cast(keras.random.uniform(shape, seed=layer.seed_generator) >= layer.rate, x.dtype)
        drawn.append(keep)
        return x * keep / (1 - layer.rate) if layer.rate < 1 else x * 0

    return call


def collect(sites: tuple[RandomSite, ...], drawn: Mapping[int, list[Any]], training: bool) -> dict[int, np.ndarray]:
    """What `recording` kept of one call of the model, as `Conversion.replay` takes it: site -> array in torch's axis
    order, without those that do not draw in eval mode. {} where the draws do not fit the sites, or are traced."""
    from keras import ops

    queues = {key: list(values) for key, values in drawn.items()}
    found: dict[int, np.ndarray] = {}
    for site in sorted(sites, key=lambda s: s.index):
        queue = queues[id(site.layer)]
        if not queue:
            if training:
                return {}
            continue
        try:
            array = np.asarray(ops.convert_to_numpy(queue.pop(0)))
        except Exception:  # each backend has its own error for a traced tensor
            return {}
        found[site.index] = np.transpose(array, np.argsort(site.perm)) if len(site.perm) == array.ndim else array
    return {} if any(queues.values()) else found


def sites_to_data(sites: tuple[RandomSite, ...], places: dict[int, tuple[str, ...]]) -> list[Any]:
    """JSON-able. places: id of a layer -> its names from the model inwards."""
    return [[s.index, list(places[id(s.layer)]), s.op, list(s.perm)] for s in sites]


def sites_from_data(data: list[Any], model: Any) -> tuple[RandomSite, ...]:
    """The sites that `sites_to_data` wrote, their layers found in `model`."""
    sites = []
    for index, path, op, perm in data:
        layer = model
        for name in path:
            layer = layer.get_layer(name)
        sites.append(RandomSite(index, layer, op, tuple(perm)))
    return tuple(sites)
