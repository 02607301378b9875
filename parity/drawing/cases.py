"""Cases as hypothesis strategies.

What is searched is small: one size for each free dim, a distribution, whether integers are the example's, and a seed.
`cases` draws all of them as integers, of which less is simpler, so that a failure shrinks to small sizes first, then to
a simple distribution, then to seed 0, and so that a stored failure can be read by a later run.

    @given(cases(contract))
    def test_it(case): ... materialise(contract, case) ...

`picks` is for a search by plan (`engine`): the plan says which stratum is next, hypothesis what is drawn in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from isomorph.parity.drawing.distributions import DISTRIBUTIONS, FINITE
from isomorph.parity.drawing.strategies import ORDER, STRATA, Contract, Sizes, limits, order, possible, variants
from isomorph.parity.verdict import Case

__all__ = ["Pick", "Plan", "cases", "exactly", "picks", "simplicity"]

SEEDS = 10_000
LARGEST_SEED = 2**31 - 1
SOURCES = ("drawn", "example")


@dataclass(frozen=True)
class Pick:
    """What hypothesis draws for the next case of a plan: numbers that the plan interprets."""

    seed: int
    kind: int
    shape: int


@dataclass(frozen=True)
class Plan:
    """What the n-th case of a search is. strata: in turn. sizes: the example's first; each is used once before any is
    drawn again. offset: so that searches of different seeds do not begin alike."""

    strata: tuple[str, ...]
    sizes: tuple[Sizes, ...]
    offset: int = 0
    like: Case = field(default_factory=lambda: Case("normal", 0))

    def case(self, index: int, pick: Pick) -> Case:
        """The case number `index`. Two cases of a stratum are of the distribution it is named for, then two of any in
        it, and so on: where few are drawn they are the measured ones."""
        stratum = self.strata[index % len(self.strata)]
        others = STRATA[stratum]
        before = self.strata[: index % len(self.strata)].count(stratum)
        kind = others[0] if before % 4 < 2 else others[pick.kind % len(others)]
        sizes = self.sizes[index if index < len(self.sizes) else pick.shape % len(self.sizes)]
        return replace(self.like, distribution=kind, seed=(pick.seed + self.offset) % SEEDS, sizes=sizes)


def plan_of(
    contract: Contract,
    examples: int,
    seed: int,
    shapes: int,
    strata: Sequence[str] | None = None,
    like: Case | None = None,
) -> Plan:
    """The plan of a search for one mode. strata: in turn, instead of the measured shares. like: source and weights of
    every case."""
    turns = tuple(strata) if strata else tuple(order(examples)) or ORDER
    return Plan(turns, variants(contract, seed, shapes), seed * 7919 % SEEDS, like or Case("normal", 0))


def picks() -> SearchStrategy[Pick]:
    """Picks, each equally likely; the simplest is (0, 0, 0).

    Drawn from booleans: hypothesis takes a part of all integers from constants that it finds in the modules loaded so
    far, which would make the same seed mean other cases in another process.
    """
    bits = st.tuples(*[st.booleans()] * 20).map(lambda drawn: sum(bit << place for place, bit in enumerate(drawn)))
    mixed = bits.map(lambda n: n * 0x9E3779B1 % 2**32)  # hypothesis also varies one bit of what it drew before
    return mixed.map(lambda n: Pick((n >> 8) % SEEDS, (n >> 16) % 251, (n >> 20) % 241))


def cases(
    contract: Contract, special: bool = False, weights: str = "own", around: Case | None = None
) -> SearchStrategy[Case]:
    """Every case of a contract; shrinks towards small sizes, a simple distribution and seed 0.

    special: also NaN and infinities. around: a case that is one of them, whatever its sizes are.
    """
    names = DISTRIBUTIONS if special else FINITE
    known = dict(around.sizes) if around is not None else {}
    bounds = [
        (min(low, known.get(name, low)), max(high, known.get(name, high)))
        for name, (low, high) in limits(contract).items()
    ]
    bounds += [(0, len(names) - 1), (0, 1), (0, LARGEST_SEED)]
    drawn = _tuples(bounds).map(lambda numbers: _case(contract, numbers, weights))
    return drawn.filter(lambda case: possible(contract, case.sizes))


def exactly(contract: Contract, case: Case) -> SearchStrategy[Case]:
    """A strategy whose simplest value is one case, drawn as `cases` draws it, with one choice more at its end.

    Stored by hypothesis, it is where `cases` starts to shrink: the choice too many tells it from a case that hypothesis
    has shrunk already, which it would leave alone.
    """
    sizes = dict(case.sizes)
    _, *rest = simplicity(case)
    numbers = [*(sizes[name] for name, _ in contract.sizes), *rest]
    bounds = [(number, number + 1) for number in numbers]
    drawn = st.tuples(_tuples(bounds), st.booleans())
    return drawn.map(lambda pair: _case(contract, pair[0], case.weights))


def simplicity(case: Case) -> tuple[tuple[int, ...], int, int, int]:
    """What makes one case simpler than another: less is simpler."""
    sizes = tuple(size for _, size in case.sizes)
    return sizes, DISTRIBUTIONS.index(case.distribution), SOURCES.index(case.source), case.seed


def _tuples(bounds: Sequence[tuple[int, int]]) -> SearchStrategy[tuple[int, ...]]:
    """Integers in bounds. One that is not free is drawn too (and held back to its bound), so that the same number of
    choices is made for every contract of as many dims."""
    free = [st.integers(low, max(high, low + 1)) for low, high in bounds]
    return st.tuples(*free).map(lambda drawn: tuple(min(n, high) for n, (_, high) in zip(drawn, bounds, strict=True)))


def _case(contract: Contract, drawn: tuple[int, ...], weights: str) -> Case:
    *sizes, kind, source, seed = drawn
    named = tuple((name, size) for (name, _), size in zip(contract.sizes, sizes, strict=True))
    return Case(DISTRIBUTIONS[kind], seed, named, SOURCES[source], weights)
