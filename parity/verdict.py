"""The verdict as data: what was compared, what differed, what could not be judged. Standard library only.

`Verdict.to_dict()` is JSON-able and versioned (`SCHEMA`); its fields are those of the dataclasses below, with tuples as
lists, cases as objects and non-finite numbers as strings ("nan", "inf", "-inf").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

__all__ = [
    "SCHEMA",
    "Case",
    "Check",
    "Counterexample",
    "Distribution",
    "Evidence",
    "Located",
    "Mismatch",
    "ModuleError",
    "ModuleProfile",
    "Status",
    "Verdict",
]

SCHEMA = "isomorph.verdict/1"

Status = Literal["PASS", "FAIL", "UNSUPPORTED", "NOTHING_COMPARED", "ERROR"]
EXIT_CODES: Mapping[str, int] = {"PASS": 0, "FAIL": 1, "UNSUPPORTED": 3, "ERROR": 4, "NOTHING_COMPARED": 5}


@dataclass(frozen=True)
class Case:
    """One drawn example, and all that is needed to draw it again from the same contract.

    `sizes` gives each symbolic dim its size. `source` is "drawn", or "example" where the original accepts only the
    example's own integer inputs. `weights` is "own", or "randomised" in the second phase.
    """

    distribution: str
    seed: int
    sizes: tuple[tuple[str, int], ...] = ()
    source: str = "drawn"
    weights: str = "own"

    def __str__(self) -> str:
        sizes = "".join(f" {name}={size}" for name, size in self.sizes)
        return f"{self.distribution} seed={self.seed}{sizes}" + (" weights=randomised" if self.weights != "own" else "")


@dataclass(frozen=True)
class Mismatch:
    """One way in which the two models differ, aggregated over examples: the worst example is the one shown.

    kind: how they differ.
        structure   number or nesting of outputs or inputs        missing    a parameter, buffer or output is absent
        shape, dtype                                               frozen     trainable on one side only
        value       differs in float64, beyond its conditioning    nonfinite  NaN or infinity in different places
        leak        differs in float64 by about a float32 ulp      kink       another subgradient at a tie or bound
        precision, imprecise   less accurate than the original in its own dtype: beyond 64 times the tolerance, or
        within random      the random draws do not correspond             raised     the converted model raised an
        exception tied        shared on one side only                        integer    integer or boolean elements
        differ
    quantity: "signature", "output", "input gradient", "parameter gradient" or "buffer".
    name: output index or name, input name, torch parameter or buffer name.
    error, tolerance, scale: of the worst element, absolute. position: its index. failing/elements: of that example.
    examples: how many examples showed it.
    """

    kind: str
    quantity: str
    name: str
    mode: str = ""
    dtype: str = ""
    message: str = ""
    case: Case | None = None
    error: float = 0.0
    tolerance: float = 0.0
    scale: float = 0.0
    position: tuple[int, ...] = ()
    expected: float = 0.0
    got: float = 0.0
    failing: int = 0
    elements: int = 0
    examples: int = 1

    def __str__(self) -> str:
        where = " ".join(part for part in (self.mode, self.dtype) if part)
        head = f"{self.quantity} {self.name}: {self.kind}" + (f" ({where})" if where else "")
        if self.elements:
            tail = (
                f"{self.failing}/{self.elements} elements, worst at {list(self.position)}: "
                f"expected {self.expected:.9g}, got {self.got:.9g}, "
                f"tolerance {self.tolerance:.1e}; {self.examples} example(s), worst: {self.case}"
            )
            return f"{head}: {self.message + '; ' if self.message else ''}{tail}"
        return f"{head}: {self.message}" if self.message else head


@dataclass(frozen=True)
class Check:
    """What one stage compared of one quantity.

    compared counts arrays over all examples, and splits into equal + failed + inconclusive + vacuous. inconclusive: the
    original itself is too ill-conditioned there to be evidence. vacuous: empty, zero or not finite throughout.
    names: how many different outputs, inputs, parameters or buffers. worst: the largest error relative to the tensor's
    scale, and `tolerance` the tolerance (same unit) there. ratio: in the precision stage, the median over
    arrays of the converted model's error in units of the original's own (both against float64, root mean square).
    """

    stage: str
    quantity: str
    mode: str
    dtype: str
    compared: int
    equal: int
    failed: int
    inconclusive: int
    vacuous: int
    names: int
    worst: float = 0.0
    tolerance: float = 0.0
    ratio: float | None = None


@dataclass(frozen=True)
class Counterexample:
    """The smallest example found on which the two models differ.

    kind, quantity, name, mode: of the mismatch it shows. case: what was drawn. inputs: name -> {shape, dtype, nonzero,
    values, min, max, mean, preview}; values are a flat list where there are at most 64, else None; min, max and mean
    are of the finite elements, None where there are none; preview is a picture of what looks like an image, else None
    (`explaining.summary.preview`). shrunk: whether the values were simplified
    after the draw, so that the case alone does not give them. runs: how many runs shrinking took. arrays: the inputs
    themselves (numpy, the original's names and axis order); not part of `to_dict`. arrays_of_cotangents: likewise, one
    per output or None.
    """

    kind: str
    quantity: str
    name: str
    mode: str
    case: Case
    inputs: Mapping[str, Mapping[str, Any]]
    shrunk: bool = False
    runs: int = 0
    arrays: tuple[Any, ...] = field(default=(), repr=False, compare=False, metadata={"plain": False})
    cotangents: tuple[Any, ...] = field(default=(), repr=False, compare=False, metadata={"plain": False})


@dataclass(frozen=True)
class ModuleError:
    """One call of one module of the original and its counterpart in the converted model.

    local: its own error, on the original's inputs. accumulated: its error inside the whole run. Both relative to the
    scale of the original's value there; None where they could not be measured. tolerance: what is allowed, same unit.
    """

    path: str
    kind: str
    call: int
    counterpart: str
    local: float | None
    accumulated: float | None
    tolerance: float


@dataclass(frozen=True)
class Located:
    """The first module in which the two models part. direction: "forward" or "backward" (from the outputs towards the
    inputs). module: its dotted path in the original, "" where the model has no smaller part that is at fault; kind: its
    class; counterpart: its name in the converted model. modules: what was measured, in order of execution. causes: what
    the data says it is, most likely first. note: what could not be matched."""

    direction: str
    module: str
    kind: str
    counterpart: str = ""
    modules: tuple[ModuleError, ...] = ()
    causes: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """How far apart one array was, over all examples of one stage, mode and dtype.

    quantity, name: as of a `Mismatch`. module: dotted path of the original's module that owns it, "" for inputs and
    outputs. compared: how many arrays; equal, failed, inconclusive, vacuous: as of a `Check`. error, tolerance: of the
    worst example (by their ratio), relative to scale, which is each element's magnitude or the root mean square of the
    array, whichever is larger. Of a quantised artifact both are root mean squares. floor: the original's own largest
    error in that example, same unit: against float64; in the structure stage what rounding in float64 does to the
    original; None where it was not measured, which in the structure stage it is only where the smallest tolerance was
    exceeded. ratio: as of a `Check`, the median over examples.

    In the precision stage a difference in one example is a vote and no mismatch: `error` may exceed `tolerance` in a
    model that passes, and `failed` says in how many examples it does.
    """

    stage: str
    quantity: str
    name: str
    mode: str
    dtype: str
    module: str = ""
    compared: int = 0
    equal: int = 0
    failed: int = 0
    inconclusive: int = 0
    vacuous: int = 0
    error: float = 0.0
    tolerance: float = 0.0
    floor: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class ModuleProfile:
    """One module of the original on one example in eval mode, in order of completion (a module after its parts).

    path: dotted, "" for the model itself. kind: its class. counterpart: its name in the converted model, "" where none
    was found, and of the model itself. forward: the largest error of its outputs, over all its calls, in the converted
    model's own dtype against float64, relative to scale (as of `Evidence`); gradient: likewise of the gradient that
    arrives at its outputs. forward_floor, gradient_floor: the original's own error there, the noise floor. None: not
    measured. parameters: names of those it owns itself.
    """

    path: str
    kind: str
    counterpart: str = ""
    forward: float | None = None
    forward_floor: float | None = None
    gradient: float | None = None
    gradient_floor: float | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distribution:
    """How the errors of one stage and quantity are distributed over elements, over all examples and modes.

    edges: of the bins, log10 of the error relative to scale (as of `Evidence`); counts: elements per bin, the first and
    the last of which hold also what lies beyond. exact: elements without any error, which no logarithm holds. floor,
    floor_exact: likewise of the original's own error against float64; empty and 0 where it was not measured. Arrays
    that were vacuous, inconclusive or no floats are left out.
    """

    stage: str
    quantity: str
    dtype: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    floor: tuple[int, ...] = ()
    exact: int = 0
    floor_exact: int = 0


@dataclass(frozen=True)
class Verdict:
    """The answer to "are these two models the same?". It has no truth value: read `status`.

    status: PASS; FAIL (see `mismatches`); UNSUPPORTED (no runner for it); NOTHING_COMPARED (no conclusive comparison,
    or
        a planted error was not noticed: see coverage["teeth"] and coverage["reason"]); ERROR (the original itself
        fails).
    coverage: what was and was not tested, JSON-able: inputs, outputs, parameters {compared, untested, frozen, tied},
        buffers {compared, absent}, modes, dtypes, cases, sizes, dims, teeth, chaotic, warnings, seconds, and timings:
        stage -> seconds.
    environment: versions and settings. artifacts: name -> path. evidence: of every array that was compared. modules:
        what each module of the original does to the error, empty where it was not asked for. distributions: of errors.
    """

    status: Status
    checks: tuple[Check, ...]
    mismatches: tuple[Mismatch, ...]
    coverage: Mapping[str, Any]
    seed: int
    environment: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    counterexample: Counterexample | None = None
    located: tuple[Located, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    modules: tuple[ModuleProfile, ...] = ()
    distributions: tuple[Distribution, ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("a Verdict has no truth value: compare verdict.status with 'PASS'")

    @property
    def exit_code(self) -> int:
        """The command's exit code for this status."""
        return EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; versioned by the key "schema"."""
        return {"schema": SCHEMA, **_plain(self)}

    def summary(self) -> str:
        """A few plain lines."""
        lines = [f"{self.status}: {self._compared()}"]
        for stage, unit in (("structure", "float64"), ("randomised", "float64, randomised weights")):
            picked = [c for c in self.checks if c.stage == stage and c.compared]
            if picked:
                worst = max(picked, key=lambda c: c.worst / c.tolerance if c.tolerance else 0.0)
                lines.append(
                    f"worst {unit}: {worst.worst:.1e} of {worst.tolerance:.1e} allowed "
                    f"({worst.quantity}s, {worst.mode}; relative to scale)"
                )
        ratios = [c for c in self.checks if c.stage == "precision" and c.ratio is not None]
        if ratios:
            worst = max(ratios, key=lambda c: c.ratio or 0.0)
            where = f"({worst.quantity}s, {worst.mode})"
            lines.append(f"{worst.dtype} error: {worst.ratio:.2g}x {self._whose()} own {where}")
        lines += [f"not judged: {text}" for text in self._gaps()]
        lines += [f"not checked: {text}" for text in self.coverage.get("not_checked", ())]
        lines += [f"warning: {text}" for text in self.coverage.get("warnings", ())]
        if self.status != "PASS" and self.coverage.get("reason"):
            lines.append(f"reason: {self.coverage['reason']}")
        lines += [f"- {mismatch}" for mismatch in self.mismatches[:8]]
        if len(self.mismatches) > 8:
            lines.append(f"... and {len(self.mismatches) - 8} more")
        if self.counterexample is not None:
            shapes = ", ".join(f"{name} {said['shape']}" for name, said in self.counterexample.inputs.items())
            lines.append(f"smallest example: {self.counterexample.mode} mode, {self.counterexample.case}: {shapes}")
        for located in self.located:
            where = f"{located.module or 'the model itself'}{f' ({located.kind})' if located.kind else ''}"
            lines.append(f"parts {located.direction} at {where}" + "".join(f"; likely {c}" for c in located.causes[:2]))
        return "\n".join(lines)

    def _whose(self) -> str:
        """The model that errors are measured by."""
        side = self.coverage.get("yardstick", "original")
        named = "the original's" if side == "original" else "the converted model's"
        return "torch's" if self.environment.get(f"{side}.format") in ("torch", "exported") else named

    def _compared(self) -> str:
        parts = []
        for quantity in ("output", "input gradient", "parameter gradient", "buffer"):
            picked = [c for c in self.checks if c.quantity == quantity and c.compared]
            if picked:
                names = max(c.names for c in picked)
                noun = quantity.replace("parameter gradient", "gradient").replace("input gradient", "gradient")
                of = {"input gradient": "input", "parameter gradient": "parameter"}.get(quantity)
                total = sum(c.compared for c in picked)
                parts.append(_plural(total, noun) + (f" of {_plural(names, of)}" if of else ""))
        cases = len(self.coverage.get("cases", ()))
        modes = " and ".join(self.coverage.get("modes", ()))
        return f"compared {', '.join(parts) or 'nothing'}, in {_plural(cases, 'example')} ({modes} mode)"

    def _gaps(self) -> list[str]:
        parameters = self.coverage.get("parameters", {})
        gaps = []
        if parameters.get("untested"):
            gaps.append(
                _listed(parameters["untested"], "parameter", "whose gradient is zero or not finite in every example")
            )
        if self.coverage.get("untested_inputs"):
            gaps.append(
                _listed(
                    self.coverage["untested_inputs"], "input", "whose gradient is zero or not finite in every example"
                )
            )
        if self.coverage.get("chaotic"):
            gaps.append(_listed(self.coverage["chaotic"], "quantity", "too ill-conditioned to judge (chaotic)"))
        for mode, reason in self.coverage.get("no_gradient", {}).items():
            gaps.append(f"gradients in {mode} mode: torch cannot differentiate the original ({reason})")
        return gaps


def _plural(count: int, noun: str | None) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _listed(names: Any, noun: str, what: str) -> str:
    shown = ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
    plural = noun if len(names) == 1 else {"quantity": "quantities"}.get(noun, noun + "s")
    return f"{len(names)} {plural} {what}: {shown}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.metadata.get("plain", True)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
