"""`If`, `Loop`, `Scan` and `SequenceMap` as modules over the programs of their bodies.

Run plainly they are Python's control flow, through which gradients flow. Under torch.export, where a condition or a
count is not known while tracing, they are torch's own operators (cond, while_loop, scan); otherwise the steps are
unrolled.
A body takes its own inputs, then what it reads of the graph around it, and returns a tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["If", "Loop", "Scan", "SequenceMap", "Stacked"]

UNROLLED = 128  # the largest static number of steps that torch.export unrolls


@dataclass(frozen=True)
class Stacked:
    """One step's value of a scan output, as far as known: what an output of no steps is made of."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    def of(self, values: list[torch.Tensor], like: torch.Tensor | None = None) -> torch.Tensor:
        """The steps along a new first dim."""
        if values:
            return torch.stack(values)
        return torch.zeros((0, *self.shape), dtype=self.dtype, device=None if like is None else like.device)


class If(torch.nn.Module):
    """One of two branches. then_reads, else_reads: which of the values each takes.

    alike: both give tensors of equal dtypes and ranks, so that torch.compile may keep both.
    """

    def __init__(
        self,
        then_branch: torch.nn.Module,
        else_branch: torch.nn.Module,
        then_reads: tuple[int, ...],
        else_reads: tuple[int, ...],
        alike: bool,
    ) -> None:
        super().__init__()
        self.then_branch = then_branch
        self.else_branch = else_branch
        self.then_reads, self.else_reads, self.alike = then_reads, else_reads, alike

    def forward(self, condition: Any, *values: Any) -> Any:
        """condition: a bool, or a tensor of one. Returns the branch's outputs."""
        if isinstance(condition, torch.Tensor) and ((self.alike and torch.compiler.is_compiling()) or _exporting()):
            return self._operator(condition, values)
        branch, reads = (self.then_branch, self.then_reads) if condition else (self.else_branch, self.else_reads)
        return branch(*(values[i] for i in reads))

    def _operator(self, condition: torch.Tensor, values: tuple[Any, ...]) -> Any:
        """torch.cond, whose operands are tensors; sizes are read from around it."""

        def run(branch: torch.nn.Module, reads: tuple[int, ...], tensors: tuple[torch.Tensor, ...]) -> Any:
            rest = iter(tensors)
            whole = [next(rest) if isinstance(v, torch.Tensor) else v for v in values]
            return _fresh(branch(*(whole[i] for i in reads)))

        def then(*tensors: torch.Tensor) -> Any:
            return run(self.then_branch, self.then_reads, tensors)

        def otherwise(*tensors: torch.Tensor) -> Any:
            return run(self.else_branch, self.else_reads, tensors)

        return torch.cond(
            condition.reshape(()), then, otherwise, tuple(v for v in values if isinstance(v, torch.Tensor))
        )


class Loop(torch.nn.Module):
    """The body, until the count is reached or the condition is false. It takes (step, condition, states ..., values
    read) and gives (condition, states ..., scan outputs ...).

    states: how many. stacked: the scan outputs. conditional: whether the body's condition may become false.
    """

    def __init__(self, body: torch.nn.Module, states: int, stacked: tuple[Stacked, ...], conditional: bool) -> None:
        super().__init__()
        self.body = body
        self.states, self.stacked, self.conditional = states, stacked, conditional

    def forward(self, count: Any, condition: Any, *values: Any) -> Any:
        """count: an int, an integer tensor, or None; condition: a bool tensor or None. Returns the last states and the
        scan outputs."""
        states, read = list(values[: self.states]), values[self.states :]
        like = next((v for v in values if isinstance(v, torch.Tensor)), None)
        if _exporting() and all(isinstance(s, torch.Tensor) for s in states) and not self._unrolls(count, condition):
            return self._operator(count, condition, states, read, like)
        count = int(count) if isinstance(count, torch.Tensor) else count
        going = True if condition is None else condition
        outputs: list[list[torch.Tensor]] = [[] for _ in self.stacked]
        step = 0
        while (count is None or step < count) and ((condition is None and not self.conditional) or bool(going)):
            going, states, given = self._step(
                _scalar(step, torch.int64, like), _scalar(going, torch.bool, like), states, read
            )
            for kept, value in zip(outputs, given, strict=True):
                kept.append(value)
            step += 1
        return (*states, *(s.of(kept, like) for s, kept in zip(self.stacked, outputs, strict=True)))

    def _step(self, step: Any, going: Any, states: Any, read: Any) -> tuple[Any, list[Any], list[Any]]:
        going, *rest = self.body(step, going, *states, *read)
        return going, rest[: self.states], rest[self.states :]

    def _unrolls(self, count: Any, condition: Any) -> bool:
        known = isinstance(count, int) and not isinstance(count, torch.SymInt) and count <= UNROLLED
        return known and condition is None and not self.conditional

    def _operator(self, count: Any, condition: Any, states: list[Any], read: Any, like: Any) -> Any:
        """The loop as one operator of torch: a scan over the steps, or a while loop without scan outputs."""
        if condition is None and not self.conditional and not isinstance(count, torch.Tensor):
            going = _scalar(True, torch.bool, like)

            def combine(carried: Any, step: Any) -> Any:
                _, after, given = self._step(step, going, carried, read)
                return after, given

            steps = torch.arange(count, device=None if like is None else like.device)
            last, given = _scan(combine, states, steps)
            return (*last, *given)
        if self.stacked:
            raise NotImplementedError(
                "torch.export has no operator for a loop that collects outputs "
                "and whose number of steps is known at run time only"
            )

        def goes_on(step: Any, going: Any, *_: Any) -> Any:
            return going.clone() if count is None else going & (step < count)

        def run(step: Any, going: Any, *carried: Any) -> Any:
            going, after, _ = self._step(step, going, carried, read)
            return (step + 1, *_fresh((going.reshape(()), *after)))

        going = _scalar(True if condition is None else condition, torch.bool, like).reshape(()).clone()
        count = count.reshape(()) if isinstance(count, torch.Tensor) else count
        return tuple(torch.while_loop(goes_on, run, (_scalar(0, torch.int64, like), going, *states))[2:])


