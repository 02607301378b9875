"""Which of the converted model's parameters and buffers holds which of the original's, without a recorded map.

By value: equal multisets of values, then the permutation that makes one of the other; then slices of arrays that were
split or joined; then sums. What has the same values elsewhere too (zeros, ones, copies) is decided by its neighbours:
a bias follows its weight, a module its already matched parameters; and what its neighbours leave open by its place in
the list, which is reported as ambiguous. What differs in value is matched last, where name or shape leave no choice.
numpy only, pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from isomorph.parity.matching.held import Held, Key, normalised, role, tokens
from isomorph.parity.matching.match_near import near_matches
from isomorph.parity.matching.match_slices import match_slices
from isomorph.parity.matching.neighbours import NAME, SHARED, Neighbours, best
from isomorph.parity.matching.pieces import Piece, WeightMatch
from isomorph.parity.matching.solve_layout import Shape, solve, squeezed
from isomorph.parity.tolerance import Array

__all__ = ["Weights", "match_weights"]

FLAT = 1 << 16  # elements that may be looked for one by one


@dataclass
class Weights:
    """matches: by the original's name; a tied name is there only where the converted model holds it separately."""

    matches: dict[str, WeightMatch] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)
    unmatched_original: list[str] = field(default_factory=list)
    unmatched_converted: list[str] = field(default_factory=list)


def match_weights(original: Iterable[Held], converted: Iterable[Held]) -> Weights:
    """The matches of all arrays that the two models hold."""
    return _Matching(original, converted).run()


