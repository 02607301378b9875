"""Are two models the same model? `check` draws examples, runs both models, and returns a `Verdict`.

signature   names, shapes, dtypes, trainability and sharing of parameters; number and nesting of outputs
structure   outputs, gradients and buffers in float64 on both sides, against the original's own conditioning
precision   the same in the model's own dtype, against the original's own error
randomised  structure again with randomised weights, so that no initial value hides a bug (level="full")
teeth       a copy with one perturbed parameter must be rejected, or the check proves nothing
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isomorph.convert.errors import UnsupportedError, UsageError
from isomorph.parity import strategies
from isomorph.parity.compare import AGREES
from isomorph.parity.contract import environment, prepare
from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.base import Request, Response, Runner
from isomorph.parity.signature import check_signature, describe_parameters
from isomorph.parity.stages import Example, compare_at_precision, compare_in_float64
from isomorph.parity.verdict import Case, Status, Verdict

__all__ = ["check"]

EXAMPLES = {"full": 24, "quick": 3}
CONFIRMED = 3  # a mode is left after so many examples that failed in float64
TEETH = 3
BITE = 1e-3  # the relative size of the planted error


def check(
    original: Any,
    converted: Any,
    inputs: Any = None,
    modes: Sequence[str] = ("eval", "train"),
    examples: int | None = None,
    backward: bool = True,
    seed: int = 0,
    dtype: str = "both",
    level: str = "full",
    strict: bool = True,
) -> Verdict:
    """Compare a torch module with its conversion.

    Args:
        original: the torch.nn.Module. converted: a Conversion of it. Both are bit-identical afterwards.
        inputs: example inputs that the original accepts: a tensor, a tuple of arguments, a dict of keyword arguments,
        or
            (args, kwargs). None takes the conversion's own example, or makes one up from its ports.
        modes: "eval", "train" or both. examples: how many to draw in eval mode; a third of it in train mode.
        backward: also gradients, of every float input and every trainable parameter, for random cotangents.
        dtype: "float64" (structure only), "own" (precision only) or "both". Precision needs a float64 reference of the
            original, never of the converted model.
        level: "full" (24 examples, randomised weights too) or "quick" (3 examples).
        strict: whether kinks and float32 leaks are failures (right for our own conversions) or warnings.

    Raises:
        UsageError: an argument is not one of the above.
    """
    _validate(modes, dtype, level, examples)
    start = time.perf_counter()
    exam = _Exam(modes, examples or EXAMPLES[level], backward, seed, dtype, level, strict)
    try:
        return exam.run(original, converted, inputs, start)
    except UnsupportedError as error:
        return exam.verdict("UNSUPPORTED", str(error), start)


class _Exam:
    """One call of `check`: the runners, the ledger, and what was covered."""

    def __init__(
        self, modes: Sequence[str], examples: int, backward: bool, seed: int, dtype: str, level: str, strict: bool
    ) -> None:
        self.modes, self.backward, self.seed, self.dtype, self.level = tuple(modes), backward, seed, dtype, level
        self.counts = {"eval": examples, "train": max(2, examples // 3) if examples > 1 else 1}
        self.ledger = Ledger(strict)
        self.cases: list[dict[str, Any]] = []
        self.coverage: dict[str, Any] = {}
        self.refused: list[str] = []
        self.teeth: list[dict[str, Any]] = []
        self.probe: Example | None = None  # a conclusive example that the self-test can use again

    def run(self, original: Any, converted: Any, inputs: Any, start: float) -> Verdict:
        prepared = prepare(original, converted, inputs, self.ledger)
        if prepared is None:
            return self.verdict("FAIL", "the inputs of the two models do not correspond", start)
        self.contract, self.own_dtype = prepared.contract, prepared.own_dtype
        self.own, self.double = prepared.original, prepared.original.to_float64()
        self.new = prepared.converted
        self.new_double = self.new.to_float64() if self.dtype != "own" else None
        held = self.new.buffers()
        self.absent = {
            name: value
            for name, value in self.double.state().items()
            if name in self.own.buffers() and name not in held
        }
        check_signature(self.own, self.new, self.ledger)
        self.coverage["random_sites"] = prepared.random_sites
        for mode in self.modes:
            self._mode(mode, strategies.plan(self.contract, self.counts[mode], self.seed, mode))
        if self.level == "full" and self.new_double is not None and not self.ledger.mismatches:
            self._randomised(self.new_double)
        self.ledger.settle()
        if self.new_double is not None and not self.ledger.mismatches:
            self._bite(self.new_double)
        return self._conclude(start)

    def _mode(self, mode: str, cases: Sequence[Case], weights: str = "own") -> None:
        confirmed = 0
        for case in cases:
            example = self._example(mode, case)
            if example is None:
                continue
            self.cases.append({"mode": mode, "case": example.case})
            self._updated_but_absent(example)
            outcomes: dict[tuple[str, str], str] = {}
            if self.new_double is not None:
                outcomes = self._float64(example, self.new_double, weights)
                confirmed += not _agrees(outcomes)
            if self.dtype != "float64" and weights == "own":
                self._own(example, outcomes)
            if confirmed >= CONFIRMED:
                self.ledger.warn(f"{mode} mode was left after {confirmed} failing examples")
                return

    def _example(self, mode: str, case: Case) -> Example | None:
        """The case on the original. Where it refuses: with the example's integers, then with the example's sizes too.

        A module that torch itself cannot differentiate is compared forward only, and the verdict says so.
        """
        tries = (
            case,
            replace(case, source="example"),
            replace(case, sizes=self.contract.sizes),
            replace(case, sizes=self.contract.sizes, source="example"),
        )
        for attempt in dict.fromkeys(tries):
            arrays = strategies.materialise(self.contract, attempt)
            for backward in (True, False) if self.backward else (False,):
                request = Request(arrays, mode, backward, attempt.seed)
                try:
                    example = Example(self.own, self.double, attempt, request, self.own_dtype)
                except Exception as error:  # any exception of a foreign model: it refuses this input
                    self.refused.append(f"{mode}, {attempt}: {_line(error)}")
                    continue
                if backward != self.backward:
                    self.coverage.setdefault("no_gradient", {})[mode] = self.refused[-1]
                return example
        return None

    def _updated_but_absent(self, example: Example) -> None:
        """A buffer that the converted model does not hold may be a constant of it, but not one that a run updates."""
        for name, before in self.absent.items():
            if not np.array_equal(before, example.reference.buffers[name], equal_nan=before.dtype.kind == "f"):
                self.ledger.reject(
                    "missing", "buffer", name, "is updated by a run, and the converted model has no such buffer",
                    example.request.mode, example.case,
                )  # fmt: skip

    def _float64(self, example: Example, converted: Runner, weights: str) -> dict[tuple[str, str], str]:
        stage = "structure" if weights == "own" else "randomised"
        try:
            outcomes = compare_in_float64(example, converted, self.ledger, stage)
        except Exception as error:  # any exception of the converted model is a finding
            self._raised(error, example, "float64")
            return {("signature", "call"): "raised"}
        judged = any(quantity == "output" and outcome == "equal" for (quantity, _), outcome in outcomes.items())
        if self.probe is None and judged and _agrees(outcomes) and weights == "own":
            self.probe = example
        return outcomes

    def _own(self, example: Example, known: dict[tuple[str, str], str]) -> None:
        try:
            compare_at_precision(example, self.new, self.ledger, known)
        except Exception as error:
            self._raised(error, example, self.own_dtype)

    def _raised(self, error: Exception, example: Example, dtype: str) -> None:
        kind = "random" if type(error).__name__ == "RandomSiteError" else "raised"
        message = f"{_line(error)} (in {dtype})"
        self.ledger.reject(kind, "signature", "call", message, example.request.mode, example.case)

    def _randomised(self, converted: Runner) -> None:
        """The second phase: weights moved off their values in both float64 copies, and put back."""
        before = self.double.state()
        state = randomise(before, self.double, np.random.default_rng([self.seed, 5]))
        originals = self.own, self.double
        self.own = self.double  # randomised weights are judged in float64 alone
        try:
            self.double.load(state)
            converted.load(state)
            for mode in self.modes:
                count = {"eval": 3, "train": 2}[mode]
                drawn = strategies.plan(self.contract, count, self.seed + 1, mode, shapes=1)
                cases = [replace(case, weights="randomised") for case in drawn]
                self._mode(mode, cases, "randomised")
        finally:
            self.own, self.double = originals
            self.double.load(before)
            converted.load(before)

    def _bite(self, converted: Runner) -> None:
        """The self-test: with one parameter perturbed, the same example must be rejected."""
        if self.probe is None:
            return
        evidence = self.ledger.evidence("parameter gradient")
        state = self.double.state()
        tested = [name for name, seen in evidence.items() if "equal" in seen and name in state]
        if not tested:
            self.probe.near = None
            self._bite_input(converted, self.probe)
            return
        rng = np.random.default_rng([self.seed, 9])
        chosen = dict.fromkeys([tested[0], tested[-1], *rng.choice(tested, 1)])
        for name in list(chosen)[:TEETH]:
            value = state[name]
            size = BITE * max(float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0, BITE)
            self.probe.near = None
            try:
                converted.load({name: value + size * rng.choice([-1.0, 1.0], value.shape)})
                caught = not _agrees(compare_in_float64(self.probe, converted, Ledger(), retest=False))
            finally:
                converted.load({name: value})
            self.teeth.append({"parameter": name, "relative_size": BITE, "caught": caught})

    def _bite_input(self, converted: Runner, probe: Example) -> None:
        """Without a tested parameter the converted model is given slightly other inputs instead."""
        if any(array.dtype.kind == "f" for array in probe.request.inputs):
            caught = not _agrees(compare_in_float64(probe, _Bitten(converted), Ledger(), retest=False))
            self.teeth.append({"parameter": None, "relative_size": BITE, "caught": caught})

    def _conclude(self, start: float) -> Verdict:
        if self.ledger.mismatches:
            return self.verdict("FAIL", "", start)
        if not self.cases:
            reason = self.refused[-1] if self.refused else "no example could be drawn"
            return self.verdict("ERROR", f"the original accepts no drawn input: {reason}", start)
        outputs = self.ledger.evidence("output")
        if not any("equal" in seen for seen in outputs.values()):
            reason = "every output is empty, zero or too ill-conditioned to judge"
            return self.verdict("NOTHING_COMPARED", reason, start)
        if self.teeth and not any(tooth["caught"] for tooth in self.teeth):
            return self.verdict(
                "NOTHING_COMPARED", "a planted error was not noticed: the check has no teeth here", start
            )
        return self.verdict("PASS", "", start)

    def verdict(self, status: Status, reason: str, start: float) -> Verdict:
        """The verdict with all that was collected."""
        self.ledger.settle()
        ledger, coverage = self.ledger, self.coverage
        coverage["reason"] = reason
        coverage["level"], coverage["modes"], coverage["dtype"] = self.level, list(self.modes), self.dtype
        coverage["own_dtype"] = getattr(self, "own_dtype", "")
        coverage["cases"] = self.cases
        coverage["sizes"] = [dict(sizes) for sizes in dict.fromkeys(item["case"].sizes for item in self.cases)]
        coverage["outputs"] = _tested(ledger.evidence("output"))
        coverage["inputs"] = _tested(ledger.evidence("input gradient"))
        coverage["untested_inputs"] = _untested(ledger.evidence("input gradient"))
        coverage["buffers"] = {
            "compared": sorted(ledger.evidence("buffer")),
            "absent": sorted(getattr(self, "absent", ())),
        }
        if hasattr(self, "own"):
            coverage["parameters"] = describe_parameters(self.own, ledger.evidence("parameter gradient"), self.backward)
        chaotic = [
            f"{quantity} {name}"
            for quantity in ("output", "input gradient", "parameter gradient", "buffer")
            for name, seen in ledger.evidence(quantity).items()
            if "inconclusive" in seen and not seen & {"equal", "failed"}
        ]
        coverage["chaotic"] = chaotic
        coverage["teeth"] = self.teeth
        coverage["refused"] = self.refused[:20]
        coverage["warnings"] = list(ledger.warnings)
        coverage["seconds"] = round(time.perf_counter() - start, 3)
        return Verdict(status, ledger.checks, ledger.mismatches, coverage, self.seed, environment())


class _Bitten:
    """A runner that answers for inputs a little off those that it is asked about."""

    def __init__(self, inner: Runner) -> None:
        self._inner = inner

    def respond(self, request: Request) -> Response:
        """The inner runner's response to float inputs a thousandth larger."""
        moved = tuple(a * a.dtype.type(1 + BITE) if a.dtype.kind == "f" else a for a in request.inputs)
        return self._inner.respond(replace(request, inputs=moved))


