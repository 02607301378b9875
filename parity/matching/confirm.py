"""Weights that were matched by neighbours or by order are put to the test: both models get other values there, and must
still agree. Where they do not, each place is tried by itself, and its effect on the outputs tells which is which.
numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from isomorph.convert.errors import UnsupportedError
from isomorph.parity.matching.adapt import Adapted
from isomorph.parity.matching.correspondence import Correspondence
from isomorph.parity.matching.held import role
from isomorph.parity.matching.pieces import WeightMatch
from isomorph.parity.matching.probe import AGREE, between, common_mode
from isomorph.parity.runners.base import Request, Response, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.tolerance import Array, rms

__all__ = ["confirm_weights"]

ROUNDS = 2
WORK = 10**10  # parameters that may be gone through for it, in all runs together
RUNS = 200  # that telling places apart may take in each
WIDE, NARROW = 1e-6, 1e-3  # distance of two answers that agree, in float64 and in the models' own dtype
WORSE = 100.0  # times the distance that the models have anyway
CLEAR = 0.1  # the right place is nearer than this share of the distance of the next


def confirm_weights(
    original: Runner, converted: Runner, example: Sequence[Array] | None, found: Correspondence
) -> Correspondence:
    """The correspondence with what could be confirmed no longer ambiguous. What could not be stays as it was: a model
    that differs anyway, or a format whose values cannot be set, confirms nothing. Both models are as they were
    afterwards.
    """
    doubtful = [
        name
        for name, match in found.weights.items()
        if (match.how in ("order", "neighbours") or "permutations" in match.note)
        and found.values[name].dtype.kind == "f"
    ]
    if example is None or not any(_subject(line) in doubtful for line in found.ambiguous):
        return found
    request = Request(tuple(example), common_mode(original, converted), False)
    with ExitStack() as stack:
        sides = _wide(original, converted, stack) or (original, converted)
        return _confirm(_Trial(*sides, request), found, doubtful)


def _wide(original: Runner, converted: Runner, stack: ExitStack) -> tuple[Runner, Runner] | None:
    """Both in float64, where rounding hides no small effect; None where one of them has none."""
    try:
        if not (original.about().float64 and converted.about().float64):
            return None
        twins = []
        for side in (original, converted):
            twins.append(side.to_float64())
            stack.callback(twins[-1].close)
    except UnsupportedError:
        return None
    return twins[0], twins[1]


def _confirm(trial: _Trial, found: Correspondence, doubtful: Sequence[str]) -> Correspondence:
    try:
        if not trial.begin(found):
            return found
        values = {name: _other(name, found.values[name], index) for index, name in enumerate(doubtful)}
        idle = trial.idle(values)
        if trial.agrees(found, values):
            return _confirmed(found, set(doubtful) - idle)
        told_apart, clear = found, dict[str, Array]()
        for _ in range(ROUNDS):  # what is clear by now may tell others apart
            left = [name for name in doubtful if name not in clear]
            told_apart, more = _told_apart(trial, told_apart, left, clear)
            clear |= {name: values[name] for name in more}
            if trial.agrees(told_apart, values):
                return _confirmed(told_apart, set(doubtful) - idle)
            if not more:
                break
        return _confirmed(told_apart, clear.keys() - idle) if trial.agrees(told_apart, clear) else found
    except WorkerError:
        raise
    except Exception:  # a format whose values cannot be set, or a model that refuses these: nothing is confirmed
        return found


class _Trial:
    """Both models, asked one question with other values here and there."""

    def __init__(self, original: Runner, converted: Runner, request: Request) -> None:
        self.original, self.converted, self.request = original, converted, request
        self.allowed = 0.0
        self.before = original.state(), converted.state()
        elements = sum(array.size for array in self.before[0].values())
        self.runs = min(RUNS, WORK // max(elements, 1))

    def begin(self, found: Correspondence) -> bool:
        """Whether the models agree as they are; that they then do a little worse is allowed."""
        mine = self.of_original({})
        distance = _distance(mine, self.of_converted(found, {}, mine))
        least = NARROW if self.original.dtype != "float64" else WIDE
        self.allowed = min(AGREE, max(least, WORSE * distance))
        return distance <= AGREE

    def agrees(self, found: Correspondence, values: Mapping[str, Array]) -> bool:
        """Whether the models agree when both have these values."""
        mine = self.of_original(values)
        return _distance(mine, self.of_converted(found, values, mine)) <= self.allowed

    def idle(self, values: Mapping[str, Array]) -> set[str]:
        """The names whose values change nothing: their gradient is zero."""
        if not self.original.about().gradients:
            return set()
        with self._original(values):
            gradients = self.original.respond(replace(self.request, backward=True)).parameter_gradients
        return {name for name, gradient in gradients.items() if not np.any(gradient)}

    def of_original(self, values: Mapping[str, Array]) -> Response:
        """The original's answer with these values."""
        with self._original(values):
            return self.original.respond(self.request)

    def of_converted(self, found: Correspondence, values: Mapping[str, Array], like: Response) -> Response:
        """The converted model's answer with these values, which are given by the original's names."""
        adapted = Adapted(self.converted, found)
        touched = {piece.converted for name in values for piece in found.weights[name].pieces}
        with _loaded(adapted, values, self.converted, self.before[1], touched):
            return adapted.respond(replace(self.request, structure=like.structure))

    def _original(self, values: Mapping[str, Array]) -> AbstractContextManager[None]:
        return _loaded(self.original, values, self.original, self.before[0], values.keys())


