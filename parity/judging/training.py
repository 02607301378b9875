"""Do the two models stay together while they train? K steps of SGD with momentum and of Adam. numpy only.

The optimizers are numpy, in float64, each side on its own gradients: the models are judged, and not the frameworks'
optimizers, which are not part of a conversion. What is exercised of each model is what an optimizer uses of it: its
gradients, its trainable set, its sharing of weights, its buffers from step to step, and that values put into it are
those it computes with.

Judged is how far each parameter has moved, not where it is: a wrong direction shows however short the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import Finding, canonical, compare_precision, compare_structure
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.base import ParameterInfo, Perturbation, Request, Response, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import ROUNDING_SHARE, Example
from isomorph.parity.tolerance import Array

__all__ = ["Adam", "Momentum", "judge_steps"]

State = dict[str, Array]
RELATIVE_STEP = 0.02  # how far the first step moves a tensor at most, relative to its values
FLOOR_OF_ADAM = 2.0**22  # Adam's epsilon over the largest gradient that is zero up to rounding, in float64
COARSE_FLOOR = 32.0  # in the model's own dtype: ulps of the largest gradient that are zero up to rounding
COARSE_FLOOR_OF_ADAM = 2.0**8  # as FLOOR_OF_ADAM, in the model's own dtype
SHRINK = 0.1
COARSE_EVIDENCE = 0.1  # at working precision a tolerance above this, relative to scale, proves nothing
ATTEMPTS = 3  # with a smaller learning rate, where the original does not stay finite


@dataclass
class Momentum:
    """SGD with momentum: m <- 0.9 m + g, p <- p - rate * m."""

    rate: float
    momentum: float = 0.9
    _velocity: State = field(default_factory=dict)

    def step(self, name: str, gradient: Array) -> Array:
        """How far the parameter moves now."""
        self._velocity[name] = self.momentum * self._velocity.get(name, np.zeros_like(gradient)) + gradient
        return -self.rate * self._velocity[name]


@dataclass
class Adam:
    """Adam with bias correction. Its epsilon is relative to the largest gradient of the original: 1e-8 would make steps
    of full length of gradients that are rounding errors beside the others."""

    rate: float
    epsilon: float
    first: float = 0.9
    second: float = 0.999
    _mean: State = field(default_factory=dict)
    _square: State = field(default_factory=dict)
    _count: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, gradient: Array) -> Array:
        """How far the parameter moves now."""
        count = self._count[name] = self._count.get(name, 0) + 1
        zero = np.zeros_like(gradient)
        self._mean[name] = self.first * self._mean.get(name, zero) + (1 - self.first) * gradient
        self._square[name] = self.second * self._square.get(name, zero) + (1 - self.second) * gradient**2
        mean = self._mean[name] / (1 - self.first**count)
        square = self._square[name] / (1 - self.second**count)
        return np.asarray(-self.rate * mean / (np.sqrt(square) + self.epsilon))


Optimizer = Momentum | Adam


@dataclass(frozen=True)
class _Plan:
    """What both sides do: one request per step, an optimizer, and below what a gradient is zero up to rounding. noise:
    how far such a gradient moves a parameter, over the largest movement."""

    requests: tuple[Request, ...]
    make: Callable[[], Optimizer]
    zero: float
    noise: float


@dataclass(frozen=True)
class _Run:
    """Where a model got to: how far each parameter has moved, and its buffers."""

    moved: State
    buffers: State


def judge_steps(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """Train both models for `settings.how.steps` steps with each optimizer, on the same inputs, cotangents and random
    draws, and compare parameters and buffers (stage "steps"). Both models have their old values afterwards.

    In train mode where both have it and random draws can be replayed, else in eval mode. coverage["steps"] says what
    was done, coverage["not_checked"] why nothing was.
    """
    mode, reason = _mode(pair)
    if reason:
        return not_checked(coverage, "optimizer steps", reason)
    steps = pair.settings.how.steps
    cases = strategies.plan(pair.contract, steps, pair.settings.seed + 31, mode, shapes=1)
    drawn = [pair.example(mode, replace(case, distribution="normal"), backward=True) for case in cases]
    examples = [example for example in drawn if example is not None]
    if len(examples) < steps or not all(any(c is not None for c in e.request.cotangents or ()) for e in examples):
        return not_checked(coverage, "optimizer steps", pair.no_gradient.get(mode, "no example has a gradient"))
    if not any(pair.original.parameters()[name].trainable for name in pair.original.parameters()):
        return not_checked(coverage, "optimizer steps", "no parameter is trainable")
    if examples[0].request.draws and not pair.converted.about().replays:
        return not_checked(coverage, "optimizer steps", "the converted model's random draws cannot be replayed")
    said: dict[str, Any] = {"mode": mode, "steps": steps, "optimizers": {}}
    for name in ("SGD", "Adam"):
        said["optimizers"][name] = _Trial(pair, ledger, examples, name).judge()
    coverage["steps"] = said
    return None


def _mode(pair: Pair) -> tuple[str, str]:
    """The mode to train in, and why not at all ("" otherwise)."""
    about, modes = pair.converted.about(), pair.settings.modes
    if not pair.settings.how.steps:
        return "", f"level {pair.settings.level!r} takes no steps"
    if not pair.backward or not about.gradients:
        return "", about.missing.get("gradients", "no gradients are compared")
    for mode in ("train", "eval"):
        if mode in modes and mode in about.modes and mode not in pair.no_gradient:
            return mode, ""
    return "", "no mode with gradients is compared"


class _Trial:
    """One optimizer on both sides."""

    def __init__(self, pair: Pair, ledger: Ledger, examples: Sequence[Example], name: str) -> None:
        self.pair, self.ledger, self.examples, self.name = pair, ledger, examples, name
        self.exact = pair.original64 is not None and pair.converted64 is not None
        self.double = pair.original64 or pair.original
        self.new = pair.converted64 if self.exact and pair.converted64 is not None else pair.converted
        self.requests = tuple(example.request for example in examples)
        self.mode = self.requests[0].mode

    def judge(self) -> dict[str, Any]:
        """Runs both sides and records what is found. Returns what was done."""
        for attempt in range(ATTEMPTS):
            self.plan = self._plan(SHRINK**attempt)
            self.reference = _train(self.double, self.plan)
            if all(np.isfinite(a).all() for a in self.reference.moved.values()):
                break
        try:
            got = _train(self.new, self.plan)
        except WorkerError:
            raise
        except Exception as error:  # any exception of the converted model is a finding
            message = f"{line_of(error)} (while training with {self.name})"
            self.ledger.reject("raised", "signature", "call", message, self.mode, self.examples[0].case)
            return {"raised": line_of(error)}
        outcomes = dict(self._compare(got))
        moved = [name for name, array in self.reference.moved.items() if np.any(array)]
        return {
            "learning_rate": self.plan.make().rate, "moved": len(moved), "compared": len(outcomes),
            "inconclusive": sorted(name for name, outcome in outcomes.items() if outcome == "inconclusive"),
        }  # fmt: skip

    def _plan(self, share: float) -> _Plan:
        """The learning rate moves the tensor that moves most by `RELATIVE_STEP` of its values; Adam moves all alike."""
        first = self._first(self.double)
        state = self.double.state()
        largest = max((float(np.max(np.abs(g))) for g in first.values() if g.size), default=0.0)
        sizes = {name: yardstick.rms(canonical(state[name])) for name in first}
        unit = float(np.median([size for size in sizes.values() if size > 0] or [1.0]))
        tiny = yardstick.FLOOR if self.exact else COARSE_FLOOR * yardstick.ULP.get(self.pair.own_dtype, yardstick.EPS64)
        if self.name == "Adam":
            above = FLOOR_OF_ADAM if self.exact else COARSE_FLOOR_OF_ADAM
            rate, epsilon = share * RELATIVE_STEP * unit, above * tiny * max(largest, 1e-300)
            return _Plan(self.requests, lambda: Adam(rate, epsilon), tiny * largest, 1 / above)
        speeds = [yardstick.rms(g) / max(sizes[name], 0.1 * unit) for name, g in first.items()]
        pace = share * RELATIVE_STEP / max(max(speeds, default=0.0), 1e-300)
        return _Plan(self.requests, lambda: Momentum(pace), tiny * largest, tiny)

    def _compare(self, got: _Run) -> Iterator[tuple[str, str]]:
        largest = max((float(np.max(np.abs(a))) for a in self.reference.moved.values() if a.size), default=0.0)
        noise = self.plan.noise * largest
        for quantity, name, reference, new in _pairs(self.reference, got):
            finding = self._finding(quantity, name, reference, new, noise if quantity == "parameter" else 0.0)
            if not finding.agrees:
                text = f"after {len(self.requests)} steps of {self.name}"
                finding = replace(finding, message=f"{text}; {finding.message}" if finding.message else text)
            dtype = "float64" if self.exact else self.pair.own_dtype
            case = self.examples[0].case
            self.ledger.record("steps", quantity, name, self.mode, dtype, case, finding)
            yield f"{quantity} {name}", finding.outcome

    def _finding(self, quantity: str, name: str, reference: Array, new: Array, floor: float) -> Finding:
        if not self.exact:
            return self._at_precision(quantity, name, reference, new, floor)
        finding = compare_structure(reference, new, None, floor)
        if finding.outcome in ("value", "leak") and reference.dtype.kind == "f":
            finding = compare_structure(reference, new, self._slope(quantity, name, reference), floor)
        if finding.outcome in ("value", "leak") and np.isfinite(finding.error):
            moved = self._largest(self._fine, quantity, name, reference)
            if float(np.max(moved, initial=0.0)) >= ROUNDING_SHARE * finding.error > 0.0:
                return replace(finding, outcome="inconclusive", message="a rounding error moves the original as much")
        if finding.outcome == "value" and self._kinked:
            return replace(finding, outcome="kink", message="where a first gradient has a kink")
        return finding

    def _at_precision(self, quantity: str, name: str, reference: Array, new: Array, floor: float) -> Finding:
        """Beside the original's own error: K steps in its own dtype, and a few ulps away."""
        dtype = self.pair.own_dtype
        if reference.dtype.kind != "f" or dtype not in yardstick.ULP:
            return compare_structure(reference, new, None, floor)
        own = getattr(self._own, "moved" if quantity == "parameter" else "buffers")[name]
        slope, coarse = self._slope(quantity, name, reference), self._largest(self._coarse, quantity, name, reference)
        allowed = yardstick.precision_tolerance(reference, (), dtype, slope, coarse)
        if np.any(reference) and not yardstick.is_conclusive(reference, allowed, COARSE_EVIDENCE):
            return Finding("inconclusive", "the original is ill-conditioned here", elements=reference.size)
        noise = np.full(reference.shape, floor / yardstick.PRECISION_FACTOR)
        return compare_precision(reference, own, new, dtype, (noise,), slope, coarse, normwise=True)

    def _slope(self, quantity: str, name: str, base: Array) -> Array:
        """Conditioning of the whole way: every step sees inputs and parameters that are a little off."""
        moved = self._arrays(self._near, quantity, name)
        fine = self._arrays(self._fine, quantity, name) if yardstick.is_steep(base, moved) else None
        return yardstick.condition(base, moved, fine)

    @cached_property
    def _kinked(self) -> bool:
        """Whether kinks were excused before, and the first gradients differ already."""
        if self.ledger.strict or not self.ledger.kinds.get("kink"):
            return False
        mine, theirs = self._first(self.double), self._first(self.new)
        return any(not compare_structure(mine[name], theirs[name]).agrees for name in mine if name in theirs)

    def _first(self, runner: Runner) -> State:
        """The gradients of the first step."""
        example, request = self.examples[0], self.requests[0]
        known = runner is self.double and request is example.request
        response = example.reference if known else runner.respond(request)
        return {n: canonical(g) for n, g in response.parameter_gradients.items() if g.dtype.kind == "f"}

    @cached_property
    def _near(self) -> list[_Run]:
        return self._perturbed(yardstick.DELTA, 0)

    @cached_property
    def _fine(self) -> list[_Run]:
        return self._perturbed(yardstick.FINE_DELTA, 0)

    @cached_property
    def _coarse(self) -> list[_Run]:
        return self._perturbed(yardstick.COARSE * yardstick.ULP[self.pair.own_dtype], 100)

    @cached_property
    def _own(self) -> _Run:
        return _train(self.pair.original, self.plan)

    def _perturbed(self, delta: float, seed: int) -> list[_Run]:
        runs = []
        for draw in range(yardstick.DRAWS):
            requests = tuple(
                replace(request, perturbation=Perturbation(delta, seed + 1000 * draw + step))
                for step, request in enumerate(self.requests)
            )
            runs.append(_train(self.double, replace(self.plan, requests=requests)))
        return runs

    def _arrays(self, runs: Sequence[_Run], quantity: str, name: str) -> list[Array]:
        return [(run.moved if quantity == "parameter" else run.buffers)[name] for run in runs]

    def _largest(self, runs: Sequence[_Run], quantity: str, name: str, base: Array) -> Array:
        found = [yardstick.movement(base, other) for other in self._arrays(runs, quantity, name)]
        return np.max(found, axis=0) if found else np.zeros(base.shape)


