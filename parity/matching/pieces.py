"""How the values of one model's arrays lie in another's: a linear map made of pieces. numpy only, pure.

A piece says that a region of an array of the converted model is a region of an array of the original with its axes
permuted. Regions that overlap in the converted array are added (a bias that is the sum of two). So the whole is a
linear map M from the original's arrays to the converted model's, gradients go back by its transpose, and values by
its inverse where it has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isomorph.parity.tolerance import Array

__all__ = ["Index", "Piece", "WeightMatch", "image_of", "pull_gradients", "select"]

Index = Array | None


@dataclass(frozen=True, eq=False)
class Piece:
    """`B.reshape(target_view)[target] += scale * A.reshape(view)[source].transpose(permutation)`, where A is the array
    `original` and B the array `converted`; source and target give for each axis of the view which indices, in which
    order, None for all of them."""

    original: str
    converted: str
    view: tuple[int, ...]
    source: tuple[Index, ...]
    permutation: tuple[int, ...]
    target_view: tuple[int, ...]
    target: tuple[Index, ...]
    scale: float = 1.0

    def take(self, array: Array) -> Array:
        """The values of the region of B, from the whole of A."""
        part = select(array.reshape(self.view), self.source).transpose(self.permutation)
        return part if self.scale == 1.0 else part * part.dtype.type(self.scale)

    def region(self, array: Array) -> Array:
        """The region of B, from the whole of B."""
        return select(array.reshape(self.target_view), self.target)

    def back(self, region: Array) -> Array:
        """The axes of a region of B in the order of A's view, where `write_back` puts it; not scaled."""
        return region.transpose(np.argsort(self.permutation))

    def write(self, whole: Array, values: Array) -> None:
        """Put the region's values into the whole of B (contiguous, changed in place)."""
        whole.reshape(self.target_view)[places(self.target_view, self.target)] = values

    def write_back(self, whole: Array, values: Array, add: bool = False) -> None:
        """Put values in A's order into the whole of A (contiguous, changed in place)."""
        view, at = whole.reshape(self.view), places(self.view, self.source)
        view[at] = view[at] + values if add else values

    @property
    def is_whole(self) -> bool:
        """Whether it fills all of B. Several such pieces are added."""
        return all(index is None for index in self.target)

    @property
    def elements(self) -> int:
        """The number of elements of the region."""
        lengths = (size if index is None else len(index) for size, index in zip(self.view, self.source, strict=True))
        return math.prod(lengths)

    def __str__(self) -> str:
        """One line for a person: where it lies in B, and what was done to it."""
        words = []
        if any(index is not None for index in self.source):
            words.append("[" + ", ".join(map(_span, self.source)) + "]")
        if self.permutation != tuple(range(len(self.permutation))):
            words.append(f"transposed {list(self.permutation)}")
        if any(index is not None for index in self.target):
            words.append("into [" + ", ".join(map(_span, self.target)) + "]")
        if self.scale != 1.0:
            words.append(f"times {self.scale:.9g}")
        return " ".join([self.converted, *words])


@dataclass(frozen=True, eq=False)
class WeightMatch:
    """Where one of the original's parameters or buffers lies in the converted model.

    how: by what it was decided: "value" (no other place has these values), "sum" (of two), "neighbours" (other places
    have them, and the module's other parameters decide), "order" (nothing but its place in the list decides),
    "near" (equal but for a few elements, or for a little everywhere), "shape" (the values differ), "run" (runs of both
    models with other values confirm it), "record" (a conversion recorded it). note: what is unusual about it.
    """

    original: str
    pieces: tuple[Piece, ...]
    how: str = "value"
    note: str = ""


def select(array: Array, indices: Sequence[Index]) -> Array:
    """The given indices of each axis; None for all of them."""
    for axis, index in enumerate(indices):
        if index is not None:
            array = np.take(array, index, axis)
    return array


def places(shape: Sequence[int], indices: Sequence[Index]) -> Any:
    """What numpy is to be indexed with to read or write the same as `select`."""
    if all(index is None for index in indices):
        return ...
    return np.ix_(*(np.arange(size) if index is None else index for size, index in zip(shape, indices, strict=True)))


def image_of(pieces: Sequence[Piece], originals: Mapping[str, Array], current: Array) -> Array:
    """An array of the converted model with the regions of its pieces set from the original's arrays; other elements
    stay."""
    whole = np.array(current, order="C")
    summands = [piece.take(originals[piece.original]) for piece in pieces if piece.is_whole]
    if summands:
        shape = next(piece.target_view for piece in pieces if piece.is_whole)
        whole[...] = np.sum([value.reshape(shape) for value in summands], axis=0).reshape(whole.shape)
    for piece in pieces:
        if not piece.is_whole:
            piece.write(whole, piece.take(originals[piece.original]))
    return whole


def pull_gradients(
    matches: Mapping[str, WeightMatch], shapes: Mapping[str, tuple[int, ...]], gradients: Mapping[str, Array]
) -> dict[str, Array]:
    """The gradients of the original's parameters from those of the converted model's: M transposed.

    A parameter none of whose pieces has a gradient is left out.
    """
    found: dict[str, Array] = {}
    for name, match in matches.items():
        there = [piece for piece in match.pieces if piece.converted in gradients]
        if not there:
            continue
        whole = np.zeros(shapes[name], np.result_type(*(gradients[piece.converted].dtype for piece in there)))
        for piece in there:
            values = piece.back(piece.region(gradients[piece.converted]))
            piece.write_back(whole, values if piece.scale == 1.0 else values * piece.scale, add=True)
        found[name] = whole
    return found


def _span(index: Index) -> str:
    if index is None:
        return ":"
    if len(index) == 1 or np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return f"{index[0]}:{index[-1] + 1}"
    return f"{len(index)} indices from {index[0]}"
