"""A trace with its data flow: which recorded array is made from which. Standard library and numpy only: it travels
from worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from isomorph.parity.runners.base import ModuleTrace
from isomorph.parity.tolerance import Array

__all__ = ["Flow", "Node", "TracedCall"]


@dataclass(frozen=True)
class TracedCall(ModuleTrace):
    """A call and its place in the run.

    parent: the index, in the trace, of the call that it was made in; -1 for the root. function: whether it is a
    function called in the parent's own code (`path` is then the parent's, `kind` the function's name) and no module.
    input_nodes, output_nodes: a number for each array, unique in the trace, smaller for what was recorded earlier; -1
    for a function's inputs. input_sources, output_sources: for each array the numbers of those that it was made from,
    without another recorded array in between.
    """

    parent: int = -1
    function: bool = False
    input_nodes: tuple[int, ...] = ()
    output_nodes: tuple[int, ...] = ()
    input_sources: tuple[tuple[int, ...], ...] = ()
    output_sources: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Node:
    """A recorded array: the output, or else the input, of a call (an index), at a position."""

    number: int
    call: int
    output: bool
    position: int


class Flow:
    """The arrays of a trace as a graph. A trace without a recorded flow gets the one that its values tell."""

    def __init__(self, trace: Sequence[ModuleTrace]) -> None:
        self.calls = tuple(c for c in trace if isinstance(c, TracedCall))
        if len(self.calls) != len(trace) or not any(c.output_nodes for c in self.calls):
            self.calls = _by_value(trace)
        self.nodes: dict[int, Node] = {}
        self.sources: dict[int, tuple[int, ...]] = {}
        for index, call in enumerate(self.calls):
            for output, numbers, sources in (
                (False, call.input_nodes, call.input_sources), (True, call.output_nodes, call.output_sources),
            ):  # fmt: skip
                for position, number in enumerate(numbers):
                    if number >= 0:
                        self.nodes[number] = Node(number, index, output, position)
                        self.sources[number] = sources[position]
        self.users: dict[int, list[int]] = {number: [] for number in self.nodes}
        for number, found in self.sources.items():
            for source in found:
                if source in self.users:
                    self.users[source].append(number)

    @property
    def root(self) -> int:
        """The index of the model's own call."""
        return len(self.calls) - 1

    def call_of(self, number: int) -> TracedCall:
        """The call that an array is input or output of."""
        return self.calls[self.nodes[number].call]

    def value(self, number: int) -> Array:
        """The array."""
        node = self.nodes[number]
        call = self.calls[node.call]
        return (call.outputs if node.output else call.inputs)[node.position]

    def gradient(self, number: int) -> Array | None:
        """Its gradient in the run."""
        node = self.nodes[number]
        call = self.calls[node.call]
        found = call.output_gradients if node.output else call.input_gradients
        return found[node.position] if node.position < len(found) else None

    def outputs(self, index: int) -> tuple[int, ...]:
        """The nodes of a call's outputs."""
        return self.calls[index].output_nodes

    def inputs(self, index: int) -> tuple[int, ...]:
        """The nodes of a call's inputs; of a function, those that it was given."""
        call = self.calls[index]
        if call.function:
            return tuple(dict.fromkeys(s for sources in call.input_sources for s in sources))
        return call.input_nodes

    def given(self, index: int) -> Iterator[tuple[int | None, int]]:
        """For each input of a call the node that it is, or that it was made from if that is one, and its position."""
        call = self.calls[index]
        for position, sources in enumerate(call.input_sources):
            yield sources[0] if len(sources) == 1 and sources[0] in self.nodes else None, position

    def children(self, index: int) -> Iterator[int]:
        """The calls made directly in a call, in order."""
        return (i for i, call in enumerate(self.calls) if call.parent == index)


def _by_value(trace: Sequence[ModuleTrace]) -> tuple[TracedCall, ...]:
    """A flow from values: an input is made from the array that it equals bit for bit, else from all that the call
    before made; an output from the inputs of its own call. Parents follow from paths."""
    known: dict[tuple[tuple[int, ...], str, bytes], int] = {}
    calls: list[TracedCall] = []
    last: tuple[int, ...] = ()
    number = 0
    for index, call in enumerate(trace):
        sources = tuple((known[k],) if (k := _key(a)) in known else last for a in call.inputs)
        inputs = tuple(range(number, number + len(call.inputs)))
        number += len(inputs)
        outputs = tuple(range(number, number + len(call.outputs)))
        number += len(outputs)
        made = tuple(known.get(_key(a)) for a in call.outputs)
        for array, node in zip(call.outputs, outputs, strict=True):
            known[_key(array)] = node
        last = outputs
        rest: dict[str, Any] = {f.name: getattr(call, f.name) for f in fields(ModuleTrace)}
        calls.append(TracedCall(
            **rest, parent=_parent(trace, index), input_nodes=inputs, output_nodes=outputs, input_sources=sources,
            output_sources=tuple(inputs if m is None else (m,) for m in made),
        ))  # fmt: skip
    return tuple(calls)


def _parent(trace: Sequence[ModuleTrace], index: int) -> int:
    """The next call that completes of a module that holds this one."""
    path = trace[index].path
    for later in range(index + 1, len(trace)):
        other = trace[later].path
        if path and (not other or path.startswith(f"{other}.")):
            return later
    return -1


def _key(array: Array) -> tuple[tuple[int, ...], str, bytes]:
    return array.shape, str(array.dtype), array.tobytes()
