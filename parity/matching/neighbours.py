"""How well the surroundings of two arrays fit: their names, kinds and roles, and what else of their modules is matched.
numpy only, pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np

from isomorph.parity.matching.held import Held, normalised, parents, role, tokens
from isomorph.parity.matching.solve_layout import squeezed
from isomorph.parity.tolerance import Array

__all__ = ["NAME", "SHARED", "Neighbours", "best"]

NAME, SHARED = 0, 3  # the criteria that speak for a pair by themselves: the same name, matched neighbours


class Neighbours:
    """Scores pairs of arrays; `count` tells it what has been matched."""

    def __init__(self, original: Mapping[str, Held], converted: Mapping[str, Held]) -> None:
        kinds = len({held.kind for held in converted.values()}) > 1
        codes: dict[object, int] = {}
        self._a = {name: _features(held, codes, kinds, -1) for name, held in original.items()}
        self._b = {name: _features(held, codes, kinds, -2) for name, held in converted.items()}
        self._modules = _indices(original), _indices(converted)
        sizes = [1 + max((max(i, default=-1) for i in side.values()), default=-1) for side in self._modules]
        self._together = np.zeros((sizes[0] + 1, sizes[1] + 1))  # the last row and column stay empty
        self._inside = np.zeros(sizes[0] + 1), np.zeros(sizes[1] + 1)

    def count(self, name: str, other: str) -> None:
        """The two are matched: their modules have one more pair in common."""
        here, there = self._modules[0][name], self._modules[1][other]
        self._together[np.ix_(here, there)] += 1
        self._inside[0][here] += 1
        self._inside[1][there] += 1

    def scores(self, names: Sequence[str], others: Sequence[str]) -> Array:
        """(names, others, criteria), the first criterion above all: the name; parameter or buffer; the sizes of the
        axes; matched arrays of the same modules; the role; words in the modules' names; the rank."""
        a, b = np.array([self._a[name] for name in names]), np.array([self._b[name] for name in others])
        name, kind, dims, part, rank = np.moveaxis((a[:, None] == b[None]).astype(float), -1, 0)
        return np.stack([name, kind, dims, self._shared(names, others), part, _words(names, others), rank], -1)

    def _shared(self, names: Sequence[str], others: Sequence[str]) -> Array:
        """For each pair the sum over their modules of the share of matched arrays that both have in common."""
        share = self._together / np.maximum(1.0, np.maximum.outer(*self._inside))
        left, right = _padded(self._modules[0], names), _padded(self._modules[1], others)
        total = np.zeros((len(names), len(others)))
        for here in left.T:
            for there in right.T:
                total += share[np.ix_(here, there)]
        return np.round(total, 9)


def best(scores: Array) -> tuple[Array, Array]:
    """For each row the column with the best score, the first among equals, and whether it is the only one."""
    open_ = np.ones(scores.shape[:2], bool)
    for criterion in np.moveaxis(scores, -1, 0):
        seen = np.where(open_, criterion, -np.inf)
        open_ &= seen == seen.max(axis=1, keepdims=True)
    return open_.argmax(axis=1), open_.sum(axis=1) == 1


def _indices(side: Iterable[str]) -> dict[str, list[int]]:
    """Name -> the numbers of the modules that it is in."""
    numbers: dict[tuple[str, ...], int] = {}
    return {name: [numbers.setdefault(module, len(numbers)) for module in parents(name)] for name in side}


def _padded(modules: Mapping[str, list[int]], names: Sequence[str]) -> Array:
    depth = max((len(modules[name]) for name in names), default=0)
    table = np.full((len(names), depth), -1)
    for row, name in enumerate(names):
        table[row, : len(modules[name])] = modules[name]
    return table


def _features(held: Held, codes: dict[object, int], kinds: bool, nothing: int) -> list[int]:
    """The name, kind, sizes, role and rank as numbers; `nothing`, which equals nothing, for what is not known."""
    part = role(held.name)
    found = (normalised(held.name), held.kind, str(sorted(squeezed(held.array.shape))), part, held.array.ndim)
    numbers = [codes.setdefault(item, len(codes)) for item in enumerate(found)]
    return [numbers[0], numbers[1] if kinds else nothing, numbers[2], numbers[3] if part else nothing, numbers[4]]


@cache
def _module_words(name: str) -> frozenset[str]:
    return frozenset(tokens(name)[:-1])


def _words(names: Sequence[str], others: Sequence[str]) -> Array:
    """How many words the modules' names have in common."""
    places = {word: i for i, word in enumerate(sorted(set().union(*map(_module_words, names))))}
    left, right = np.zeros((len(names), len(places) + 1)), np.zeros((len(others), len(places) + 1))
    for side, table in ((names, left), (others, right)):
        for row, name in enumerate(side):
            table[row, [places[word] for word in _module_words(name) if word in places]] = 1
    return left @ right.T
