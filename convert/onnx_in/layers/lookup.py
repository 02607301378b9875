"""Gather of the rows of a parameter: nn.Embedding. PRelu: nn.PReLU."""

from __future__ import annotations

import torch

from . import layer
from .match import Call, Match


@layer("Gather")
def embedding(m: Match) -> Call | None:
    """Rows chosen by indices that are only known at run time."""
    table = m.weight(0)
    if table is None or len(table.shape) != 2 or m.attribute("axis", 0) not in (0, -2) or m.constant(1) is not None:
        return None
    options = {"num_embeddings": table.shape[0], "embedding_dim": table.shape[1]}
    inputs, outputs = [m.node.inputs[1]], [m.node.outputs[0]]
    return Call("embedding", torch.nn.Embedding, options, {"weight": table}, inputs, outputs, [m.node])


@layer("PRelu")
def prelu(m: Match) -> Call | None:
    """One slope, or one for each channel."""
    slope, shape = m.weight(1), m.shape(0)
    if slope is None or shape is None:
        return None
    channels = max(slope.shape, default=1)
    full = (1,) * (len(shape) - len(slope.shape)) + slope.shape
    if channels > 1 and (len(shape) < 2 or full != (1, channels, *(1,) * (len(shape) - 2))):
        return None
    options = {"num_parameters": channels}
    inputs, outputs = [m.node.inputs[0]], [m.node.outputs[0]]
    return Call("prelu", torch.nn.PReLU, options, {"weight": slope.reshape(channels)}, inputs, outputs, [m.node])
