"""One examination of a pair: every stage in its order, and the verdict made of what they found.

signature   names, shapes, dtypes, trainability and sharing of parameters; number and nesting of outputs
structure   outputs, gradients and buffers in float64 on both sides, against the original's own conditioning
precision   the same in the artifact's own dtype, against the original's own error; a stated budget if it is quantised
special     NaN and infinities
randomised  structure again with randomised weights, so that no initial value hides a bug
steps       parameters and buffers after K steps of SGD with momentum and of Adam
relations   the batch: rows do not influence each other, a batch equals its parts
determinism each side against itself
law         dropout: rate, scale, independence
teeth       a planted error must be noticed, or the check proves nothing

A failing example is shrunk; the module where the two models part is located, and likely causes are named (`explain`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from isomorph.parity.clock import Clock
from isomorph.parity.compare import AGREES
from isomorph.parity.covered import covered_by, covered_of, modules_that_ran, not_checked
from isomorph.parity.drawing import engine, strategies
from isomorph.parity.environment import environment
from isomorph.parity.explaining.explain import Explanation, Found, explain
from isomorph.parity.explaining.profile import profile_modules
from isomorph.parity.judging.determinism import judge_determinism
from isomorph.parity.judging.law import judge_dropout
from isomorph.parity.judging.metamorphic import judge_relations
from isomorph.parity.judging.quantised import budgeted, judge_budget, judge_quantised
from isomorph.parity.judging.randomise import randomised
from isomorph.parity.judging.special import judge_special
from isomorph.parity.judging.teeth import BITE, SHIFTED, bite
from isomorph.parity.judging.training import judge_steps
from isomorph.parity.ledger import CONTINUOUS, Ledger
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.settings import Settings
from isomorph.parity.signature import check_signature
from isomorph.parity.stages import Example, compare_at_precision, compare_in_float64
from isomorph.parity.verdict import Case, ModuleProfile, Status, Verdict

__all__ = ["Exam", "Report"]

Report = Callable[[str, int, int], None]
"""Told of progress: what is being done, how many of how many."""
Key = tuple[str, str, str]  # kind, quantity, name
Outcomes = dict[tuple[str, str], str]

CONFIRMED = 3  # a mode is left after so many examples that failed in float64
CONCLUSIVE_SHARE = 0.5  # of the outputs that could be judged; fewer, and nothing was compared
RANDOMISED = {"eval": 3, "train": 2}
QUANTITIES = {"signature": 0, "output": 1, "buffer": 2}


class Exam:
    """One call of `check`: the pair, the ledger, and what was covered."""

    def __init__(self, settings: Settings, ledger: Ledger, report: Report | None = None) -> None:
        self.settings, self.ledger = settings, ledger
        self.coverage: dict[str, Any] = {}
        self.cases: list[dict[str, Any]] = []
        self.teeth: list[dict[str, Any]] = []
        self.found: Found | None = None
        self.explanation: Explanation | None = None
        self.probe: Example | None = None  # a conclusive example that the self-test can use again,
        self.probed: Outcomes = {}  # and its outcomes
        self.pair: Pair | None = None
        self.clock = Clock()
        self.deadline = None if settings.budget is None else time.monotonic() + settings.budget
        self._tell = report or (lambda stage, done, total: None)
        self._absent: dict[str, Any] = {}

    def begin(self, stage: str) -> None:
        """What follows is this stage: told, and timed."""
        self._report(stage, 0, 0)

    def _report(self, stage: str, done: int, total: int) -> None:
        self.clock.start(stage)
        self._tell(stage, done, total)

    # ------------------------------------------------------------------------------------------------ the stages
    def run(self, pair: Pair) -> Verdict:
        """Every stage. WorkerError: a worker process died."""
        self.pair = pair
        self._exact = pair.original64 is not None and pair.converted64 is not None
        self._quantised = budgeted(pair)
        modes = self._modes(pair)
        self.begin("signature")
        self._signature(pair)
        if self.settings.how.rest:
            self._stage("determinism", judge_determinism)
        for mode in modes:
            self._explore(pair, mode)
        self.begin("modules")
        self.coverage["modules"] = modules_that_ran(pair, self.cases)
        if self._quantised:
            self._stage("the stated budget", judge_budget)
        clean = not self.ledger.mismatches
        if clean and self.settings.how.rest:
            self._stage("special values", judge_special, "eval" in modes)
            self._stage("relations", judge_relations, "eval" in modes)
            if self._exact:
                self._randomised(pair, modes)
        if clean and self.settings.how.steps and "train" in modes and pair.backward:
            self._stage("optimizer steps", judge_steps)
        if clean and self.settings.how.draws and "train" in modes:
            self._stage("dropout", judge_dropout)
        self.ledger.settle()
        if self.ledger.mismatches:
            if self._quantised and all(spec.low is None for spec in pair.contract.inputs if "float" in spec.dtype):
                self.ledger.warn(
                    "a quantised artifact keeps its budget within the range it was calibrated on only; "
                    'declare that range, for example --input "x=float32[b,3,224,224]:0..1"'
                )
            self._explain(pair)
        else:
            self._bite(pair)
        return self._profiled(pair, self._conclude())

    def _modes(self, pair: Pair) -> list[str]:
        """The modes that were asked for and that both models have."""
        modes = []
        for mode in self.settings.modes:
            lacking = [side for side, r in (("first", pair.original), ("second", pair.converted))
                       if mode not in r.about().modes]  # fmt: skip
            if lacking:
                self._not_checked(f"{mode} mode", f"the {' and the '.join(lacking)} model has none")
            else:
                modes.append(mode)
        if self.settings.backward and not pair.backward:
            for side, runner in (("first", pair.original), ("second", pair.converted)):
                about = runner.about()
                if not about.gradients:
                    why = about.missing.get("gradients", f"{about.format} has none")
                    self._not_checked("gradients", f"the {side} model gives none ({why})")
        told = any(text.startswith("structure in float64") for text in self.coverage.get("not_checked", ()))
        if self.settings.dtype != "own" and not self._exact and not told:
            self._not_checked("structure in float64", "one of the models cannot be run in float64")
        return modes

    def _signature(self, pair: Pair) -> None:
        held = pair.converted.buffers()
        state = (pair.original64 or pair.original).state()
        ignored = self.coverage.get("correspondence", {}).get("ignored", ())
        self._absent = {n: state[n] for n in pair.original.buffers() if n not in (*held, *ignored) and n in state}
        sides = (pair.converted, pair.original) if pair.swapped else (pair.original, pair.converted)
        check_signature(*sides, self.ledger)

    def _stage(self, name: str, judge: Callable[[Pair, Ledger, dict[str, Any]], None], wanted: bool = True) -> None:
        """A stage of its own file. One that cannot be done says so, and is no reason to fail."""
        if not wanted or self.pair is None:
            return
        if self._late():
            self._not_checked(name, self._spent)
            return
        self.begin(name)
        judge(self.pair, self.ledger, self.coverage)

    # ------------------------------------------------------------------------------------------------ exploration
    def _explore(self, pair: Pair, mode: str) -> None:
        ran, total = 0, self.settings.count(mode)
        self._report(f"{mode} mode", ran, total)  # before the search begins: it imports hypothesis

        def judge(case: Case) -> engine.Failure | None:
            nonlocal ran
            self._report(f"{mode} mode", ran, total)
            ran += 1
            return self._judge(pair, mode, case, self.ledger)

        def confirm(case: Case) -> engine.Failure | None:
            self.begin(f"{mode} mode, shrinking")
            return self._judge(pair, mode, case, None)

        wanted = self.settings.explain and self.found is None
        result = engine.explore(
            pair.contract, judge, confirm=confirm, examples=total, failures=CONFIRMED,
            seed=self.settings.seed, salt=mode, key=self._key(pair, mode), database=self.settings.database,
            deadline=self.deadline, shrink_runs=self.settings.how.shrink if wanted else 0,
        )  # fmt: skip
        if result.exhausted:
            self._not_checked(f"some examples in {mode} mode", self._spent)
        if len(result.failures) >= CONFIRMED:
            self.ledger.warn(f"{mode} mode was left after {CONFIRMED} failing examples")
        if result.case is not None and wanted:
            self.found = Found(mode, result.case, cast(Key, result.key), result.shrink_runs)

    def _judge(self, pair: Pair, mode: str, case: Case, record: Ledger | None) -> engine.Failure | None:
        """One case through structure and precision: the first reason to reject it, or None. record: None while
        shrinking, when nothing is counted."""
        again, ledger = record is None, record or Ledger(self.ledger.strict, self.ledger.rounded)
        known = len(pair.raised)
        example = pair.example(mode, case)
        if pair.raised[known:]:
            said = f"{pair.raised[known][2]}, on inputs that the original accepts"
            ledger.reject("raised", "signature", "call", said, mode, case)
            key = ("raised", "signature", "call")
            return engine.Failure(key, case, also=frozenset({key}))
        if example is None:
            return None
        if not again:
            self.cases.append({"mode": mode, "case": example.case})
            self._updated_but_absent(example)
        outcomes: Outcomes = {}
        if self._exact:
            outcomes = self._float64(pair, example, ledger, again)
        if self.settings.dtype != "float64" or not self._exact:
            narrow = self._own(pair, example, ledger, outcomes)
            outcomes |= {at: kind for at, kind in narrow.items() if kind not in AGREES or at not in outcomes}
        keys = failures_in(outcomes, ledger.excused)
        return engine.Failure(keys[0], example.case, also=frozenset(keys)) if keys else None

    def _float64(self, pair: Pair, example: Example, ledger: Ledger, again: bool, stage: str = "structure") -> Outcomes:
        converted = pair.converted64
        if converted is None:
            return {}
        try:
            outcomes = compare_in_float64(example, converted, ledger, stage)
        except WorkerError:
            raise
        except Exception as error:  # any exception of the converted model is a finding
            return self._raised(error, example, "float64", ledger)
        self._keep_probe(example, outcomes, stage, again)
        return outcomes

    def _own(self, pair: Pair, example: Example, ledger: Ledger, known: Outcomes) -> Outcomes:
        try:
            if self._quantised:
                return judge_quantised(pair, example, ledger)
            outcomes = compare_at_precision(example, pair.converted, ledger, known)
        except WorkerError:
            raise
        except Exception as error:
            return self._raised(error, example, pair.own_dtype, ledger)
        if not self._exact:
            self._keep_probe(example, outcomes, "precision", False)
        # one example is no evidence of imprecision: those are votes, and counted at the end
        return {at: outcome for at, outcome in outcomes.items() if outcome not in ("precision", "imprecise")}

    def _keep_probe(self, example: Example, outcomes: Outcomes, stage: str, again: bool) -> None:
        """The first example that serves; one without ties takes its place: equal inputs may hide what is planted."""
        telling = {"equal"} | (self.ledger.excused & {"leak"})
        judged = any(quantity == "output" and outcome in telling for (quantity, _), outcome in outcomes.items())
        better = self.probe is None or (
            example.case.distribution in CONTINUOUS and self.probe.case.distribution not in CONTINUOUS
        )
        agreed = judged and (AGREES | telling).issuperset(outcomes.values())
        if better and agreed and not again and stage != "randomised":
            self.probe, self.probed = example, outcomes

    def _raised(self, error: Exception, example: Example, dtype: str, ledger: Ledger) -> Outcomes:
        kind = "random" if type(error).__name__ == "RandomSiteError" else "raised"
        message = f"{line_of(error)} (in {dtype})"
        ledger.reject(kind, "signature", "call", message, example.request.mode, example.case)
        return {("signature", "call"): kind}

    def _updated_but_absent(self, example: Example) -> None:
        """A buffer that the converted model does not hold may be a constant of it, but not one that a run updates."""
        for name, before in self._absent.items():
            after = example.reference.buffers.get(name)
            if after is None or np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
                continue
            message = "is updated by a run, and the converted model has no such buffer"
            if self.ledger.strict:
                self.ledger.reject("missing", "buffer", name, message, example.request.mode, example.case)
            else:
                self._not_checked(f"buffer {name}", f"it {message}")

    def _randomised(self, pair: Pair, modes: list[str]) -> None:
        """Weights moved off their values in both float64 copies, judged in float64 alone, and put back."""
        double, converted = pair.original64, pair.converted64
        if double is None or converted is None or self._late():
            return None
        moved = replace(pair, original=double, own_dtype="float64")
        with randomised(double, converted, self.settings.seed) as any_weights:
            if not any_weights:
                return self._not_checked("randomised weights", "the converted model has none that could be set")
            for mode in modes:
                drawn = strategies.plan(pair.contract, RANDOMISED[mode], self.settings.seed + 1, mode, shapes=1)
                for case in drawn:
                    self.begin("randomised weights")
                    example = moved.example(mode, replace(case, weights="randomised"))
                    if example is not None:
                        self.cases.append({"mode": mode, "case": example.case})
                        self._float64(moved, example, self.ledger, False, "randomised")
            if self.ledger.mismatches:
                self._explain(moved)  # while the weights are those that show it
        return None

    # ------------------------------------------------------------------------------------------------ the end
    def _bite(self, pair: Pair) -> None:
        converted = pair.converted64 if self._exact else pair.converted
        if self._quantised:
            return self._not_checked("the self-test", "a planted error may lie within the artifact's stated budget")
        if self.probe is None or converted is None:
            return None
        evidence = self.ledger.evidence("parameter gradient")
        held = converted.state()
        tested = [name for name, seen in evidence.items() if "equal" in seen and name in held]
        self.begin("self-test")
        rounded = self.ledger.rounded
        self.teeth = bite(converted, self._exact, self.probe, self.probed, tested, self.settings.seed, rounded=rounded)
        if self.teeth and self.teeth[0]["caught"] and self.teeth[0]["relative_size"] > BITE:
            small = "each element shifted" if self.teeth[0]["relative_size"] == SHIFTED else "off by a hundredth"
            self.ledger.warn(f"the original amplifies rounding: an error in its inputs is noticed from {small} on")
        return None

    def _explain(self, pair: Pair) -> None:
        if not self.settings.explain or self.explanation is not None:
            return
        self.begin("explaining")
        try:
            self.explanation = explain(pair, self._exact, self.found, self.ledger, self.settings, self.deadline)
        except WorkerError:
            raise
        except Exception as error:  # an explanation that fails must not hide the mismatch it was to explain
            self._not_checked("explanation", line_of(error))

    def _profiled(self, pair: Pair, verdict: Verdict) -> Verdict:
        """The verdict with the error of each module, where that is wanted and can be had; it changes nothing else."""
        if not self.settings.profile or not self.cases:
            return verdict
        modules: tuple[ModuleProfile, ...] = ()
        if self._late():
            self._not_checked("the errors of the modules", self._spent)
        else:
            self.begin("module profile")
            try:
                modules, note = profile_modules(pair, self.probe, verdict.status == "FAIL" or self._quantised)
                if note:
                    self._not_checked("the errors of the modules", note)
            except Exception as error:  # also a worker that died: the verdict was reached without it
                self._not_checked("the errors of the modules", line_of(error))
        return replace(verdict, modules=modules, coverage={**verdict.coverage, **self._account()})

    def _account(self) -> dict[str, Any]:
        """What is known at the end alone."""
        left = self.ledger.book.left_out
        return {
            "not_checked": self.coverage.get("not_checked", []), "timings": self.clock.table(),
            "seconds": round(self.clock.total, 3), **({"evidence_left_out": left} if left else {}),
        }  # fmt: skip

    def _conclude(self) -> Verdict:
        if self.ledger.mismatches:
            return self.verdict("FAIL", "")
        if not self.cases:
            refused = self.pair.refused if self.pair else []
            reason = refused[-1] if refused else "no example could be drawn"
            if not refused and self.coverage.get("not_checked"):
                return self.verdict("NOTHING_COMPARED", "; ".join(self.coverage["not_checked"]))
            return self.verdict("ERROR", f"the original accepts no drawn input: {reason}")
        # a leak or kink that is excused, in a model that is not ours, was judged all the same
        if not any(seen & {"equal", "failed"} for seen in self.ledger.evidence("output").values()):
            return self.verdict("NOTHING_COMPARED", "every output is empty, zero or too ill-conditioned to judge")
        counts = [c for c in self.ledger.checks if c.quantity == "output" and c.stage in ("structure", "precision")]
        judged, unclear = sum(c.equal + c.failed for c in counts), sum(c.inconclusive for c in counts)
        if judged < CONCLUSIVE_SHARE * (judged + unclear):
            reason = f"{unclear} of {judged + unclear} outputs were too ill-conditioned to judge"
            return self.verdict("NOTHING_COMPARED", reason)
        if self.teeth and not any(tooth["caught"] for tooth in self.teeth):
            return self.verdict("NOTHING_COMPARED", "a planted error was not noticed: the check has no teeth here")
        return self.verdict("PASS", "")

    def verdict(self, status: Status, reason: str) -> Verdict:
        """The verdict with all that was collected."""
        self.ledger.settle()
        pair, settings = self.pair, self.settings
        self.coverage |= {
            "reason": reason, "level": settings.level, "dtype": settings.dtype, "teeth": self.teeth, **self._account(),
        }  # fmt: skip
        self.coverage |= covered_by(self.ledger, self.cases, sorted(self._absent))
        if pair is not None:
            self.coverage |= covered_of(pair, self.ledger)
        sides = () if pair is None else (pair.original, pair.converted)
        about = environment(*(sides[::-1] if pair is not None and pair.swapped else sides))
        found = self.explanation
        return Verdict(
            status, self.ledger.checks, self.ledger.mismatches, self.coverage, settings.seed, about,
            counterexample=found.counterexample if found else None, located=found.located if found else (),
            evidence=self.ledger.book.evidence(), distributions=self.ledger.book.distributions(),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ small things
    @property
    def _spent(self) -> str:
        return f"the budget of {self.settings.budget} s was spent"

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def _not_checked(self, what: str, reason: str) -> None:
        not_checked(self.coverage, what, reason)

    def _key(self, pair: Pair, mode: str) -> bytes:
        """What the example database files a failure under: the two models' signatures, not their weights."""
        said = [mode, *(f"{spec.name}{spec.dtype}{spec.dims}" for spec in pair.contract.inputs)]
        said += [pair.original.about().format, pair.converted.about().format]
        said += [f"{name}{info.shape}" for name, info in pair.original.parameters().items()]
        return b"isomorph:" + hashlib.sha256("\n".join(said).encode()).digest()


def failures_in(outcomes: Mapping[tuple[str, str], str], excused: frozenset[str]) -> list[Key]:
    """The outcomes that are reasons to reject: signature, outputs, buffers, then gradients."""
    agrees = AGREES | excused
    failing = [(kind, quantity, name) for (quantity, name), kind in outcomes.items() if kind not in agrees]
    return sorted(failing, key=lambda key: QUANTITIES.get(key[1], 3))