def _train(runner: Runner, plan: _Plan) -> _Run:
    """The model's way; it has its old values afterwards. Raises what the model raises."""
    start = runner.state()
    infos = runner.parameters()
    moved = {name: np.zeros(info.shape) for name, info in infos.items()}
    optimizer, response = plan.make(), None
    try:
        for request in plan.requests:
            response = runner.respond(request)
            for name, gradient in response.parameter_gradients.items():
                if gradient.dtype.kind == "f" and name in moved:
                    wide = canonical(gradient)
                    moved[name] = moved[name] + optimizer.step(name, np.where(np.abs(wide) <= plan.zero, 0.0, wide))
            runner.load(_values(start, moved, infos, response))
    finally:
        runner.load(start)
    buffers = {} if response is None else {name: canonical(array) for name, array in response.buffers.items()}
    return _Run({name: moved[infos[name].tied_to or name] for name in moved}, buffers)


def _values(
    start: Mapping[str, Array], moved: Mapping[str, Array], infos: Mapping[str, ParameterInfo], response: Response
) -> State:
    """What the model holds after a step: every parameter that has moved, and its buffers."""
    values: State = {}
    for name, info in infos.items():
        way = moved[info.tied_to or name]
        if name in start and np.any(way):
            values[name] = canonical(start[name]) + way
    return {**values, **{name: array for name, array in response.buffers.items() if name in start}}


def _pairs(left: _Run, right: _Run) -> Iterator[tuple[str, str, Array, Array]]:
    for quantity, mine, theirs in (
        ("parameter", left.moved, right.moved),
        ("buffer", left.buffers, right.buffers),
    ):
        for name, array in mine.items():
            if name in theirs:
                yield quantity, name, array, theirs[name]
