"""NaN and infinities: where the original has one, the converted model must have the same one. numpy only.

A network turns most of its outputs into NaN when a twentieth of its inputs are, so one special value in each row of an
input is drawn, too: then the receptive field, the row and the kind of value tell the way it took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isomorph.parity.compare import Finding, compare_precision, compare_structure
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.explaining.flow import Flow, TracedCall
from isomorph.parity.ledger import Ledger
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.base import About, ModuleTrace, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.stages import Example
from isomorph.parity.tolerance import ULP, Array

__all__ = ["LIMITATIONS", "Limitation", "judge_special", "one_in_each_row"]

INFERENCE = frozenset({"litert", "onnx", "saved_model"})  # runtimes whose kernels promise nothing about special values
LEFT_TO_OTHERS = frozenset({"precision", "imprecise", "leak"})  # their own stages judge them, on ordinary inputs
KINDS = {"NaN": np.nan, "+inf": np.inf, "-inf": -np.inf}


@dataclass(frozen=True)
class Limitation:
    """What a target does with NaN or infinities that a conversion does not change.

    scope: what it explains. "lost": elements that are NaN in the original. "spread": elements that are NaN in the
    converted model. "all": the whole output. The last two need the original to have made one of the calls `originals`
    with special values. formats: of the runner (`About.format`). backend: its Keras backend, "" for any. device: a
    prefix of its device. calls: kinds of calls in the converted model's trace, one of which must be seen to lose NaN in
    the way that `loses` knows: (float array given, result) -> whether it did. Of a model without an inside it is enough
    that the original made one of the calls `originals` with NaN. reason: what is known. reference: where that can be
    looked up.
    """

    what: str
    formats: tuple[str, ...]
    backend: str
    device: str
    calls: tuple[str, ...]
    originals: tuple[str, ...]
    loses: Callable[[Array, Array], bool]
    reason: str
    reference: str
    scope: str = "lost"

    def fits(self, about: About) -> bool:
        """Whether it is about such a runner."""
        backend = about.environment.get("keras_backend", self.backend)
        right = not self.backend or backend == self.backend
        return about.format in self.formats and right and about.device.startswith(self.device)

    def asked_in(self, trace: Sequence[ModuleTrace]) -> bool:
        """Whether the original made such a call with NaN, or an infinity, among what it was given."""
        names = {name.rpartition(".")[2] for name in self.originals}  # F.gelu is torch.gelu to some
        return any(
            call.kind.rpartition(".")[2] in names
            and any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in call.inputs)
            for call in trace
        )

    def seen_in(self, trace: Sequence[ModuleTrace]) -> bool:
        """Whether a call of its kind was given NaN and lost it."""
        kinds = tuple(kind for call in self.calls for kind in (call, f"tf.{call}"))
        return any(
            self.loses(given, result)
            for call, arrays in _with_inputs(trace)
            if call.kind in kinds
            for given in arrays
            for result in call.outputs
            if given.dtype.kind == result.dtype.kind == "f"
        )


def _swallowed(given: Array, result: Array) -> bool:
    """Where NaN went in none comes out."""
    return bool(np.isnan(given).any() and not np.isnan(result).any())


def _kept_alone(given: Array, result: Array) -> bool:
    """A NaN or +inf makes its whole row NaN; here no more elements are than those."""
    makes = np.isnan(given) | (given == np.inf)
    return given.shape == result.shape and 0 < int(np.isnan(result).sum()) <= int(makes.sum())


MAX_POOLS = tuple(f"{name}{rank}d" for name in ("MaxPool", "F.max_pool") for rank in (1, 2, 3))
SOFTMAXES = (
    "Softmax", "F.softmax", "Tensor.softmax", "torch.softmax", "MultiheadAttention", "F.scaled_dot_product_attention",
)  # fmt: skip
RESAMPLING = (
    "Upsample", "UpsamplingBilinear2d", "F.interpolate", "F.upsample", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d", "F.adaptive_avg_pool1d", "F.adaptive_avg_pool2d", "F.adaptive_avg_pool3d",
)  # fmt: skip
ORDERING = tuple(
    f"{owner}.{name}"
    for owner in ("torch", "Tensor")
    for name in ("sort", "argsort", "topk", "kthvalue", "median", "nanmedian", "quantile", "msort", "cdist")
)
SAMPLING = (
    "F.grid_sample", "F.max_unpool1d", "F.max_unpool2d", "F.max_unpool3d", "F.adaptive_max_pool1d",
    "F.adaptive_max_pool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "MaxUnpool2d",
)  # fmt: skip
KERAS = ("keras", "saved_model")
LIMITATIONS: tuple[Limitation, ...] = (
    Limitation(
        "max pooling ignores NaN", ("keras", "saved_model"), "tensorflow", "cpu",
        ("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool", "MaxPool3D"), MAX_POOLS, _swallowed,
        "TensorFlow's CPU kernel takes the largest of the values that are no NaN, the lowest finite number if all are",
        "tf.nn.max_pool, TensorFlow 2.21",
    ),
    Limitation(
        "softmax in float32 keeps NaN to itself", ("keras", "saved_model"), "tensorflow", "cpu",
        ("Softmax",), SOFTMAXES, _kept_alone,
        "oneDNN's kernel gives 0 for the rest of the row; with TF_ENABLE_ONEDNN_OPTS=0 the whole row is NaN",
        "tf.nn.softmax, TensorFlow 2.21",
    ),
    Limitation(
        "max pooling ignores NaN", ("litert",), "", "cpu", ("MAX_POOL_2D",), (), _swallowed,
        "LiteRT's kernel takes the largest of the values that are no NaN, -inf if all are", "MAX_POOL_2D, LiteRT 2",
    ),
    Limitation(
        "maximum over axes ignores NaN", ("litert",), "", "cpu", ("REDUCE_MAX", "REDUCE_MIN"), (), _swallowed,
        "LiteRT's kernel compares, and no comparison with NaN holds", "REDUCE_MAX, LiteRT 2",
    ),
    Limitation(
        "maximum over axes ignores NaN", ("onnx",), "", "cpu", ("ReduceMax", "ReduceMin"), (), _swallowed,
        "ONNX Runtime's kernel compares, and no comparison with NaN holds", "ReduceMax, ONNX Runtime 1.31",
    ),
    Limitation(
        "resampling spreads NaN", KERAS, "", "", (), RESAMPLING, _swallowed,
        "it is a product with a matrix of weights, and 0 times NaN or infinity is NaN", "convert/rules/interpolate.py",
        "spread",
    ),
    Limitation(
        "the error function of infinity is NaN in float64", KERAS, "tensorflow", "cpu", (),
        ("GELU", "F.gelu", "torch.erf"),
        _swallowed, "TensorFlow's float64 kernel has no value there", "tf.math.erf, TensorFlow 2.21", "spread",
    ),
    Limitation(
        "NaN in another order, or lost", KERAS, "", "", (), (*ORDERING, *SAMPLING), _swallowed,
        "torch orders NaN as the largest, and samples and pools by index with it; the target's kernels compare",
        "docs/converter.md", "all",
    ),
)  # fmt: skip


def judge_special(pair: Pair, ledger: Ledger, coverage: dict[str, Any]) -> None:
    """Run both models forward, in eval mode, on inputs with NaN and infinities (stage "special").

    In float64 special values must be the same ones in the same places and finite elements agree as in the structure
    stage; in the model's own dtype a finite value where the original overflowed is accepted if float64 is finite there,
    and what changes in the original when denormals are flushed is inconclusive. Mismatches are of kind "nonfinite", or
    "value" for finite elements; warnings for a runtime that only infers and is not judged strictly. What an entry of
    `LIMITATIONS` explains is listed in coverage["not_checked"]; coverage["special"]: {"cases", "elements": special ones
    among the outputs compared, "limitations"}.
    """
    if not any(_takes_special(spec) for spec in pair.contract.inputs):
        return not_checked(coverage, "special values", "no input takes them")
    said: dict[str, Any] = {"cases": 0, "elements": 0, "limitations": []}
    for name, example in _examples(pair):
        said["cases"] += 1
        said["elements"] += sum(int(np.sum(~np.isfinite(a))) for a in example.reference.outputs if a.dtype.kind == "f")
        _judge(pair, ledger, coverage, example, name, said)
    coverage["special"] = said
    if not said["cases"]:
        not_checked(coverage, "special values", "the original refuses them")
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
    differs: set[int] = set()
    for runner, exact in ((pair.converted64 if pair.original64 is not None else None, True), (pair.converted, False)):
        if runner is None or (not exact and pair.own_dtype not in ULP):
            continue
        try:
            outputs = runner.respond(example.request).outputs
        except WorkerError:
            raise
        except Exception as error:  # any exception of the converted model is a finding
            ledger.reject("raised", "signature", "call", f"{line_of(error)} (given {name})", "eval", example.case)
            return
        for index, got in enumerate(outputs[: len(example.reference.outputs)]):
            if index in differs:
                continue  # what float64 has shown is not shown again
            finding = _finding(example, index, got, pair.own_dtype, exact)
            if not finding.agrees:
                differs.add(index)
                limitation, without = _limitation(pair, runner, example, index, got, finding)
                if limitation is not None:
                    _excuse(coverage, said, limitation, index)
                    finding = without
            if not finding.agrees:
                what = finding.message or finding.outcome
                finding = replace(finding, message=f"{finding.message} (given {name})".strip())
            if not finding.agrees and not ledger.strict and runner.about().format in INFERENCE:
                ledger.warn(f"output {index}: {what} (given {name}): its runtime treats it otherwise")
            elif finding.outcome not in LEFT_TO_OTHERS:
                dtype = "float64" if exact else pair.own_dtype
                ledger.record("special", "output", str(index), "eval", dtype, example.case, finding)


def _finding(example: Example, index: int, got: Array, dtype: str, exact: bool) -> Finding:
    """What an output is found to be."""
    reference = example.reference.outputs[index]
    if exact:
        finding = compare_structure(reference, got)
        if finding.outcome in ("value", "leak"):
            finding = compare_structure(reference, got, example.slope("output", str(index)))
        return finding
    finding = compare_precision(reference, example.response.outputs[index], got, dtype)
    if finding.outcome == "nonfinite" and example.depends_on_denormals():
        return replace(finding, outcome="inconclusive", message="the original depends on denormals here")
    return finding


def _limitation(
    pair: Pair, runner: Runner, example: Example, index: int, got: Array, finding: Finding
) -> tuple[Limitation | None, Finding]:
    """An entry that explains a difference, and what is found without the elements that it explains; the first after
    which nothing is left, if there is one. The other elements are still judged."""
    if finding.outcome not in ("nonfinite", "integer", "value"):
        return None, finding
    exact = runner is pair.converted64
    expected = (example.reference if exact else example.response).outputs[index]
    found: tuple[Limitation | None, Finding] = (None, finding)
    for entry in _explaining(pair, runner, example):
        if entry.scope == "all":
            excused = np.ones(expected.shape, bool)
        elif finding.outcome == "nonfinite":
            excused = np.isnan(expected) | (np.isnan(got) & (entry.scope == "spread"))
        else:
            continue
        without = _finding(example, index, np.where(excused, expected, got), pair.own_dtype, exact)
        if found[0] is None or without.agrees:
            found = entry, without
        if without.agrees:
            break
    return found


def _explaining(pair: Pair, runner: Runner, example: Example) -> Iterator[Limitation]:
    """The entries that are about this model, and that are seen at work: in the converted model's own calls, or where it
    shows none of them, in the original's."""
    about = runner.about()
    fitting = [entry for entry in LIMITATIONS if entry.fits(about)]
    if not fitting:
        return
    trace = runner.trace(example.request)
    yield from (entry for entry in fitting if trace and entry.scope == "lost" and entry.seen_in(trace))
    original = (pair.original64 or pair.original).trace(example.request)
    told = [entry for entry in fitting if not trace or entry.scope != "lost"]
    yield from (entry for entry in told if entry.asked_in(original))


def _excuse(coverage: dict[str, Any], said: dict[str, Any], limitation: Limitation, index: int) -> None:
    if limitation.what not in said["limitations"]:
        said["limitations"].append(limitation.what)
    reason = f"{limitation.what} on this target: {limitation.reason} ({limitation.reference})"
    not_checked(coverage, f"NaN in output {index}", reason)


def _with_inputs(trace: Sequence[ModuleTrace]) -> Iterator[tuple[ModuleTrace, Sequence[Array]]]:
    """Each call and what it was given; where that is not recorded with the call, by the flow of the arrays."""
    flow = Flow(trace) if any(not call.inputs for call in trace) else None
    for call in trace:
        if call.inputs or flow is None or not isinstance(call, TracedCall):
            yield call, call.inputs
        else:
            numbers = {source for sources in call.output_sources for source in sources if source in flow.nodes}
            yield call, [flow.value(number) for number in sorted(numbers)]
