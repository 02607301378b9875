"""If, Loop, Scan and SequenceMap: calls of a module over their bodies (control_flow.py)."""

from __future__ import annotations

from typing import Any

import torch

from .. import control_flow
from ..operands import DTYPES, Info, constant_of, number, shape_of, sizes_of
from ..registry import rule


@rule("If")
def if_(condition: Any, *, then_branch: Any, else_branch: Any, site: Any) -> Any:
    """A branch whose condition is known is recorded in the place of the node."""
    known = constant_of(condition)
    if known is not None:
        return (then_branch if bool(known) else else_branch).inline()
    if sizes_of(condition) is not None:
        condition = number(condition)
    then, otherwise = then_branch.lower_whole(), else_branch.lower_whole()
    values: list[Any] = []
    reads = [_places(values, branch.captured) for branch in (then, otherwise)]
    alike = _alike(then.outputs, otherwise.outputs)
    module = control_flow.If(then.program, otherwise.program, reads[0], reads[1], alike)
    return _outputs(site.module(_name(site, "If"), module, (condition, *values)), len(then.outputs))


def _places(values: list[Any], wanted: tuple[Any, ...]) -> tuple[int, ...]:
    """Where each operand stands among the values, to which those that are not there are added."""
    places = []
    for operand in wanted:
        at = next((i for i, v in enumerate(values) if v.node is operand.node), len(values))
        if at == len(values):
            values.append(operand)
        places.append(at)
    return tuple(places)


def _alike(then: tuple[Info, ...], otherwise: tuple[Info, ...]) -> bool:
    """Whether both give tensors of the same element types and ranks."""
    pairs = list(zip(then, otherwise, strict=True))
    known = all(i.element is not None and i.shape is not None for pair in pairs for i in pair)
    return known and all((a.element, len(a.shape or ())) == (b.element, len(b.shape or ())) for a, b in pairs)


@rule("Loop")
def loop(count: Any = None, condition: Any = None, *states: Any, body: Any, site: Any) -> Any:
    """Without a condition of its own it runs `count` times whatever the body says; without both, as the body says."""
    lowered = body.lower_whole()
    goes_on = lowered.outputs[0].constant
    conditional = not (lowered.passed[0] == 1 or (goes_on is not None and bool(goes_on)))
    first = constant_of(condition)
    if condition is None and count is not None:
        conditional = False
    if first is not None and bool(first):
        condition = None
    if count is None and condition is None and not conditional:
        raise ValueError("it has no end: neither a count nor a condition")
    if sizes_of(count) is not None or constant_of(count) is not None:
        count = number(count)
    n = len(states)
    module = control_flow.Loop(lowered.program, n, _stacked(lowered.outputs[1 + n :]), conditional)
    made = site.module(_name(site, "Loop"), module, (count, condition, *states, *lowered.captured))
    return _outputs(made, len(lowered.outputs) - 1)


@rule("Scan", since=8)
def scan_8(
    lengths: Any = None,
    *values: Any,
    body: Any,
    num_scan_inputs: int,
    directions: tuple[int, ...] | None = None,
    site: Any,
) -> Any:
    """With a batch dim, and a length for each sample."""
    lowered = body.lower_whole()
    module = control_flow.BatchScan(_scan(lowered, values, num_scan_inputs, None, directions, None, None))
    made = site.module(_name(site, "Scan"), module, (lengths, *values, *lowered.captured))
    return _outputs(made, len(lowered.outputs))


@rule("Scan", since=9)
def scan(
    *values: Any,
    body: Any,
    num_scan_inputs: int,
    scan_input_axes: tuple[int, ...] | None = None,
    scan_input_directions: tuple[int, ...] | None = None,
    scan_output_axes: tuple[int, ...] | None = None,
    scan_output_directions: tuple[int, ...] | None = None,
    site: Any,
) -> Any:
    lowered = body.lower_whole()
    module = _scan(
        lowered,
        values,
        num_scan_inputs,
        scan_input_axes,
        scan_input_directions,
        scan_output_axes,
        scan_output_directions,
    )
    return _outputs(site.module(_name(site, "Scan"), module, (*values, *lowered.captured)), len(lowered.outputs))


def _scan(
    lowered: Any, values: Any, scanned: int, axes: Any, directions: Any, out_axes: Any, out_directions: Any
) -> control_flow.Scan:
    states = len(values) - scanned
    axes = axes or (0,) * scanned
    shape = shape_of(values[states])
    outputs = _stacked(lowered.outputs[states:])
    return control_flow.Scan(
        lowered.program,
        states,
        axes,
        tuple(d == 1 for d in directions or (0,) * scanned),
        outputs,
        out_axes or (0,) * len(outputs),
        tuple(d == 1 for d in out_directions or (0,) * len(outputs)),
        shape is not None and isinstance(shape[axes[0]], int),
    )


@rule("SequenceMap", since=17)
def sequence_map(*values: Any, body: Any, site: Any) -> Any:
    lowered = body.lower_whole()
    module = control_flow.SequenceMap(lowered.program, len(values))
    made = site.module(_name(site, "SequenceMap"), module, (*values, *lowered.captured))
    return _outputs(made, len(lowered.outputs))


def _stacked(infos: tuple[Info, ...]) -> tuple[control_flow.Stacked, ...]:
    return tuple(
        control_flow.Stacked(
            tuple(d if isinstance(d, int) else 0 for d in info.shape or ()),
            torch.float32 if info.element is None else DTYPES[info.element],
        )
        for info in infos
    )


def _outputs(made: Any, count: int) -> tuple[Any, ...]:
    return tuple(made[i] for i in range(count))


def _name(site: Any, op: str) -> str:
    return site.node.name or op.lower()
