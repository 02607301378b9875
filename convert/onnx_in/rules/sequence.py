"""Sequences of tensors are Python lists. One whose length is known while lowering stays a list of operands."""

from __future__ import annotations

from typing import Any

import torch

from ..operands import constant_of, ints, leaf, number, rank_of, shape_of
from ..registry import rule


@rule("SequenceConstruct", since=11)
def sequence_construct(*parts: Any) -> Any:
    return (list(parts),)


@rule("SequenceEmpty", since=11)
def sequence_empty(*, dtype: int = 1) -> Any:
    return ([],)


@rule("SequenceAt", since=11)
def sequence_at(sequence: Any, position: Any) -> Any:
    return sequence[number(position)] if _known(sequence, position) else element_at(sequence, position)


@leaf
def element_at(sequence: list[torch.Tensor], position: torch.Tensor) -> torch.Tensor:
    return sequence[int(position)]


@rule("SequenceErase", since=11)
def sequence_erase(sequence: Any, position: Any = None) -> Any:
    """The last one by default."""
    if not _known(sequence, position):
        return (without(sequence, position),)
    place = -1 if position is None else number(position)
    return (_without(sequence, place),)


@leaf
def without(sequence: list[torch.Tensor], position: torch.Tensor | None) -> list[torch.Tensor]:
    return _without(sequence, -1 if position is None else int(position))


def _without(sequence: list[Any], place: int) -> list[Any]:
    place = range(len(sequence))[place]  # raises IndexError where there is none
    return [*sequence[:place], *sequence[place + 1 :]]


@rule("SequenceInsert", since=11)
def sequence_insert(sequence: Any, tensor: Any, position: Any = None) -> Any:
    """At the end by default."""
    if not _known(sequence, position):
        return (with_element(sequence, tensor, position),)
    place = len(sequence) if position is None else number(position)
    return ([*sequence[:place], tensor, *sequence[place:]],)


@leaf
def with_element(
    sequence: list[torch.Tensor], tensor: torch.Tensor, position: torch.Tensor | None
) -> list[torch.Tensor]:
    """The sequence with a tensor before a position, or at its end."""
    place = len(sequence) if position is None else int(position)
    return [*sequence[:place], tensor, *sequence[place:]]


@rule("SequenceLength", since=11)
def sequence_length(sequence: Any) -> Any:
    return torch.tensor(len(sequence)) if isinstance(sequence, list) else length_of(sequence)


@leaf
def length_of(sequence: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor(len(sequence), device=sequence[0].device if sequence else None)


@rule("ConcatFromSequence", since=11)
def concat_from_sequence(sequence: Any, *, axis: int, new_axis: int = 0) -> Any:
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@rule("SplitToSequence", since=11)
def split_to_sequence(x: Any, split: Any = None, *, axis: int = 0, keepdims: int = 1) -> Any:
    """Parts of the given sizes, or of one size but the last; single slices where none is given."""
    shape = shape_of(x)
    size: Any = None if shape is None else shape[axis]
    sizes: Any
    sizes, one = (1, True) if split is None else (ints(split), rank_of(split) == 0)
    if isinstance(sizes, tuple) and one:
        sizes = sizes[0]
    squeeze = split is None and not keepdims
    known = isinstance(size, int) and isinstance(sizes, int) if one else isinstance(sizes, tuple)
    if not known or (split is not None and rank_of(split) is None):
        return (chunks(x, split, axis, squeeze),)
    if squeeze:
        found, count = x.unbind(axis), size
    elif one:
        found, count = x.split(sizes, axis), -(-size // sizes)
    else:
        found, count = x.split(list(sizes), axis), len(sizes)
    return ([found[i] for i in range(count)],)


@leaf
def chunks(x: torch.Tensor, split: torch.Tensor | None, axis: int, squeeze: bool) -> list[torch.Tensor]:
    """`split_to_sequence` whose number of parts is known at run time only."""
    if squeeze:
        return list(x.unbind(axis))
    return list(x.split(1 if split is None else split.tolist(), axis))


def _known(sequence: Any, position: Any) -> bool:
    return isinstance(sequence, list) and (position is None or constant_of(position) is not None)
