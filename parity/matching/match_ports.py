"""Which input of one model is which of another's, which output which, and in what axis order. Standard library only."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from isomorph.parity.matching.held import normalised
from isomorph.parity.runners.base import PortInfo

__all__ = ["Dims", "channel_moves", "leaves_of", "match_leaves", "match_names", "permutations"]

Dims = tuple[int | str | None, ...] | None


def match_names(names: Sequence[str], kinds: Sequence[str], ports: Sequence[PortInfo]) -> tuple[list[int | None], str]:
    """For each of the original's inputs the converted model's, None where there is none; and by what: "name", or
    "order" among those of a kind ("float", "integer", "bool").

    By the names themselves, then by what is left of them without case, separators and serving prefixes; what is left
    over in order.
    """
    found: list[int | None] = [None] * len(names)
    for rule in (str, normalised, _stem):
        keys = [rule(port.name) for port in ports]
        for place, name in enumerate(names):
            key = rule(name)
            if found[place] is None and key and keys.count(key) == 1 and [rule(n) for n in names].count(key) == 1:
                at = keys.index(key)
                if at not in found:
                    found[place] = at
    how = "order" if None in found else "name"
    for kind in dict.fromkeys(kinds):
        mine = [place for place, at in enumerate(found) if at is None and kinds[place] == kind]
        free = [at for at, port in enumerate(ports) if at not in found and kind_of(port.dtype) == kind]
        if len(mine) == len(free):
            for place, at in zip(mine, free, strict=True):
                found[place] = at
    mine = [place for place, at in enumerate(found) if at is None]
    free = [at for at in range(len(ports)) if at not in found]
    if len(mine) == len(free):  # of another kind: the comparison of dtypes will say so
        for place, at in zip(mine, free, strict=True):
            found[place] = at
    return found, how


def kind_of(dtype: str) -> str:
    """ "float", "integer", "bool" or "complex"."""
    if dtype.startswith("complex"):
        return "complex"
    return "float" if dtype.startswith(("float", "bfloat")) else "bool" if dtype.startswith("bool") else "integer"


def permutations(shape: Sequence[int], dims: Dims) -> list[tuple[int, ...]]:
    """The axis orders under which an array of this shape fits the dims: as it is, then channels moved, then others.

    Unknown sizes fit all; of two unknown sizes that are told apart by nothing the axes keep their order.
    """
    if dims is None:
        return [tuple(range(len(shape))), *channel_moves(len(shape))]
    if len(dims) != len(shape):
        return []
    return [p for p in _plausible(len(shape)) if all(_fits(shape[a], d) for a, d in zip(p, dims, strict=True))]


def channel_moves(rank: int) -> list[tuple[int, ...]]:
    """Channels from second to last, and from last to second."""
    if rank < 3:
        return []
    middle = tuple(range(2, rank))
    moves = [(0, *middle, 1), (0, rank - 1, *range(1, rank - 1))]
    return list(dict.fromkeys(moves))


def _plausible(rank: int) -> Iterator[tuple[int, ...]]:
    yield from dict.fromkeys([tuple(range(rank)), *channel_moves(rank), *itertools.permutations(range(rank))])


def _fits(size: int, dim: int | str | None) -> bool:
    return not isinstance(dim, int) or dim == size


def leaves_of(structure: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], int]]:
    """(path, index) of each leaf of a nesting of outputs, in order. A path has keys, and "#0" for places in lists."""
    if isinstance(structure, dict):
        return [leaf for key, item in structure.items() for leaf in leaves_of(item, (*path, str(key)))]
    if isinstance(structure, list | tuple):
        return [leaf for i, item in enumerate(structure) for leaf in leaves_of(item, (*path, f"#{i}"))]
    return [] if structure is None else [(path, int(structure))]


def match_leaves(expected: Any, got: Any) -> tuple[dict[int, int], str]:
    """Output of the original -> output of the converted model, and by what: "name" or "order".

    By name where both name all of them, and the same; where they name them apart but some alike, those are what they
    say and nothing else is ("names" is then the reason why the rest is missing); else by order, numbers in names
    counting as numbers.
    """
    mine, other = leaves_of(expected), leaves_of(got)
    names, there = [_name(path) for path, _ in mine], [_name(path) for path, _ in other]
    if all(names) and all(there) and len(set(names)) == len(names) and set(names) & set(there):
        at = {name: index for name, (_, index) in zip(there, other, strict=True)}
        return {index: at[name] for name, (_, index) in zip(names, mine, strict=True) if name in at}, "name"
    if all(there):
        other = sorted(other, key=lambda leaf: _numbered([path for path, _ in other], leaf[0]))
    return {left: right for (_, left), (_, right) in zip(mine, other, strict=False)}, "order"


def _numbered(paths: Sequence[tuple[str, ...]], path: tuple[str, ...]) -> tuple[Any, ...]:
    """The number at the end of a name, where all names are the same but for it; else nothing, which keeps the order."""
    found = [re.fullmatch(r"(.*?)(\d*)", "/".join(one)) for one in paths]
    if len({match.group(1) for match in found if match}) != 1:
        return ()
    match = re.fullmatch(r"(.*?)(\d*)", "/".join(path))
    return (int(match.group(2) or 0),) if match else ()


def _name(path: tuple[str, ...]) -> str:
    """The keys on the way to a leaf; "" if there are none."""
    return ".".join(normalised(key) for key in path if not key.startswith("#")) and ".".join(path).lower()


def _stem(name: str) -> str:
    """The last part of a nested name."""
    return normalised(re.split(r"[./:]", re.sub(r":\d+$", "", name))[-1])
