"""A marker of markers.py becomes the ONNX op that its token names.

It happens in two steps. tf2onnx calls the handler here and goes on to optimise what it is given, moving transposes past
what it knows to hold in any order of the axes. Dropout, noise and the ops that are newer than what tf2onnx writes are
nodes of our domain until that is done and the opset is raised, with their attributes; `settled` then makes ONNX's ops.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

from .markers import DOMAIN, MARKER

__all__ = ["DOCS", "MARKERS", "PLAIN_DROPOUT", "functions", "permuted", "settled"]

CALL = "isomorph_call"  # tells two calls apart: tf2onnx merges equal nodes over equal inputs, and drops what ONNX lacks
PLAIN = "Plain"  # before the name of an op of ONNX that is a node of our domain until it is settled
LATER = ("Dropout", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")
PLAIN_DROPOUT = PLAIN + "Dropout"
DOCS = {
    "Dropout": "Inference: identity. Training: dropout by `rate`, the mask of `noise_shape` (0: the input's own size).",
    "SpatialDropout": "Inference: identity. Training: dropout by `rate` whose mask is the same along `axes`.",
    "GaussianNoise": "Inference: identity. Training: normal noise of deviation `stddev` is added.",
    "GaussianDropout": "Inference: identity. Training: times normal noise, mean 1, deviation sqrt(rate / (1 - rate)).",
    "AlphaDropout": "Inference: identity. Training: SELU's saturation value by `rate`, mean and variance kept.",
    "StopGradient": "Identity whose gradient is zero.",
}


def write_marker(ctx: Any, node: Any, name: str, args: Any) -> None:
    """tf2onnx's handler: (graph, node, the node's name, args of the registration)."""
    token = json.loads(node.get_attr_value("token"))
    inputs, outputs = list(node.input), list(node.output)
    for place in token["absent"]:
        inputs.insert(place, "")
    plain = token["op"] in LATER and not token["domain"]
    dtypes = [ctx.get_dtype(value) for value in outputs]
    ctx.remove_node(name)
    ctx.make_node(
        f"{PLAIN}{token['op']}" if plain else token["op"],
        inputs,
        attr={**token["attributes"], CALL: token["call"]},
        outputs=outputs,
        shapes=token["shapes"],
        dtypes=dtypes,
        domain=DOMAIN if plain else token["domain"],
        name=name,
    )


MARKERS: dict[str, Any] = {MARKER: (write_marker, [])}


def permuted(node: Any, perm: list[int]) -> None:
    """A transpose by `perm` that stood before tf2onnx's `node` is now behind it: its attributes follow."""
    if "axes" in node.attr:
        node.set_attr("axes", sorted(perm[a] for a in node.get_attr_value("axes")))
    if "noise_shape" in node.attr:
        old = node.get_attr_value("noise_shape")
        shape = [0] * len(perm)
        for place, size in zip(perm, old, strict=True):
            shape[place] = size
        node.set_attr("noise_shape", shape)


def settled(graph: Any) -> None:
    """Nodes of our domain lose what was there for tf2onnx, and the plain ones become ONNX's."""
    for node in graph.node:
        if node.domain != DOMAIN:
            continue
        kept = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name != CALL}
        del node.attribute[:]
        if node.op_type.startswith(PLAIN):
            node.op_type, node.domain = node.op_type.removeprefix(PLAIN), ""
        if node.op_type == "Dropout" and not node.domain:
            ratio = np.float32(kept.pop("ratio"))
            node.input.append(_constant(graph, f"isomorph/ratio/{ratio}", ratio))
            node.input.append(_constant(graph, "isomorph/training", np.bool_(False)))
        node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in sorted(kept.items()))


def _constant(graph: Any, name: str, value: Any) -> str:
    if all(t.name != name for t in graph.initializer):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return name


def functions(nodes: Iterable[Any], opset: int) -> list[Any]:
    """The model-local functions that the nodes call: in inference each hands its input on."""
    used: dict[str, set[str]] = {}
    for node in nodes:
        if node.domain == DOMAIN:
            used.setdefault(node.op_type, set()).update(a.name for a in node.attribute)
    body = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    opsets = [onnx.helper.make_opsetid("", opset)]
    made = []
    for name, attributes in sorted(used.items()):
        made.append(onnx.helper.make_function(DOMAIN, name, ["x"], ["y"], body, opsets, sorted(attributes)))
        made[-1].doc_string = DOCS[name]
    return made
