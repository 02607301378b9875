"""A Transpose of the graph: what it does, and how one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

__all__ = ["ON_TRIAL", "Perm", "inverse", "perm_of", "permuted_shape", "rank_of", "transposed"]

Perm = tuple[int, ...]
ON_TRIAL = "on trial"  # key of a node's meta: the Transpose counts as nothing when it is asked whether it pays


def inverse(perm: Sequence[int]) -> Perm:
    return tuple(sorted(range(len(perm)), key=list(perm).__getitem__))


def perm_of(node: ir.Node | None) -> Perm | None:
    """The permutation of a Transpose; None for another node."""
    if node is None or node.op_type != "Transpose" or node.domain:
        return None
    if "perm" in node.attributes:
        return tuple(node.attributes["perm"].value)
    rank = rank_of(node.outputs[0])
    return None if rank is None else tuple(range(rank))[::-1]


def transposed(value: ir.Value, perm: Perm, before: ir.Node | None = None, trial: bool = False) -> ir.Value:
    """A new value: this one with its axes permuted. The node is put behind the value's, at the front for an input.
    trial: whether it counts as nothing when it is asked whether it pays to keep it."""
    node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", perm)])
    if trial:
        node.meta[ON_TRIAL] = True
    made: ir.Value = node.outputs[0]
    made.type, made.shape, made.name = value.type, permuted_shape(value, perm), f"{value.name}/transposed"
    producer, graph = value.producer(), value.graph
    assert graph is not None
    if producer is not None:
        graph.insert_after(producer, node)
    elif before is not None:
        graph.insert_before(before, node)
    elif len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
    return made


def rank_of(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def permuted_shape(value: ir.Value, perm: Perm) -> Any:
    return None if value.shape is None else ir.Shape([value.shape[p] for p in perm])