class Scan(torch.nn.Module):
    """The body, which takes (states ..., elements ..., values read) and gives (states ..., scan outputs ...), for each
    position along an axis of the scanned inputs.

    states: how many. axes, reverse: of each scanned input. out_axes, out_reverse: of each output. fixed:
    whether the model says how many steps there are.
    """

    def __init__(
        self,
        body: torch.nn.Module,
        states: int,
        axes: tuple[int, ...],
        reverse: tuple[bool, ...],
        stacked: tuple[Stacked, ...],
        out_axes: tuple[int, ...],
        out_reverse: tuple[bool, ...],
        fixed: bool,
    ) -> None:
        super().__init__()
        self.body, self.fixed = body, fixed
        self.states, self.axes, self.reverse = states, axes, reverse
        self.stacked, self.out_axes, self.out_reverse = stacked, out_axes, out_reverse

    def forward(self, *values: Any) -> Any:
        """Returns the last states and the scan outputs."""
        count = len(self.axes)
        states, scanned, read = (
            values[: self.states],
            values[self.states : self.states + count],
            values[self.states + count :],
        )
        moved = [
            x.movedim(axis, 0).flip(0) if back else x.movedim(axis, 0)
            for x, axis, back in zip(scanned, self.axes, self.reverse, strict=True)
        ]

        def combine(carried: Any, elements: Any) -> Any:
            found = self.body(*carried, *elements, *read)
            return list(found[: self.states]), list(found[self.states :])

        length = moved[0].size(0)
        if _exporting() and not self._unrolls(length):
            last, outputs = _scan(combine, list(states), moved)
        else:
            last, outputs = self._steps(combine, list(states), moved, length)
        ends = zip(outputs, self.out_axes, self.out_reverse, strict=True)
        return (*last, *((y.flip(0) if back else y).movedim(0, axis) for y, axis, back in ends))

    def _unrolls(self, length: Any) -> bool:
        symbolic = isinstance(length, torch.SymInt) or (torch.compiler.is_dynamo_compiling() and not self.fixed)
        return not symbolic and length <= UNROLLED

    def _steps(self, combine: Callable[..., Any], states: list[Any], moved: list[Any], length: int) -> tuple[Any, Any]:
        outputs: list[list[torch.Tensor]] = [[] for _ in self.stacked]
        for step in range(length):
            states, given = combine(states, [x[step] for x in moved])
            for kept, value in zip(outputs, given, strict=True):
                kept.append(value)
        return states, [s.of(kept, moved[0]) for s, kept in zip(self.stacked, outputs, strict=True)]


class BatchScan(torch.nn.Module):
    """`Scan` of opset 8: sample by sample of the first dim, each up to its own length; what follows is zero."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        self.scan = scan

    def forward(self, lengths: Any, *values: Any) -> Any:
        """lengths: int64 (batch) or None; the others as `Scan` has them, each with a batch dim in front."""
        own = self.scan.states + len(self.scan.axes)
        given, read = values[:own], values[own:]
        samples = []
        for sample in range(given[0].size(0)):
            rows = [v[sample] for v in given]
            whole = rows[-1].size(0)
            length = whole if lengths is None else int(lengths[sample])
            cut = [r if i < self.scan.states else r[:length] for i, r in enumerate(rows)]
            found = self.scan(*cut, *read)
            rest = [_to_length(y, whole) for y in found[self.scan.states :]]
            samples.append([*found[: self.scan.states], *rest])
        return tuple(torch.stack(column) for column in zip(*samples, strict=True))


class SequenceMap(torch.nn.Module):
    """The body for each element of the sequences; a tensor among them is the same for all."""

    def __init__(self, body: torch.nn.Module, inputs: int) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs

    def forward(self, *values: Any) -> Any:
        """Returns a list for each output of the body."""
        given, read = values[: self.inputs], values[self.inputs :]
        rows = [self.body(*(v[i] if isinstance(v, list) else v for v in given), *read) for i in range(len(given[0]))]
        return tuple(list(column) for column in zip(*rows, strict=True))


def _to_length(x: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([x, x.new_zeros(length - x.size(0), *x.shape[1:])])


def _scalar(value: Any, dtype: torch.dtype, like: torch.Tensor | None) -> torch.Tensor:
    """A Python number as a 0-d tensor; a tensor stays."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.full((), value, dtype=dtype, device=None if like is None else like.device)


def _fresh(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies: torch's operators refuse outputs that share memory with inputs or with each other."""
    return tuple(v.clone() for v in values)


def _scan(combine: Callable[..., Any], states: list[Any], steps: Any) -> tuple[Any, Any]:
    """torch's scan, which wants a state, distinct memory and an output."""
    from torch._higher_order_ops.scan import scan

    def run(carried: Any, elements: Any) -> Any:
        after, given = combine(carried[1:], elements)
        return [carried[0].clone(), *_fresh(after)], [carried[0].clone(), *_fresh(given)]

    first = steps[0] if isinstance(steps, list) else steps
    last, given = scan(run, [torch.zeros((), device=first.device), *(s.clone() for s in states)], steps)
    return last[1:], given[1:]


def _exporting() -> bool:
    return torch.compiler.is_exporting()
