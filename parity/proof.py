"""Which checks prove the steps of `isomorph convert`, and their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isomorph.parity.legs import Model
from isomorph.parity.verdict import Verdict

__all__ = ["Proof", "prove"]


@dataclass(frozen=True)
class Proof:
    """A verdict on two models of the way. original, converted: their formats."""

    original: str
    converted: str
    verdict: Verdict


def prove(models: Sequence[Model], level: str, seed: int) -> Iterator[Proof]:
    """The checks of the last step, made as they are asked for.

    models: the source and what each step made, the last one's model at the end. Everything is compared with the source.
    A source that has no gradients (an .onnx file) is no standard for training: there the step's own two models are
    compared as well. The correspondence of two models that no single step made is what the step between them recorded.
    """
    from isomorph.parity.check import check

    made = models[-1]
    for original in _originals(models):
        modes = tuple(mode for mode in original.modes if mode in made.modes)
        first, second = _specs(original, made, models, seed)
        yield Proof(original.format, made.format, check(first, second, modes=modes, level=level, seed=seed))


def _originals(models: Sequence[Model]) -> list[Model]:
    source, before, made = models[0], models[-2], models[-1]
    if before is not source and source.format == "onnx" and made.format != "onnx":
        return [before, source]
    return [source]


def _specs(original: Model, made: Model, models: Sequence[Model], seed: int) -> tuple[Any, Any]:
    from isomorph.parity.matching.recorded import from_conversion
    from isomorph.parity.runners.spec import ModelSpec

    texts: tuple[Any, ...] = original.specs if original.example is None else ()
    first = ModelSpec(original.subject, texts, example=original.example, seed=seed)
    second = ModelSpec(made.subject, seed=seed)
    between = next((m for m in models[1:-1] if m.format == "torch"), None)
    if between is not None and original.format != "torch" and made.format == "keras":
        second = replace(second, recorded=from_conversion(between.subject))
    return first, second
