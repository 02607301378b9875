"""Layers that act in train mode alone: Dropout, and the functions of domain `isomorph` that onnx_out writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import torch_layers
from ..written import shortest
from . import layer
from .match import Call, Match


@layer("Dropout")
def dropout(m: Match) -> Call | None:
    """In the inference form, of a constant rate."""
    if m.is_used(1):
        return None
    rate = m.number("rate")
    if m.version >= 12:
        training, given = m.constant(2), m.constant(1)
        if (m.has(2) and (training is None or bool(training))) or (m.has(1) and given is None):
            return None
        stated = 0.5 if given is None else float(given.reshape(-1)[0])
    else:
        stated = m.attribute("ratio", 0.5)
    return _random(m, "dropout", torch.nn.Dropout, {"p": shortest(stated) if rate is None else rate})


@layer("Dropout", "SpatialDropout", domain="isomorph")
def shared_dropout(m: Match) -> Call | None:
    """Whole stretches of some axes are dropped together: `axes`, or those where `noise_shape` has 1."""
    axes = m.attribute("axes")
    if axes is None:
        axes = [i for i, d in enumerate(m.attribute("noise_shape", ())) if d == 1]
    options = {"p": shortest(m.attribute("rate", 0.5)), "axes": tuple(axes)}
    return _random(m, "dropout", torch_layers.SharedDropout, options)


@layer("AlphaDropout", domain="isomorph")
def alpha_dropout(m: Match) -> Call | None:
    rate, shape = shortest(m.attribute("rate", 0.5)), m.attribute("noise_shape")
    if shape is None:
        return _random(m, "dropout", torch.nn.AlphaDropout, {"p": rate})
    axes = tuple(i for i, d in enumerate(shape) if d == 1)
    return _random(m, "dropout", torch_layers.SharedAlphaDropout, {"p": rate, "axes": axes})


@layer("GaussianNoise", domain="isomorph")
def gaussian_noise(m: Match) -> Call | None:
    return _random(m, "noise", torch_layers.GaussianNoise, {"stddev": shortest(m.attribute("stddev", 1.0))})


@layer("GaussianDropout", domain="isomorph")
def gaussian_dropout(m: Match) -> Call | None:
    return _random(m, "noise", torch_layers.GaussianDropout, {"p": shortest(m.attribute("rate", 0.5))})


def _random(m: Match, name: str, kind: Callable[..., Any], options: dict[str, Any]) -> Call | None:
    if not 0 <= options.get("p", 0) <= 1:
        return None
    inputs, outputs = [m.node.inputs[0]], [m.node.outputs[0]]
    return Call(name, kind, options, {}, inputs, outputs, [m.node])
