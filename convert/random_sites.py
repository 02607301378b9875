"""Where a model draws random numbers in train mode, numbered in the order of the torch program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