@contextmanager
def _loaded(
    by: Runner, values: Mapping[str, Array], held: Runner, before: Mapping[str, Array], touched: Set[str]
) -> Iterator[None]:
    """Values loaded by one runner into the model that another one holds, and what they touched put back."""
    try:
        if values:
            by.load(values)
        yield
    finally:
        if values:
            held.load({name: before[name] for name in touched})


def _told_apart(
    trial: _Trial, found: Correspondence, names: Sequence[str], given: Mapping[str, Array]
) -> tuple[Correspondence, list[str]]:
    """The same with places exchanged where the effect of a value on the outputs says so, and the names of which it
    does. given: other values that both models have meanwhile."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        pieces = found.weights[name].pieces
        if len(pieces) == 1 and pieces[0].is_whole and all(index is None for index in pieces[0].source):
            key = (pieces[0].view, pieces[0].target_view, pieces[0].permutation, found.infos[name].dtype)
            groups.setdefault(key, []).append(name)
    weights = dict(found.weights)
    runs, clear = 0, list[str]()
    for members in groups.values():
        runs += 2 * len(members)
        if len(members) > 1 and runs <= trial.runs:
            values = {name: _positive(found.values[name]) for name in members}
            mine = {name: trial.of_original({**given, name: values[name]}) for name in members}
            other = {name: trial.of_converted(found, {**given, name: values[name]}, mine[name]) for name in members}
            assigned = _assigned(mine, other, trial.allowed)
            clear += assigned
            left = [place for place in members if place not in assigned.values()]
            rest = zip([name for name in members if name not in assigned], left, strict=True)
            for name, place in [*assigned.items(), *rest]:  # those that are not clear keep their order
                piece = replace(found.weights[name].pieces[0], converted=found.weights[place].pieces[0].converted)
                weights[name] = WeightMatch(name, (piece,), found.weights[name].how, found.weights[name].note)
    return replace(found, weights=weights), clear


def _assigned(mine: Mapping[str, Response], other: Mapping[str, Response], allowed: float) -> dict[str, str]:
    """Name -> the place with the same effect, where that is clear."""
    assigned: dict[str, str] = {}
    for name, response in mine.items():
        near = sorted((_distance(response, there), place) for place, there in other.items())
        if near[0][0] <= allowed and near[0][0] <= CLEAR * near[1][0] and near[0][1] not in assigned.values():
            assigned[name] = near[0][1]
    return assigned


def _confirmed(found: Correspondence, names: Set[str]) -> Correspondence:
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


def _positive(array: Array) -> Array:
    """The same positive values for every array of a size."""
    return np.asarray(np.random.default_rng(array.size).uniform(0.5, 1.5, array.shape).astype(array.dtype))


def _distance(left: Response, right: Response) -> float:
    if len(left.outputs) != len(right.outputs):
        return np.inf
    return max((between(a, b) for a, b in zip(left.outputs, right.outputs, strict=True)), default=np.inf)
