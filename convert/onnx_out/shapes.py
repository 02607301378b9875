"""TensorFlow counts sizes in int32, ONNX in int64: what is computed from shapes stays int64, without casts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .tidy import bodies, every_node

__all__ = ["sizes_in_int64"]

MOVES = {"Slice": 1, "Gather": 1, "Squeeze": 1, "Unsqueeze": 1, "Reshape": 1, "Identity": 1, "Concat": 99}
COMPUTES = {"Add": 2, "Sub": 2, "Mul": 2, "Min": 99, "Max": 99, "Neg": 1, "Abs": 1}
DATA = {**MOVES, **COMPUTES}  # op: how many of its inputs, from the first, are of the type of its output
SIZES = ("Shape", "Size")


def sizes_in_int64(graph: Any) -> None:
    """Rewrites the graph's own nodes, not those in bodies; whatever else reads such a value gets it as int32 again."""
    work = _Work(graph)
    for node in list(graph.node):
        work.visit(node)
    work.outputs()
    del graph.node[:]
    graph.node.extend(work.nodes)


class _Work:
    """long: value that was int32 to the int64 one that stands for it now."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.nodes = graph, list[Any]()
        self.constants = {t.name: t for t in graph.initializer}
        self.sizes: set[str] = set()  # int64 values that come from shapes
        self.long: dict[str, str] = {}
        self.narrowed: dict[str, str] = {}

    def visit(self, node: Any) -> None:
        to = next((a.i for a in node.attribute if a.name == "to"), None) if node.op_type == "Cast" else None
        first = node.input[0] if node.input else ""
        if node.op_type in SIZES:
            self.sizes.add(node.output[0])
        elif to == onnx.TensorProto.INT32 and first in self.sizes:
            self.long[node.output[0]] = first
            return
        elif to == onnx.TensorProto.INT64 and first in self.long:
            node.op_type, node.input[0] = "Identity", self.long[first]
            del node.attribute[:]
            self.sizes.add(node.output[0])
        elif node.op_type in DATA and not node.domain:
            self._data(node)
        self._narrow(node)
        self.nodes.append(node)

    def _data(self, node: Any) -> None:
        own = range(min(DATA[node.op_type], len(node.input)))
        if any(node.input[i] in self.long for i in own):
            if all(self._can_be_long(node.input[i]) for i in own):
                for i in own:
                    node.input[i] = self._as_long(node.input[i])
                self._rename(node)
        elif all(node.input[i] in self.sizes for i in own):
            self.sizes.add(node.output[0])

    def _can_be_long(self, value: str) -> bool:
        return value in self.long or (
            value in self.constants and self.constants[value].data_type == onnx.TensorProto.INT32
        )

    def _as_long(self, value: str) -> str:
        if value in self.long:
            return self.long[value]
        name = f"{value}/int64"
        if name not in self.constants:
            array = numpy_helper.to_array(self.constants[value]).astype(np.int64)
            self.constants[name] = numpy_helper.from_array(array, name)
            self.graph.initializer.append(self.constants[name])
        return name

    def _rename(self, node: Any) -> None:
        old = node.output[0]
        node.output[0] = self.long[old] = f"{old}/int64"
        self.sizes.add(node.output[0])

    def _narrow(self, node: Any) -> None:
        """What cannot be int64 here is cast back, once for each value."""
        for i, value in enumerate(node.input):
            if value in self.long:
                node.input[i] = self._cast(value)
        for body in bodies(node):
            inner = {v for each in every_node(body) for v in each.input} | {o.name for o in body.output}
            for value in sorted(inner & set(self.long)):
                self._cast(value, value)

    def _cast(self, value: str, name: str | None = None) -> str:
        name = name or self.narrowed.get(value) or f"{value}/int32"
        if self.narrowed.get(value) == name:
            return name
        source = self.long[value]
        self.narrowed[value] = name
        self.nodes.append(
            onnx.helper.make_node("Cast", [source], [name], name=f"{name}/Cast", to=onnx.TensorProto.INT32)
        )
        return name

    def outputs(self) -> None:
        for value in self.graph.output:
            if value.name in self.long:
                self._cast(value.name, value.name)
