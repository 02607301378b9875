"""Weights that were matched by neighbours or by order are put to the test: both models get other values there, and must
still agree. Where they do not, each place is tried by itself, and its effect on the outputs tells which is which.
numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from isomorph.parity.adapt import Adapted
from isomorph.parity.correspondence import Correspondence
from isomorph.parity.held import role
from isomorph.parity.pieces import WeightMatch
from isomorph.parity.probe import AGREE, between, common_mode
from isomorph.parity.runners.base import Request, Response, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.tolerance import Array, rms

__all__ = ["confirm_weights"]

RUNS = 200  # that telling places apart may take
CLEAR = 0.1  # the right place is nearer than this share of the distance of the next


def confirm_weights(
    original: Runner, converted: Runner, example: Sequence[Array] | None, found: Correspondence
) -> Correspondence:
    """The correspondence with what could be confirmed no longer ambiguous. What could not be stays as it was: a model
    that differs anyway, or a format whose values cannot be set, confirms nothing. Both models are as they were
    afterwards.
    """
    doubtful = [n for n, m in found.weights.items() if m.how in ("order", "neighbours") or "permutations" in m.note]
    if example is None or not any(_subject(line) in doubtful for line in found.ambiguous):
        return found
    trial = _Trial(original, converted, Request(tuple(example), common_mode(original, converted), False))
    try:
        if not trial.agrees(found, {}):
            return found
        values = {name: _other(name, found.values[name], index) for index, name in enumerate(doubtful)}
        if trial.agrees(found, values):
            return _confirmed(found, doubtful)
        told_apart = _told_apart(trial, found, doubtful)
        return _confirmed(told_apart, doubtful) if trial.agrees(told_apart, values) else found
    except WorkerError:
        raise
    except Exception:  # a format whose values cannot be set, or a model that refuses these: nothing is confirmed
        return found


class _Trial:
    """Both models, asked one question with other values here and there."""

    def __init__(self, original: Runner, converted: Runner, request: Request) -> None:
        self.original, self.converted, self.request = original, converted, request

    def agrees(self, found: Correspondence, values: Mapping[str, Array]) -> bool:
        """Whether the models agree when both have these values."""
        mine = self.of_original(values)
        return _distance(mine, self.of_converted(found, values, mine)) <= AGREE

    def of_original(self, values: Mapping[str, Array]) -> Response:
        """The original's answer with these values."""
        with _loaded(self.original, self.original, values):
            return self.original.respond(self.request)

    def of_converted(self, found: Correspondence, values: Mapping[str, Array], like: Response) -> Response:
        """The converted model's answer with these values, which are given by the original's names."""
        adapted = Adapted(self.converted, found)
        with _loaded(self.converted, adapted, values):
            return adapted.respond(replace(self.request, structure=like.structure))


@contextmanager
def _loaded(held: Runner, by: Runner, values: Mapping[str, Array]) -> Iterator[None]:
    if not values:
        yield
        return
    before = held.state()
    try:
        by.load(values)
        yield
    finally:
        after = held.state()
        held.load({name: a for name, a in before.items() if not np.array_equal(a, after[name], equal_nan=True)})


def _told_apart(trial: _Trial, found: Correspondence, names: Sequence[str]) -> Correspondence:
    """The same with places exchanged where the effect of a value on the outputs says so."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        pieces = found.weights[name].pieces
        if len(pieces) == 1 and pieces[0].is_whole and all(index is None for index in pieces[0].source):
            key = (found.infos[name].shape, pieces[0].view, pieces[0].target_view, found.infos[name].dtype)
            groups.setdefault(key, []).append(name)
    weights = dict(found.weights)
    runs = 0
    for members in groups.values():
        runs += 2 * len(members)
        if len(members) > 1 and runs <= RUNS:
            value = _other(members[0], found.values[members[0]], 0)
            mine = {name: trial.of_original({name: value}) for name in members}
            other = {name: trial.of_converted(found, {name: value}, mine[name]) for name in members}
            for name, place in _assigned(mine, other).items():
                piece = replace(found.weights[name].pieces[0], converted=found.weights[place].pieces[0].converted)
                weights[name] = WeightMatch(name, (piece,), found.weights[name].how, found.weights[name].note)
    return replace(found, weights=weights)


def _assigned(mine: Mapping[str, Response], other: Mapping[str, Response]) -> dict[str, str]:
    """Name -> the place with the same effect. Names whose place is not clear, or taken, keep their order among what is
    left."""
    assigned: dict[str, str] = {}
    for name, response in mine.items():
        near = sorted((_distance(response, there), place) for place, there in other.items())
        if near[0][0] <= AGREE and near[0][0] <= CLEAR * near[1][0] and near[0][1] not in assigned.values():
            assigned[name] = near[0][1]
    left = [place for place in other if place not in assigned.values()]
    return {**assigned, **dict(zip([name for name in mine if name not in assigned], left, strict=True))}


def _confirmed(found: Correspondence, names: Sequence[str]) -> Correspondence:
    weights = {n: replace(m, how="run", note="") if n in names else m for n, m in found.weights.items()}
    return replace(
        found, weights=weights, ambiguous=tuple(line for line in found.ambiguous if _subject(line) not in names)
    )


def _subject(line: str) -> str:
    """The name that a remark begins with."""
    return line.split(" ")[0]


def _other(name: str, array: Array, index: int) -> Array:
    """Other values of the same shape; those of scales and variances positive."""
    rng = np.random.default_rng([index, 31])
    if role(name) == "variance" or (array.size and float(np.min(array)) == 1.0):
        return np.asarray(rng.uniform(0.5, 1.5, array.shape).astype(array.dtype))
    size = max(rms(array), 0.1)
    return np.asarray((array + size * rng.standard_normal(array.shape)).astype(array.dtype))


def _distance(left: Response, right: Response) -> float:
    if len(left.outputs) != len(right.outputs):
        return np.inf
    return max((between(a, b) for a, b in zip(left.outputs, right.outputs, strict=True)), default=np.inf)
