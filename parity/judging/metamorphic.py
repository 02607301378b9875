"""Relations that hold between runs of one model: the rows of a batch do not influence each other, and a batch equals
its parts. numpy only.

Each relation is first put to the original. Where it does not hold there (attention over the batch, a batch norm that
never leaves train mode), it is no law of this model, and nothing is asked of the converted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isomorph.parity.compare import Finding
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.judging.noise import judge_itself
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.base import Request, Response, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import ULP, Array

__all__ = ["judge_relations"]

ROWS = 4
Found = Iterator[tuple[str, str, Array, Array, Array]]  # quantity, name, one answer, the other, their rows


@dataclass(frozen=True)
class _Batch:
    """Which inputs have the batch in front, by number, and how it is called."""

    inputs: tuple[int, ...]
    symbol: str
    size: int


@dataclass(frozen=True)
class _Question:
    """The base request, the batch in it, the same model's answer to it, and other contents of the same shapes."""

    request: Request
    batch: _Batch
    others: tuple[Array, ...]

    def ask(self, runner: Runner, inputs: Sequence[Array], request: Request | None = None) -> Response:
        """The answer to other inputs."""
        return runner.respond(replace(request or self.request, inputs=tuple(inputs)))

    def changed(self, change: Callable[[Array], Array]) -> list[Array]:
        """The inputs with something done to those that have a batch."""
        return [change(a) if i in self.batch.inputs else a for i, a in enumerate(self.request.inputs)]