class _Matching:
    """One search. `a` and `b` hold what is still free on each side, in the models' own order."""

    def __init__(self, original: Iterable[Held], converted: Iterable[Held]) -> None:
        self.all_a, self.all_b = {held.name: held for held in original}, {held.name: held for held in converted}
        self.a = {name: held for name, held in self.all_a.items() if held.tied is None}
        self.b = {name: held for name, held in self.all_b.items() if held.tied is None}
        self.found = Weights()
        self.rows: dict[str, set[int]] = {}  # rows of stacked biases that are taken
        self.usual: Counter[tuple[int, Shape]] = Counter()  # (axes, permutation) of what is matched
        self.modules: dict[tuple[str, ...], dict[str, str]] = {}  # module -> last part of a name -> the name
        for name in self.all_a:
            self.modules.setdefault(tokens(name)[:-1], {})[tokens(name)[-1]] = name
        self.neighbours = Neighbours(self.all_a, self.all_b)
        self.contested: set[str] = set()

    def run(self) -> Weights:
        self._by_value(matrices=True)
        self._by_slices(matrices=True)
        self._follow()
        self._by_value(matrices=False)
        self._by_slices(matrices=False)
        self._follow()
        self._by_neighbours()
        self._by_slices(matrices=False, flat=True)
        for match in near_matches(self.a, self.b, self._usual):
            self._take(match)
        self._follow()
        self._tied()
        self.found.unmatched_original += self.a
        self.found.unmatched_converted += [name for name in self.b if name not in self.rows]
        return self.found

    def _groups(self) -> dict[tuple[str, Key], tuple[list[str], list[str]]]:
        """Free arrays of equal values, both sides; of those that both sides have."""
        groups: dict[tuple[str, Key], tuple[list[str], list[str]]] = {}
        for name, held in self.b.items():
            groups.setdefault((held.kept, held.key(held.kept)), ([], []))[1].append(name)
        sizes = {(dtype, key[1]) for dtype, key in groups}
        dtypes = {dtype for dtype, _ in groups}
        for name, held in self.a.items():
            for dtype in dtypes:
                if (held.array.dtype.kind in "fc") == (dtype != "int64") and (dtype, held.array.size) in sizes:
                    group = groups.get((dtype, held.key(dtype)))
                    if group is not None:
                        group[0].append(name)
        return {key: group for key, group in groups.items() if group[0]}

    def _by_value(self, matrices: bool) -> None:
        """Values that one array of each side has, and that are not all the same."""
        for names, others in self._groups().values():
            if len(names) == len(others) == 1:
                array = self.b[others[0]].array
                if (len(squeezed(array.shape)) > 1) == matrices and not _constant(array):
                    self._pair(names[0], others[0], "value")

    def _by_slices(self, matrices: bool, flat: bool = False) -> None:
        dtypes = list(dict.fromkeys(held.kept for held in self.b.values() if held.array.dtype.kind in "fc"))
        for dtype in dtypes:
            shared = {key for kept, key in self._groups() if kept == dtype}  # whole arrays, which others decide
            free = {n: h for n, h in self.a.items() if h.array.dtype.kind in "fc" and h.key(dtype) not in shared}
            left = {n: h.at(dtype) for n, h in free.items() if _varies(h, matrices)}
            right = {
                n: h.at(dtype)
                for n, h in self.b.items()
                if h.kept == dtype and n not in self.rows and h.key(dtype) not in shared and _varies(h, matrices)
            }
            elements = sum(array.size for array in left.values())
            if not left or not right or (flat and elements > FLAT):
                continue
            copies = Counter(held.key(dtype) for held in free.values())
            for name, pieces in match_slices(left, right, flat).items():
                how = "order" if copies[free[name].key(dtype)] > 1 else "value"
                self._take(WeightMatch(name, tuple(pieces), how))

    def _pair(self, name: str, other: str, how: str) -> bool:
        """Match two whole arrays of the same values."""
        held = self.b[other]
        a, b = self.a[name].at(held.kept), held.at(held.kept)
        layout = solve(a, b, prefer=self._usual(len(squeezed(a.shape))))
        if layout is None:
            return False
        piece = Piece(
            name, other, layout.view, layout.source, layout.permutation, layout.target_view,
            (None,) * len(layout.target_view),
        )  # fmt: skip
        note = "several permutations of its axes give the same values" if layout.others and len(layout.view) > 1 else ""
        self._take(WeightMatch(name, (piece,), how, note))
        return True

    def _usual(self, axes: int) -> list[Shape]:
        """Permutations of that many axes, the one most often met first."""
        return [permutation for (count, permutation), _ in self.usual.most_common() if count == axes]

    def _take(self, match: WeightMatch) -> None:
        name = match.original
        self.found.matches[name] = match
        self.a.pop(name, None)
        counts = self.all_a[name].array.dtype.kind in "iub"  # one counter is as good as another
        if not counts and match.how != "sum" and (match.how in ("order", "shape") or match.note):
            why = {"order": "by its place in the list alone", "shape": "by its shape, not by its values"}
            words = [why.get(match.how, ""), match.note]
            self.found.ambiguous.append(
                f"{name} is taken for {' and '.join(map(str, match.pieces))}: {'; '.join(filter(None, words))}"
            )
        for piece in match.pieces:
            if piece.converted not in self.rows:
                self.b.pop(piece.converted, None)
            if all(index is None for index in piece.source):
                self.usual[len(piece.view), piece.permutation] += 1
            self.neighbours.count(name, piece.converted)

    # A bias follows its weight: what became of the axis of a weight that is as long as the bias becomes of the bias.

    def _follow(self) -> None:
        for name in list(self.a):
            if name in self.a and len(squeezed(self.a[name].array.shape)) < 2:
                self._follow_one(name)

    def _follow_one(self, name: str) -> None:
        leading = self._leading(name)
        if leading is None:
            return
        partner = name.replace("bias_ih", "bias_hh") if "bias_ih" in name else None
        for names in ([name, partner], [name]) if partner in self.a else ([name],):
            wanted = [n for n in names if n is not None]
            for axis in range(len(leading.pieces[0].view)):
                pieces = self._carried(wanted, leading, axis)
                if pieces:
                    for n in wanted:
                        self._take(
                            WeightMatch(n, tuple(piece for piece in pieces if piece.original == n), "neighbours")
                        )
                    return

    def _leading(self, name: str) -> WeightMatch | None:
        """The match of the weight that a bias belongs to."""
        if role(name) != "bias":
            return None
        *module, leaf = tokens(name)
        siblings = self.modules[tuple(module)]
        for word in ("weight", "kernel"):
            exact = siblings.get(leaf.replace("bias", word))
            if exact is not None:
                return self.found.matches.get(self.all_a[exact].tied or exact)
        near = [
            self.found.matches[other]
            for other in siblings.values()
            if other in self.found.matches and len(squeezed(self.all_a[other].array.shape)) > 1
        ]
        return near[0] if len(near) == 1 else None

    def _carried(self, names: list[str], leading: WeightMatch, axis: int) -> list[Piece] | None:
        """Pieces for the bias `names[0]`, or for two whose sum is held; None where the values are not there."""
        size = self.a[names[0]].array.size
        pieces: list[Piece] = []
        taken: set[tuple[str, int]] = set()
        for piece in leading.pieces:
            if axis >= len(piece.view) or piece.view[axis] != size or len(piece.view) != len(leading.pieces[0].view):
                return None
            found = self._place(names, piece, axis, taken)
            if found is None:
                return None
            pieces += found
        for piece in pieces:
            if len(piece.target_view) > 1:
                self.rows.setdefault(piece.converted, set()).add(int(piece.target[0][0]))  # type: ignore[index]
                if len(self.rows[piece.converted]) == piece.target_view[0]:
                    self.b.pop(piece.converted, None)
        return pieces

    def _place(self, names: list[str], piece: Piece, axis: int, taken: set[tuple[str, int]]) -> list[Piece] | None:
        """Where in the layer that holds a weight's piece the same part of its bias is."""
        k = piece.permutation.index(axis)
        source, target, size = piece.source[axis], piece.target[k], piece.target_view[k]
        layer = tokens(piece.converted)[:-1]
        exact = {normalised(name) for name in names}
        options = [
            (other, held)
            for other, held in self.b.items()
            if len(squeezed(held.array.shape)) <= 2
            and (normalised(other) in exact or (layer and tokens(other)[:-1] == layer))
            and held.array.size % size == 0
        ]
        options.sort(key=lambda option: (normalised(option[0]) not in exact, role(option[0]) != "bias"))
        if len(names) > 1 and sum(held.array.size == size for _, held in options) != 1:
            return None  # there is room for both
        for other, held in options:
            rows = held.array.size // size
            values = held.at(held.kept).reshape(rows, size)
            arrays = [self.a[name].at(held.kept).reshape(-1) for name in names]
            for row in range(rows):
                if (other, row) in taken or row in self.rows.get(other, ()) or (rows > 1 and len(names) > 1):
                    continue
                part = values[row] if target is None else values[row][target]
                if _is_sum(part, [array if source is None else array[source] for array in arrays]):
                    taken.add((other, row))
                    if rows == 1:
                        view, at, before = (size,), (target,), (arrays[0].size,)
                        return [Piece(n, other, before, (source,), (0,), view, at) for n in names]
                    return [
                        Piece(n, other, (1, arrays[0].size), (None, source), (0, 1), (rows, size),
                              (np.array([row]), target))
                        for n in names
                    ]  # fmt: skip
        return None

    # What several arrays hold alike.

    def _by_neighbours(self) -> None:
        while True:
            groups = [group for group in self._groups().values() if group[1]]
            moved = False
            for names, others in groups:
                if len(names) == len(others) == 1:
                    moved |= self._pair(names[0], others[0], self._last(names[0]))
                    continue
                self.contested.update(names)
                for name, other, how in self._decided(names, others):
                    moved |= self._pair(name, other, how)
            if moved:
                self._follow()
                continue
            if not any(self._first(*group) for group in groups):
                return
            self._follow()

    def _decided(self, names: list[str], others: list[str]) -> list[tuple[str, str, str]]:
        """Pairs that are each other's only best choice, and that something but their place speaks for."""
        scores = self.neighbours.scores(names, others)
        columns, only = best(scores)
        rows, alone = best(scores.transpose(1, 0, 2))
        return [
            (names[i], others[j], "neighbours")
            for i, j in enumerate(columns)
            if only[i] and alone[j] and rows[j] == i and _speaks(scores[i, j])
        ]

    def _last(self, name: str) -> str:
        """By what the last of a group is matched: as the others were."""
        if name not in self.contested:
            return "value"
        key = self.all_a[name].key(self.all_a[name].kept)
        like = [m for n, m in self.found.matches.items() if self.all_a[n].key(self.all_a[n].kept) == key]
        return "order" if any(match.how == "order" for match in like) else "neighbours"

    def _first(self, names: list[str], others: list[str]) -> bool:
        """The first of the original's, with the best of what is left for it, the first among equals."""
        scores = self.neighbours.scores(names, others)
        columns, only = best(scores)
        for i, j in enumerate(columns):
            alone = only[i] and _speaks(scores[i, j])
            if self._pair(names[i], others[j], "neighbours" if alone else "order"):
                return True
        return False

    def _tied(self) -> None:
        """A tied name whose values the converted model holds a second time."""
        for name, held in self.all_a.items():
            if held.tied is None or held.tied not in self.found.matches:
                continue
            for other, there in list(self.b.items()):
                if held.key(there.kept) == there.key(there.kept):
                    self.a[name] = held
                    if self._pair(name, other, "value"):
                        break
                    del self.a[name]


def _speaks(score: Array) -> bool:
    """Whether a score is more than nothing: the name, or matched neighbours."""
    return bool(score[NAME] > 0 or score[SHARED] > 0)


def _is_sum(part: Array, arrays: list[Array]) -> bool:
    if len(arrays) == 1:
        return bool(np.array_equal(part, arrays[0], equal_nan=part.dtype.kind == "f"))
    total = np.sum(arrays, axis=0)
    return bool(np.allclose(part, total, rtol=4 * np.finfo(part.dtype).eps, atol=1e-7 * float(np.max(np.abs(arrays)))))


def _constant(array: Array) -> bool:
    """Whether its values say nothing: all the same, or a single one that is 0 or 1."""
    flat = array.reshape(-1)
    if np.any(flat[:64] != flat[:1]):
        return False
    return flat.size == 0 or (bool(np.all(flat[1:] == flat[0])) and (flat.size > 1 or flat[0] in (0, 1)))


def _varies(held: Held, matrices: bool) -> bool:
    small = len(squeezed(held.array.shape))
    return held.array.size > 0 and (small > 1 or not matrices) and not _constant(held.array)
