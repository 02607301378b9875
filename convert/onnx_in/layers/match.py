"""What a recogniser is asked (`Match`) and what it answers (`Call`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ..moved import Moved, constant_tensor
from ..provenance import LAYER, Origin
from ..tracing import integers_of, is_zero, trace

__all__ = ["Call", "Match"]


@dataclass(eq=False)
class Call:
    """One call of a torch layer that nodes of the graph are.

    kind: short, for a name. layer(**options): makes it. weights: its state by name, as moved initializers. fixed: state
    that no initializer holds; it never trains. inputs: what is handed to forward. outputs: the values that come back.
    nodes: those that go. replaced: values that are no longer computed, and what stands for each. around(module,
    *inputs) -> outputs: records the call where more than the call is needed. name, module: once it has them.
    """

    kind: str
    layer: Callable[..., Any]
    options: dict[str, Any]
    weights: dict[str, Moved]
    inputs: list[ir.Value]
    outputs: list[ir.Value]
    nodes: list[ir.Node]
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    replaced: dict[ir.Value, ir.Value] = field(default_factory=dict)
    around: Callable[..., Any] | None = None
    name: str = ""
    module: Any = None


@dataclass(frozen=True)
class Match:
    """A node, and what is known around it. held: the initializers that are state; opset: of ai.onnx."""

    node: ir.Node
    held: Mapping[ir.Value, Any]
    origin: Origin
    version: int

    def input(self, i: int) -> ir.Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def has(self, i: int) -> bool:
        return self.input(i) is not None

    def adds(self, i: int) -> bool:
        """Whether an input is there and is not all zeros."""
        value = self.input(i)
        return value is not None and not is_zero(value, self.held)

    def weight(self, i: int) -> Moved | None:
        """An input as state of a layer; None where it is computed, constant or absent."""
        value = self.input(i)
        found = None if value is None else trace(value)
        return found if found is not None and any(s in self.held for s in found.sources) else None

    def constant(self, i: int) -> np.ndarray | None:
        """An input that never changes, if it is small."""
        value = self.input(i)
        found = None if value is None else trace(value)
        if found is None or any(s in self.held or constant_tensor(s).size > 1 << 24 for s in found.sources):
            return None
        return found.array()

    def integers(self, i: int) -> tuple[int, ...] | None:
        return integers_of(self.input(i))

    def shape(self, i: int) -> tuple[int | None, ...] | None:
        """The dims of an input; None for a dim, or for all, that are not known."""
        value = self.input(i)
        if value is None or value.shape is None:
            return None
        return tuple(d if isinstance(d, int) else None for d in value.shape)

    def is_used(self, output: int) -> bool:
        if output >= len(self.node.outputs):
            return False
        value = self.node.outputs[output]
        return bool(value.name) and (bool(value.uses()) or value.is_graph_output())

    @property
    def layer_data(self) -> dict[str, Any]:
        """What the file says of the Keras layer that the node came from."""
        return self.origin.layers.get(self.node.metadata_props.get(LAYER, ""), {})

    def number(self, key: str) -> float | None:
        """A number of `layer_data`."""
        found = self.layer_data.get(key)
        return float(found) if isinstance(found, (int, float)) else None

    def only_user(self, value: ir.Value) -> ir.Node | None:
        """The one node that reads a value, if it is read once and is no output."""
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not self.node.graph:
            return None
        found: ir.Node = uses[0].node
        return found

    def added(self, value: ir.Value, size: int, behind: int = 0) -> tuple[ir.Node, Moved] | None:
        """(the Add, the bias as (size,)): the only thing done with `value` is to add one number for each place of an
        axis, the last one but `behind`."""
        found = self.added_block(value, (size, *(1,) * behind))
        return None if found is None else (found[0], found[1].reshape(size))

    def added_block(self, value: ir.Value, block: tuple[int, ...]) -> tuple[ir.Node, Moved] | None:
        """(the Add, what it adds in this shape): the only thing done with `value` is to add the same block everywhere
        in its last axes."""
        user = self.only_user(value)
        if user is None or user.op_type != "Add" or user.domain or len(user.inputs) != 2 or "axis" in user.attributes:
            return None
        other = user.inputs[1] if user.inputs[0] is value else user.inputs[0]
        found = None if other is None or other is value else trace(other)
        if found is None or value.shape is None or not any(s in self.held for s in found.sources):
            return None
        rank = len(found.shape)
        if len(block) > rank or rank > len(value.shape) or found.shape != (1,) * (rank - len(block)) + block:
            return None
        return user, found.reshape(*block)
