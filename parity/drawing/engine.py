"""The search for a counterexample, on hypothesis: stored failures first, then drawn cases, then shrinking.

    found = explore(contract, judge, examples=24, seed=0, key=b"...", database="default")
    if found.case is not None: ...

It works inside a test of somebody's own `@given`, prints nothing, and writes nothing to the working directory unless
the database is there (see `parity.drawing.asking`).

Profiles: `profile_settings("isomorph-quick")`, `-full` and `-thorough` are registered here. Any other name is a profile
that the user has registered with `hypothesis.settings.register_profile`; its `max_examples`, `database` and
`derandomize` are honoured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase, InMemoryExampleDatabase
from hypothesis.errors import HypothesisException

from isomorph.parity.drawing.asking import QUIET, ask, no_litter
from isomorph.parity.drawing.cases import cases, exactly, picks, plan_of, simplicity
from isomorph.parity.drawing.strategies import Contract
from isomorph.parity.verdict import Case

__all__ = ["Exploration", "Failure", "Profile", "Shrunk", "explore", "minimal", "profile_settings"]

Database = ExampleDatabase | str | Path | None
KEY = b"isomorph"


@dataclass(frozen=True)
class Failure:
    """What a judge found: the key that shrinking keeps, and the case that was run, where it is not the one asked for
    (a model that refuses a size is asked with the example's). also: what else is wrong with it: shrinking keeps a case
    that has the key of the first failure among them."""

    key: Hashable
    case: Case
    also: frozenset[Hashable] = frozenset()


@dataclass(frozen=True)
class Shrunk:
    """case: the simplest that still fails. runs: what that cost. flaky: it did not fail again, and `case` is what
    shrinking began with. note: why shrinking stopped early, if it did."""

    case: Case
    runs: int
    flaky: bool = False
    note: str = ""


@dataclass(frozen=True)
class Exploration:
    """failures: as found, unshrunk. key, case: of the first one, shrunk; None if nothing failed. replayed: it came from
    the database. runs: cases that were judged before shrinking; shrink_runs: while shrinking. exhausted: time was up
    before all examples were drawn. flaky, note: see `Shrunk`."""

    failures: tuple[Failure, ...] = ()
    key: Hashable | None = None
    case: Case | None = None
    replayed: bool = False
    runs: int = 0
    shrink_runs: int = 0
    exhausted: bool = False
    flaky: bool = False
    note: str = ""


Judge = Callable[[Case], "Hashable | Failure | None"]


def explore(
    contract: Contract,
    judge: Judge,
    *,
    examples: int,
    seed: int = 0,
    key: bytes = b"",
    database: Database = None,
    deadline: float | None = None,
    shrink_runs: int = 200,
    failures: int = 1,
    shapes: int = 6,
    strata: Sequence[str] | None = None,
    like: Case | None = None,
    confirm: Judge | None = None,
    salt: str = "",
) -> Exploration:
    """Draw cases until `examples` have been judged or `failures` of them failed, and shrink the first failure.

    Args:
        judge: what is wrong with a case, as a hashable key such as (kind, quantity, name), or a `Failure`; None if
            nothing is. Its exceptions pass through, except while shrinking, which they end.
        seed: the same seed draws the same cases. key: what the failure is stored under: model, mode, phase.
        database: None; a folder; "default", the one of hypothesis' own settings; or a database object. Only the shrunk
            failure is stored; it is removed when it no longer fails.
        deadline: of `time.monotonic()`; nothing is begun after it. shrink_runs: cases that shrinking may judge.
        shapes: how many different sizes may be drawn before shrinking. strata: in turn, instead of the measured
            shares. like: source and weights of every case drawn. confirm: asked while shrinking, in place of `judge`.
        salt: searches of one seed that differ in it (the mode, the phase) draw other cases of the same sizes.
    """
    like = like or Case("normal", 0)
    store = _database(database)
    with no_litter():
        tally = _Tally(judge, deadline, failures)
        if store is not None:
            strategy = cases(contract, special=True, weights=like.weights)
            reuse = settings(QUIET, max_examples=10, phases=[Phase.reuse], database=store)
            ask(strategy, tally.again, reuse, KEY + key, f"{seed} {salt}")
            tally.drawn = 0  # the plan begins with its first case
        replayed = bool(tally.found)
        if not replayed and examples > 0:
            plan = plan_of(contract, examples, seed, shapes, strata, like)
            drawn = settings(QUIET, max_examples=examples, phases=[Phase.generate], database=None)
            ask(picks(), lambda pick: tally.failed(plan.case(tally.drawn, pick)), drawn, b"", f"{seed} {salt}")
        if not tally.found:
            return Exploration(runs=tally.runs, exhausted=tally.exhausted)
        first = tally.found[0]
        again = confirm or judge
        shrunk = minimal(
            contract, first.case, lambda case: _shows(again(case), first.key, case), runs=shrink_runs, deadline=deadline
        )
        if store is not None and not shrunk.flaky:
            _remember(store, KEY + key, contract, shrunk.case)
    return Exploration(
        tuple(tally.found), first.key, shrunk.case, replayed, tally.runs, shrunk.runs, tally.exhausted,
        shrunk.flaky, shrunk.note,
    )  # fmt: skip


def minimal(
    contract: Contract,
    case: Case,
    fails: Callable[[Case], bool],
    *,
    runs: int = 200,
    deadline: float | None = None,
) -> Shrunk:
    """The simplest case that fails: small sizes, then a simple distribution, then a small seed. `case` must fail.

    At most `runs` cases are judged. An exception of `fails` ends it. Deterministic.
    """
    trial = _Trial(fails, runs, deadline)
    memory = InMemoryExampleDatabase()
    special = case.distribution == "special"
    with no_litter():
        _remember(memory, KEY, contract, case)
        shrinking = settings(QUIET, phases=[Phase.reuse, Phase.shrink], database=memory)
        ask(cases(contract, special, case.weights, case), trial.fails, shrinking, KEY, "")
    best = min((each for each, failed in trial.known.items() if failed), key=simplicity, default=None)
    if best is None:
        return Shrunk(case, trial.runs, not trial.note, trial.note)
    if best != case and not trial.note and not trial.again(best) and not trial.note:
        return Shrunk(case, trial.runs, True, f"{best} failed once and not again")
    return Shrunk(best, trial.runs, note=trial.note)


@dataclass
class _Tally:
    """The cases judged before shrinking."""

    judge: Judge
    deadline: float | None
    wanted: int
    found: list[Failure] = field(default_factory=list)
    stored: list[Case] = field(default_factory=list)
    runs: int = 0
    drawn: int = 0
    exhausted: bool = False

    def again(self, case: Case) -> bool:
        """Whether a stored case still fails. hypothesis asks twice about one that does."""
        if any(case == stored for stored in self.stored):
            return True
        before = len(self.found)
        self.failed(case)
        if len(self.found) > before:
            self.stored.append(case)
        return len(self.found) > before or self.exhausted

    def failed(self, case: Case) -> bool:
        """Whether the search is over."""
        if self.exhausted or len(self.found) >= self.wanted:
            return True
        if _late(self.deadline):
            self.exhausted = True
            return True
        self.drawn += 1
        self.runs += 1
        verdict = self.judge(case)
        if verdict is not None:
            self.found.append(verdict if isinstance(verdict, Failure) else Failure(verdict, case))
        return len(self.found) >= self.wanted


@dataclass
class _Trial:
    """The cases judged while shrinking: each once."""

    predicate: Callable[[Case], bool]
    budget: int
    deadline: float | None
    runs: int = 0
    note: str = ""
    known: dict[Case, bool] = field(default_factory=dict)

    def fails(self, case: Case) -> bool:
        """Whether a case fails; no case that was not judged before does once the budget is spent."""
        if case not in self.known:
            self.known[case] = self.again(case)
        return self.known[case]

    def again(self, case: Case) -> bool:
        """The same, judged anew."""
        if not self.note and self.runs >= self.budget:
            self.note = f"shrinking stopped after {self.runs} runs"
        elif not self.note and _late(self.deadline):
            self.note = "shrinking stopped: time was up"
        if self.note:
            return False
        self.runs += 1
        try:
            return bool(self.predicate(case))
        except Exception as error:  # a worker that died, say: what was found so far stands
            self.note = f"shrinking stopped: {type(error).__name__}: {error}"[:300]
            return False


def _shows(verdict: Hashable | Failure | None, key: Hashable, asked: Case) -> bool:
    """Whether the very case that was asked for fails with this key."""
    if isinstance(verdict, Failure):
        return verdict.case == asked and (verdict.key == key or key in verdict.also)
    return verdict is not None and verdict == key


def _late(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _remember(store: ExampleDatabase, key: bytes, contract: Contract, case: Case) -> None:
    """Store one case as hypothesis stores a failure, in place of what was there."""
    for value in list(store.fetch(key)):
        store.delete(key, value)
    how = settings(QUIET, max_examples=1, phases=[Phase.generate], database=store)
    ask(exactly(contract, case), lambda _: True, how, key, "")


def _database(database: Database) -> ExampleDatabase | None:
    if database == "default":
        return settings().database
    if isinstance(database, str | Path):
        return DirectoryBasedExampleDatabase(database)
    return database


@dataclass(frozen=True)
class Profile:
    """What of a hypothesis profile a check honours. derandomize: no other seed than 0 is taken."""

    examples: int
    database: ExampleDatabase | None
    derandomize: bool


for _name, _examples in (("quick", 3), ("full", 24), ("thorough", 200)):
    settings.register_profile(f"isomorph-{_name}", settings(QUIET, max_examples=_examples))


def profile_settings(name: str) -> Profile:
    """The profile of that name, registered here or by the user. KeyError: there is none."""
    try:
        found = settings.get_profile(name)
    except HypothesisException as error:
        raise KeyError(f"no hypothesis profile {name!r}") from error
    return Profile(found.max_examples, found.database, found.derandomize)
