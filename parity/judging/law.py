"""Do two models that draw at random draw alike? Their outputs over many draws are compared as samples. numpy only.

Where recorded draws are replayed, the structure stage has shown that each is used as the original uses it; what is left
is whether the converted model's own draws follow the same law. Where they cannot be replayed this is all that can be
known of its dropout: rate (variances), scale (means), independence between elements and between the rows of a batch
(covariances).

The test is a permutation test, exact for any distribution: if the two samples follow one law, every assignment of the
draws to the two models is equally likely. It rejects only what is beyond `LEVEL` in a first round and again in a second
one of fresh draws, so that the chance of a false alarm is at most `LEVEL ** 2` = 1e-6 per check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.compare import canonical
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import QUIET, Pair, draws_itself, line_of, vary
from isomorph.parity.runners.base import Request, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = ["Comparison", "compare_samples", "judge_dropout"]

LEVEL = 1e-3  # of a round: the chance that any of its statistics of two samples of one law is beyond its threshold
STATISTICS = ("mean", "energy", "variance", "covariance")
PERMUTATIONS = 8000  # two of them are the share of LEVEL that one statistic has
EARLY, EXCEEDED = 250, 8  # permutations after which a statistic is let go that more than so many of them exceed
ELEMENTS = 2048  # of the outputs, taken at random where there are more


@dataclass(frozen=True)
class Comparison:
    """Two samples of one quantity. p: statistic -> the share of permutations that reach it (its p-value). ratio: of the
    variances, second over first, geometric mean over elements; shift: of the means, in standard deviations, root mean
    square over elements. elements: how many vary."""

    p: dict[str, float]
    ratio: float
    shift: float
    elements: int

    @property
    def differs(self) -> bool:
        """Whether any statistic is beyond its share of `LEVEL`."""
        return any(p <= LEVEL / len(STATISTICS) for p in self.p.values())


def compare_samples(first: Array, second: Array, rng: np.random.Generator) -> Comparison:
    """Compare two samples of the same number of draws, (draws, elements) each, in four statistics:

    mean        the distance between the mean vectors: the scale 1 / (1 - rate)
    energy      the mean over elements of the squared deviations: the rate, where all elements have one
    variance    the distance between the vectors of variances: the rate
    covariance  the distance between the covariance matrices: what is drawn once for several elements or rows
    """
    both = np.concatenate([first, second]).astype(np.float64)
    spread = np.std(both, axis=0)
    varies = spread > 0
    if not varies.any():
        return Comparison({}, 1.0, 0.0, 0)
    z = (both[:, varies] - both[:, varies].mean(0)) / spread[varies]
    half, count = len(first), z.shape[1]
    energy = np.mean(z**2, axis=1)
    grams = {
        "mean": z @ z.T / count,
        "energy": np.outer(energy, energy),
        "variance": (z**2 - 1) @ (z**2 - 1).T / count,
        "covariance": (z @ z.T / count) ** 2,
    }
    side = np.repeat([1.0, -1.0], [half, len(both) - half])
    p = {name: _p_value(gram, side, rng) for name, gram in grams.items()}
    a, b = z[:half], z[half:]
    variances = np.var(a, axis=0), np.var(b, axis=0)
    ratio = float(np.exp(np.mean(np.log(np.maximum(variances[1], 1e-12) / np.maximum(variances[0], 1e-12)))))
    return Comparison(p, ratio, float(np.sqrt(np.mean((a.mean(0) - b.mean(0)) ** 2))), count)


def _p_value(gram: Array, side: Array, rng: np.random.Generator) -> float:
    """The share of permutations of the sides for which s' G s is as large as it is; of the first ones alone, where many
    are."""
    np.fill_diagonal(gram, 0.0)  # the same for every permutation
    seen, reached = 0, 0
    observed = float(side @ gram @ side)
    slack = 1e-9 * float(np.abs(gram).sum())  # rounding: a permutation that is the observed one must count as such
    for batch in (EARLY, PERMUTATIONS - EARLY):
        sides = rng.permuted(np.broadcast_to(side, (batch, len(side))), axis=1)
        values = np.einsum("ij,ij->i", sides @ gram, sides)
        seen, reached = seen + batch, reached + int(np.sum(values >= observed - slack))
        if reached > EXCEEDED:
            break
    return (reached + 1) / (seen + 1)


def judge_dropout(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """Compare `settings.how.draws` runs of each model in its own dtype, each with its own draws, in every mode in which
    the original draws; and see that the converted model draws nothing where the original does not.

    Mismatches are of kind "random", quantity "output", name "all". coverage["random"]: mode -> {"draws": runs per
    side, "elements": how many vary, "p": statistic -> p-value, "variance_ratio", "mean_shift"}. A site whose share of
    the variation of the outputs is small is seen only as far as it shows in them.
    """
    draws = pair.settings.how.draws
    for mode in (m for m in pair.settings.modes if m in pair.converted.about().modes):
        (case,) = strategies.plan(pair.contract, 1, pair.settings.seed + 61, mode)
        example = pair.example(mode, case, backward=False)
        if example is None:
            continue
        request = replace(example.request, backward=False, cotangents=None, draws=None, dropout=True)
        try:
            if not _draws(pair.original, request):
                _judge_quiet(pair, ledger, example, request)
            elif draws < 2:
                not_checked(coverage, f"the law of random draws in {mode} mode", f"level {pair.settings.level!r}")
            else:
                _judge_law(pair, ledger, coverage, example, request, draws)
        except WorkerError:
            raise
        except Exception as error:  # any exception of the converted model is a finding
            ledger.reject("raised", "signature", "call", f"{line_of(error)} (drawing itself)", mode, example.case)


def _draws(original: Runner, request: Request) -> bool:
    """Whether the original draws, as it recorded or, where it cannot, as another seed shows."""
    if original.about().replays:
        return bool(original.respond(request).draws)
    return draws_itself(original, request)


def _judge_quiet(pair: Pair, ledger: Ledger, example: Example, request: Request) -> None:
    """Where the original draws nothing, another seed must change nothing: dropout is the identity in eval mode."""
    answers = [pair.converted.respond(replace(request, seed=seed)).outputs for seed in (1, 2)]
    own = [pair.original.respond(replace(request, seed=seed)).outputs for seed in (1, 2)]
    if not vary(*own) and vary(*answers):
        message = "the converted model draws at random where the original does not"
        ledger.reject("random", "output", "all", message, request.mode, example.case)


def _judge_law(
    pair: Pair, ledger: Ledger, coverage: dict[str, Any], example: Example, request: Request, draws: int
) -> None:
    mode = request.mode
    rng = np.random.default_rng([pair.settings.seed, 62])
    rounds: list[Comparison] = []
    for index in range(2):
        seeds = range(1 + 2 * index * draws, 1 + (2 * index + 2) * draws)
        chosen = _Chosen(example, pair.settings.seed)
        first = chosen.sample(pair.original, request, seeds[:draws])
        second = chosen.sample(pair.converted, request, seeds[draws:])
        if first.shape != second.shape:
            return  # a mismatch of shape or structure, found elsewhere
        first, second = _random_part(first, second)
        rounds.append(compare_samples(first, second, rng))
        if not rounds[-1].differs:
            break
    last = rounds[-1]
    coverage.setdefault("random", {})[mode] = {
        "draws": draws * len(rounds), "elements": last.elements, "p": {n: round(p, 6) for n, p in last.p.items()},
        "variance_ratio": round(last.ratio, 4), "mean_shift": round(last.shift, 4),
    }  # fmt: skip
    if not last.elements:
        not_checked(coverage, f"the law of random draws in {mode} mode", "no output varies with them")
    elif len(rounds) == 2 and last.differs:
        _reject(ledger, last, mode, example.case)


def _reject(ledger: Ledger, found: Comparison, mode: str, case: Case) -> None:
    beyond = [name for name, p in found.p.items() if p <= LEVEL / len(STATISTICS)]
    message = (
        f"drawing by themselves the two models follow other laws: they differ in {', '.join(beyond)} "
        f"(variances {found.ratio:.3g} times the original's, means {found.shift:.2g} standard deviations apart, "
        f"over {found.elements} elements)"
    )
    ledger.reject("random", "output", "all", message, mode, case)


def _random_part(first: Array, second: Array) -> tuple[Array, Array]:
    """The elements that vary by more than rounding in one of the two samples, and are finite in both."""
    finite = np.isfinite(first).all(0) & np.isfinite(second).all(0)
    first, second = first[:, finite], second[:, finite]
    if not first.size:
        return first, second
    scale = max(yardstick.rms(first), 1e-300)
    varies = np.maximum(np.std(first, axis=0), np.std(second, axis=0)) > QUIET * np.maximum(
        np.mean(np.abs(first), axis=0), 1e-3 * scale
    )
    return first[:, varies], second[:, varies]


class _Chosen:
    """The same elements of the outputs of every run: all of them, or `ELEMENTS` at random."""

    def __init__(self, example: Example, seed: int) -> None:
        self._shapes = [a.shape for a in example.response.outputs]
        total = sum(a.size for a in self._floats(example.response.outputs))
        rng = np.random.default_rng([seed, 63])
        self._at = np.sort(rng.permutation(total)[:ELEMENTS])

    def sample(self, runner: Runner, request: Request, seeds: range) -> Array:
        """(draws, elements) in float64; (draws, 0) where the outputs have other shapes."""
        return np.stack([self._pick(runner.respond(replace(request, seed=seed)).outputs) for seed in seeds])

    def _pick(self, outputs: tuple[Array, ...]) -> Array:
        if [a.shape for a in outputs] != self._shapes:
            return np.zeros(0)
        flat = [canonical(a).ravel() for a in self._floats(outputs)]
        return np.concatenate(flat)[self._at] if flat else np.zeros(0)

    def _floats(self, outputs: tuple[Array, ...]) -> Iterator[Array]:
        return (a for a in outputs if a.dtype.kind == "f")