def judge_relations(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """Put the relations of a batch to both models, in eval mode (stage "relations", kind "batch").

    The batch is axis 0 where all inputs that have a free one there call it by the same name, or, on fixed shapes, where
    all inputs have the same size there. coverage["relations"]: {"batch": its name, "rows": how many, "held": relation
    -> the outputs or inputs for which it was judged, "no law": the same for those of which it is not true in the
    original}.
    """
    batch, reason = _batch(pair)
    example = None
    if batch is not None:
        (case,) = strategies.plan(pair.contract, 1, pair.settings.seed + 51, "eval")
        sizes = tuple((n, batch.size if n == batch.symbol else size) for n, size in case.sizes)
        example = pair.example("eval", replace(case, sizes=sizes))
        reason = reason or "the original accepts no input"
    if example is not None and batch is not None:
        rows = {example.request.inputs[i].shape[0] for i in batch.inputs}
        if len(rows) != 1 or min(rows) < 2:
            example, reason = None, "the original accepts no batch of two or more"
        elif example.request.draws:
            example, reason = None, "the original draws at random in eval mode"
        else:
            batch = replace(batch, size=rows.pop())
    if example is None or batch is None:
        return not_checked(coverage, "relations of a batch", reason)
    case = replace(example.case, seed=example.case.seed + 1)
    question = _Question(example.request, batch, strategies.materialise(pair.contract, case))
    said = coverage["relations"] = {"batch": batch.symbol or "axis 0", "rows": batch.size, "held": {}, "no law": {}}
    for name, relation in RELATIONS.items():
        if name == "a batch equals its parts" and not batch.symbol:
            not_checked(coverage, name, "the sizes of the inputs are fixed")
        elif name != "no gradient crosses rows" or (pair.backward and pair.converted.about().gradients):
            _judge(pair, ledger, example, question, name, relation, said)
    return None


def _batch(pair: Pair) -> tuple[_Batch | None, str]:
    """The batch of the contract, and why there is none."""
    specs = pair.contract.inputs
    fronts = {i: spec.dims[0] for i, spec in enumerate(specs) if spec.dims and not spec.kept}
    if not fronts:
        return None, "no input has an axis"
    free = {dim for dim in fronts.values() if isinstance(dim, str)}
    if not free:
        sizes = set(fronts.values())
        return (
            (_Batch(tuple(fronts), "", ROWS), "")
            if len(sizes) == 1
            else (None, "the inputs have other sizes at axis 0")
        )
    if len(free) > 1 or not all(dim.isidentifier() for dim in free):
        return None, "the inputs have other free sizes at axis 0"
    (symbol,) = free
    low, high = (pair.contract.bounds or {}).get(symbol, (1, None))
    size = max(low, ROWS if high is None else min(ROWS, high))
    return _Batch(tuple(i for i, dim in fronts.items() if dim == symbol), symbol, size), ""


def _judge(
    pair: Pair, ledger: Ledger, example: Example, question: _Question, name: str,
    relation: Callable[[_Question, Runner, Response], Found], said: dict[str, Any],
) -> None:  # fmt: skip
    """One relation on the original, then, where it holds, on the converted model."""
    exact = pair.original64 is not None and pair.converted64 is not None
    own, new = (pair.original64, pair.converted64) if exact else (pair.original, pair.converted)
    assert own is not None
    assert new is not None
    precision = pair.converted.about().precision
    dtype = "float64" if exact else precision if precision in ULP else pair.own_dtype
    try:
        base = example.reference if exact else example.response
        findings = dict(_findings(relation(question, own, base), example, dtype if exact else pair.own_dtype))
    except WorkerError:
        raise
    except Exception as error:  # the original refuses the parts of a batch, or other rows: there is no law to keep
        said["no law"][name] = [f"the original refuses: {line_of(error)}"]
        return
    lawful = {key for key, finding in findings.items() if finding.outcome == "equal"}
    said["no law"][name] = sorted(_label(key) for key in findings if key not in lawful)
    said["held"][name] = sorted(_label(key) for key in lawful)
    if not lawful:
        return
    mode, case = example.request.mode, example.case
    try:
        found = dict(_findings(relation(question, new, new.respond(question.request)), example, dtype, lawful))
    except WorkerError:
        raise
    except Exception as error:  # any exception of the converted model is a finding
        ledger.reject("raised", "signature", "call", f"{line_of(error)} ({name})", mode, case)
        return
    for (quantity, label), finding in found.items():
        if not finding.agrees:
            finding = replace(finding, outcome="batch", message=f"not so: {name}")
            ledger.record("relations", quantity, label, mode, dtype, case, finding)


def _findings(
    found: Found, example: Example, dtype: str, wanted: set[tuple[str, str]] | None = None
) -> Iterator[tuple[tuple[str, str], Finding]]:
    for quantity, name, first, second, rows in found:
        if wanted is None or (quantity, name) in wanted:
            yield (quantity, name), judge_itself(example, quantity, name, first, second, dtype, rows)


def _rows_alone(question: _Question, runner: Runner, base: Response) -> Found:
    """Every second row stays, the others get other contents: what stays answers as before."""
    size = question.batch.size
    kept = np.arange(0, size, 2)

    def change(index: int) -> Array:
        mixed = np.array(question.others[index])
        mixed[kept] = question.request.inputs[index][kept]
        return mixed

    inputs = [change(i) if i in question.batch.inputs else a for i, a in enumerate(question.request.inputs)]
    moved = question.ask(runner, inputs, replace(question.request, backward=False, cotangents=None))
    for name, before, after in _outputs(base, moved, size):
        yield "output", name, before[kept], after[kept], kept


def _permuted(question: _Question, runner: Runner, base: Response) -> Found:
    """The rows in another order: the same answers in that order."""
    size = question.batch.size
    order = np.roll(np.arange(size)[::-1], 1)  # no row stays where it is, but for one of an odd number
    request = replace(question.request, backward=False, cotangents=None)
    moved = question.ask(runner, question.changed(lambda a: a[order]), request)
    for name, before, after in _outputs(base, moved, size):
        yield "output", name, before[order], after, order


def _in_parts(question: _Question, runner: Runner, base: Response) -> Found:
    """A batch of n as one of 1 and one of n - 1, and their answers put together."""
    size = question.batch.size
    request = replace(question.request, backward=False, cotangents=None)
    parts = [question.ask(runner, question.changed(part), request) for part in (lambda a: a[:1], lambda a: a[1:])]
    for index, before in enumerate(base.outputs):
        pieces = [part.outputs[index] for part in parts]
        if before.ndim and before.shape[0] == size and [p.shape[:1] for p in pieces] == [(1,), (size - 1,)]:
            yield "output", str(index), before, np.concatenate(pieces), np.arange(size)


def _gradients_alone(question: _Question, runner: Runner, base: Response) -> Found:
    """Of a cotangent in one row alone: the gradients of that row as before, those of the others zero."""
    size = question.batch.size
    given = question.request.cotangents or ()
    if not any(c is not None for c in given):
        return
    lead = np.arange(size) == size // 2
    masked = tuple(
        np.where(lead.reshape(-1, *[1] * (c.ndim - 1)), c, np.zeros_like(c))
        if c is not None and c.ndim and c.shape[0] == size
        else None
        for c in given
    )
    if all((a is None) == (b is None) for a, b in zip(masked, given, strict=True)):
        moved = question.ask(runner, question.request.inputs, replace(question.request, cotangents=masked))
        for name, gradient in moved.input_gradients.items():
            before = base.input_gradients.get(name)
            if before is not None and before.ndim and before.shape[0] == size == gradient.shape[0]:
                expected = np.where(lead.reshape(-1, *[1] * (before.ndim - 1)), before, np.zeros_like(before))
                yield "input gradient", name, expected, gradient, np.arange(size)


RELATIONS: dict[str, Callable[[_Question, Runner, Response], Found]] = {
    "rows do not influence each other": _rows_alone,
    "permuted rows permute the outputs": _permuted,
    "a batch equals its parts": _in_parts,
    "no gradient crosses rows": _gradients_alone,
}


def _outputs(base: Response, moved: Response, size: int) -> Iterator[tuple[str, Array, Array]]:
    for index, (before, after) in enumerate(zip(base.outputs, moved.outputs, strict=False)):
        if before.ndim and before.shape[0] == size and after.shape == before.shape:
            yield str(index), before, after


def _label(key: tuple[str, str]) -> str:
    return " ".join(key)
