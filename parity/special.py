"""NaN and infinities: where the original has one, the converted model must have the same one. numpy only.

A network turns most of its outputs into NaN when a twentieth of its inputs are, so one special value in each row of an
input is drawn, too: then the receptive field, the row and the kind of value tell the way it took.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isomorph.parity import strategies
from isomorph.parity.compare import Finding, canonical, compare_precision, compare_structure
from isomorph.parity.covered import not_checked
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.base import ModuleTrace, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import ULP, Array

__all__ = ["LIMITATIONS", "Limitation", "judge_special", "one_in_each_row"]

KINDS = {"NaN": np.nan, "+inf": np.inf, "-inf": -np.inf}


@dataclass(frozen=True)
class Limitation:
    """What a target's kernels do with special values that no conversion can change.

    format, environment: whose: a prefix of the runner's `About.format`, and names that its environment must have with
    the values given (a prefix of them). device: on which ("" for all). calls: kinds of calls in the converted model's
    trace. It is recognised by a call of such a kind that was given a NaN and lost it. reason, reference: what is known.
    """

    what: str
    format: str
    device: str
    calls: tuple[str, ...]
    reason: str
    reference: str

    def seen_in(self, trace: Sequence[ModuleTrace]) -> bool:
        """Whether a call of its kind was given NaN and gave back fewer, beside its input, than it should have."""
        return any(call.kind in self.calls and _loses_nan(call) for call in trace)


LIMITATIONS: tuple[Limitation, ...] = (
    Limitation(
        "max pooling ignores NaN", "keras", "cpu", ("MaxPool", "MaxPool3D", "MaxPoolV2"),
        "TensorFlow's CPU kernel takes the maximum of the values that are no NaN",
        "tensorflow/core/kernels/maxpooling_op.cc",
    ),
)  # fmt: skip


def judge_special(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """Run both models forward, in eval mode, on inputs with NaN and infinities (stage "special").

    In float64 special values must be the same ones in the same places and finite elements agree as in the structure
    stage; in the model's own dtype a finite value where the original overflowed is accepted if float64 is finite there,
    and what changes in the original when denormals are flushed is inconclusive. Mismatches are of kind "nonfinite", or
    "value" for finite elements. What an entry of `LIMITATIONS` explains is listed in coverage["not_checked"];
    coverage["special"]: {"cases", "elements": special ones among the outputs compared, "limitations"}.
    """
    if not any(_takes_special(spec) for spec in pair.contract.inputs):
        return not_checked(coverage, "special values", "no input takes them")
    said: dict[str, Any] = {"cases": 0, "elements": 0, "limitations": []}
    for name, example in _examples(pair):
        said["cases"] += 1
        said["elements"] += sum(int(np.sum(~np.isfinite(a))) for a in example.reference.outputs if a.dtype.kind == "f")
        _judge(pair, ledger, coverage, example, name, said)
    coverage["special"] = said
    if not said["elements"]:
        not_checked(coverage, "special values", "the original's outputs have none, or it refuses such inputs")
    return None


def one_in_each_row(arrays: Sequence[Array], value: float, seed: int) -> tuple[Array, ...]:
    """Float arrays with `value` at one place of each row of axis 0 but the last of several; the others as they are."""
    rng = np.random.default_rng([seed, 71])
    changed = []
    for array in arrays:
        if array.dtype.kind == "f" and array.size:
            array = np.array(array)
            rows = array.reshape(array.shape[0] if array.ndim else 1, -1)
            for row in rows[: max(1, len(rows) - 1)]:
                row[rng.integers(len(row))] = value
        changed.append(array)
    return tuple(changed)


def _takes_special(spec: strategies.InputSpec) -> bool:
    return spec.dtype.startswith(("float", "bfloat")) and not spec.kept


def _examples(pair: Pair) -> Iterator[tuple[str, Example]]:
    """(what is in it, example) of every kind that the original accepts."""
    cases = strategies.plan(pair.contract, 1 + len(KINDS), pair.settings.seed + 71, "eval", shapes=1)
    for (name, value), case in zip([*KINDS.items(), ("many", None)], cases, strict=True):
        case = replace(case, distribution="special" if value is None else "normal")
        arrays = strategies.materialise(pair.contract, case)
        if value is not None:
            free = [not spec.kept for spec in pair.contract.inputs]
            arrays = tuple(
                one_in_each_row((a,), value, case.seed + index)[0] if free[index] else a
                for index, a in enumerate(arrays)
            )
        example = pair.ask("eval", replace(case, distribution="special"), arrays, backward=False)
        if example is not None:
            yield name, example


def _judge(
    pair: Pair, ledger: Ledger, coverage: dict[str, Any], example: Example, name: str, said: dict[str, Any]
) -> None:
    runners = [("float64", pair.converted64)] if pair.original64 is not None else []
    judged: set[str] = set()
    for dtype, runner in [*runners, (pair.own_dtype, pair.converted)]:
        if runner is None:
            continue
        try:
            outputs = runner.respond(example.request).outputs
        except WorkerError:
            raise
        except Exception as error:  # any exception of the converted model is a finding
            ledger.reject("raised", "signature", "call", f"{line_of(error)} (given {name})", "eval", example.case)
            return
        for index, finding in _findings(example, outputs, dtype, runner is pair.converted64):
            if str(index) in judged:
                continue  # a difference that float64 has shown is not shown again
            if not finding.agrees:
                judged.add(str(index))
                limitation = _limitation(runner, example, finding, example.reference.outputs[index], outputs[index])
                if limitation is not None:
                    _excuse(coverage, said, limitation, index)
                    continue
                finding = replace(finding, message=f"{finding.message} (given {name})".strip())
            ledger.record("special", "output", str(index), "eval", dtype, example.case, finding)


def _findings(example: Example, outputs: Sequence[Array], dtype: str, exact: bool) -> Iterator[tuple[int, Finding]]:
    """What each output is found to be; precision is left to its own stage."""
    for index, got in enumerate(outputs[: len(example.reference.outputs)]):
        reference, own = example.reference.outputs[index], example.response.outputs[index]
        name = str(index)
        if exact:
            finding = compare_structure(reference, got)
            if finding.outcome in ("value", "leak"):
                finding = compare_structure(reference, got, example.slope("output", name))
            if finding.outcome != "leak":
                yield index, finding
        elif dtype in ULP:
            finding = compare_precision(reference, own, got, dtype)
            if finding.outcome == "nonfinite" and example.depends_on_denormals():
                finding = replace(finding, outcome="inconclusive", message="the original depends on denormals here")
            if finding.outcome not in ("precision", "imprecise"):
                yield index, finding


def _limitation(runner: Runner, example: Example, finding: Finding, reference: Array, got: Array) -> Limitation | None:
    """The entry that explains a difference: only NaN are lost, and its calls were seen to lose them."""
    if finding.outcome not in ("nonfinite", "value", "integer") or reference.shape != got.shape:
        return None
    if finding.outcome != "integer" and not _only_nan(reference, got):
        return None
    about = runner.about()
    fitting = [e for e in LIMITATIONS if about.format.startswith(e.format) and about.device.startswith(e.device)]
    trace = runner.trace(example.request) if fitting else ()
    return next((entry for entry in fitting if entry.seen_in(trace)), None)


def _only_nan(reference: Array, got: Array) -> bool:
    """Whether the two differ in nothing but elements that are NaN in the original."""
    left, right = canonical(reference), canonical(got)
    kept = ~np.isnan(left)
    return compare_structure(left[kept], right[kept]).outcome in ("equal", "vacuous", "leak")


def _excuse(coverage: dict[str, Any], said: dict[str, Any], limitation: Limitation, index: int) -> None:
    if limitation.what not in said["limitations"]:
        said["limitations"].append(limitation.what)
    reason = f"{limitation.what} on this target: {limitation.reason} ({limitation.reference})"
    not_checked(coverage, f"NaN in output {index}", reason)


def _loses_nan(call: ModuleTrace) -> bool:
    """Whether one of the arrays that a call was given has NaN, and one that it gave back has none of them."""
    given = [a for a in call.inputs if a.dtype.kind == "f" and np.isnan(a).any()]
    return bool(given) and any(a.dtype.kind == "f" and _swallows(given[0], a) for a in call.outputs)


def _swallows(given: Array, output: Array) -> bool:
    """Fewer rows with NaN behind than before."""
    before, after = (np.isnan(a).reshape(len(a), -1).any(1) if a.ndim else np.isnan(a) for a in (given, output))
    return before.shape != after.shape or bool(np.any(before & ~after))
