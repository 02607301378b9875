"""Both models, ready to be asked the same question in the same names and axis order: what every stage works on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from isomorph.parity import tolerance as yardstick
from isomorph.parity.drawing import strategies
from isomorph.parity.drawing.strategies import Contract
from isomorph.parity.runners.base import Request, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.settings import Settings
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = ["QUIET", "Pair", "draws_itself", "vary"]

QUIET = 1e-3  # movement, relative to the scale of its output, up to which an element is taken not to be random
LOOKED = 3  # examples of train mode on which it is asked whether an original that records no draws does draw


@dataclass
class Pair:
    """The two models of a check.

    original, converted: in their own dtype; `converted` answers in the original's names and axis order. original64,
    converted64: the same in float64, None where the format has none. own_dtype: the original's floating dtype.
    backward: whether gradients are compared. refused: what the original would not run, and why. no_gradient: mode ->
    why the original cannot be differentiated in it. quiet: layers that drop or add noise are out of the way, as the
    converted model cannot be given the original's random draws. looked: examples on which that was asked by running.
    swapped: `original` is the yardstick, and was given as the second model. raised: what it said (mode, case, line) of
    inputs that the first one accepts: a finding.
    """

    original: Runner
    converted: Runner
    original64: Runner | None
    converted64: Runner | None
    contract: Contract
    own_dtype: str
    settings: Settings
    backward: bool = True
    refused: list[str] = field(default_factory=list)
    no_gradient: dict[str, str] = field(default_factory=dict)
    quiet: bool = False
    looked: int = 0
    swapped: bool = False
    raised: list[tuple[str, Case, str]] = field(default_factory=list)

    def example(self, mode: str, case: Case, backward: bool | None = None) -> Example | None:
        """The case on the original, its random draws and cotangents recorded; None where it refuses.

        Where it refuses it is asked with the example's integers, then with the example's sizes too. A module that
        cannot be differentiated is compared forward only, and the verdict says so. backward: None for what `check` was
        asked.
        """
        wanted = self.backward if backward is None else backward
        tries = (
            case,
            replace(case, source="example"),
            replace(case, sizes=self.contract.sizes),
            replace(case, sizes=self.contract.sizes, source="example"),
        )
        for attempt in dict.fromkeys(tries):
            example = self.ask(mode, attempt, strategies.materialise(self.contract, attempt), wanted)
            if example is not None:
                return example
        return None

    def ask(self, mode: str, case: Case, arrays: tuple[Array, ...], backward: bool = True) -> Example | None:
        """The same for given input arrays; None where the original refuses them."""
        double = self.original64 or self.original
        for pull in (True, False) if backward else (False,):
            request = Request(arrays, mode, pull, case.seed, dropout=not self.quiet)
            try:
                example = Example(self.original, double, case, request, self.own_dtype)
                if not self.quiet and self._draws_apart(example):
                    self.quiet = True  # the draws cannot be replayed: layers that drop are judged by their law
                    return self.ask(mode, case, arrays, backward)
            except WorkerError:
                raise
            except Exception as error:  # any exception of a foreign model: it refuses this input
                if self.swapped and not pull and self._accepts(request):
                    self.raised.append((mode, case, line_of(error)))
                self.refused.append(f"{mode}, {case}: {line_of(error)}")
                continue
            if pull != backward:
                self.no_gradient[mode] = self.refused[-1]
            return example
        return None

    def _accepts(self, request: Request) -> bool:
        """Whether the model that was given as the original runs on these inputs and gives anything: ONNX Runtime may
        answer with empty arrays where a window is larger than its input."""
        try:
            answer = self.converted.respond(replace(request, backward=False))
        except WorkerError:
            raise
        except Exception:  # it refuses them, too
            return False
        return any(output is not None and np.size(output) for output in answer.outputs)

    def _draws_apart(self, example: Example) -> bool:
        """Whether each model draws for itself: the converted one cannot be given the original's draws, or the original
        cannot tell them, and another seed shows that it draws."""
        if self.original.about().replays:
            draws = bool(example.response.draws)
            return draws and not (self.converted.about().replays and self._takes_draws(example))
        if example.request.mode != "train" or self.looked >= LOOKED:
            return False
        self.looked += 1
        return draws_itself(self.original, example.request)

    def _takes_draws(self, example: Example) -> bool:
        """Whether the converted model draws what the original drew, in its order. A conversion of a torch module does,
        or it is wrong; a model that a torch module was made from may draw in another way."""
        if not self.swapped:
            return True
        try:
            got = self.converted.respond(replace(example.request, backward=False, cotangents=None))
        except WorkerError:
            raise
        except Exception:  # it has other sites, or other shapes there
            return False
        return not vary(example.response.outputs, got.outputs)

    def close(self) -> None:
        """Give back what the runners hold outside this process."""
        for runner in (self.original64, self.converted64, self.original, self.converted):
            if runner is not None:
                runner.close()


def draws_itself(runner: Runner, request: Request) -> bool:
    """Whether another seed changes the outputs of a model whose draws are not recorded by more than rounding."""
    told = replace(request, backward=False, cotangents=None, draws=None, dropout=True)
    return vary(*(runner.respond(replace(told, seed=seed)).outputs for seed in (1, 2)))


def vary(first: tuple[Array, ...], second: tuple[Array, ...]) -> bool:
    """Whether two runs differ by more than rounding."""
    return any(
        a.shape == b.shape
        and a.dtype.kind == "f"
        and float(np.max(yardstick.movement(a, b), initial=0.0)) > QUIET * max(yardstick.rms(a), 1e-300)
        for a, b in zip(first, second, strict=False)
    )


def line_of(error: BaseException) -> str:
    """An exception's type and first line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]