def randomise(state: dict[str, Any], original: Runner, rng: np.random.Generator) -> dict[str, Any]:
    """Float parameters times 1 +- 0.3, zeros moved to +- 0.1; running variances log-uniform in [0.01, 10], running
    means normal with deviation 0.5. Tied names stay tied; other buffers and all integers stay as they are."""
    moved: dict[str, Any] = {}
    parameters = original.parameters()
    for name, value in state.items():
        last = name.rpartition(".")[2]
        if value.dtype.kind != "f":
            continue
        if name in parameters:
            tied = parameters[name].tied_to
            factor = 1 + 0.3 * rng.uniform(-1, 1, value.shape)
            moved[name] = (
                moved[tied] if tied else np.where(value == 0, 0.1 * rng.standard_normal(value.shape), value * factor)
            )
        elif last == "running_var":
            moved[name] = 10.0 ** rng.uniform(-2, 1, value.shape)
        elif last == "running_mean":
            moved[name] = 0.5 * rng.standard_normal(value.shape)
    return moved


def _agrees(outcomes: Mapping[tuple[str, str], str]) -> bool:
    return AGREES.issuperset(outcomes.values())


def _tested(evidence: Any) -> list[str]:
    return [name for name, seen in evidence.items() if seen & {"equal", "failed"}]


def _untested(evidence: Any) -> list[str]:
    return [name for name, seen in evidence.items() if seen == {"vacuous"}]


def _line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]


def _validate(modes: Sequence[str], dtype: str, level: str, examples: int | None) -> None:
    if isinstance(modes, str) or not modes or set(modes) - {"eval", "train"}:
        raise UsageError(f"modes must be some of 'eval' and 'train', not {modes!r}")
    if dtype not in ("both", "float64", "own"):
        raise UsageError(f"dtype must be 'both', 'float64' or 'own', not {dtype!r}")
    if level not in EXAMPLES:
        raise UsageError(f"level must be 'full' or 'quick', not {level!r}")
    if examples is not None and examples < 1:
        raise UsageError(f"examples must be at least 1, not {examples}")
