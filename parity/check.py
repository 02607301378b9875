"""Are two models the same model? `check` opens both, draws examples, runs them, and returns a `Verdict`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from isomorph.convert.errors import UnsupportedError
from isomorph.parity.contract import prepare
from isomorph.parity.exam import Exam, Report
from isomorph.parity.ledger import Ledger
from isomorph.parity.runners.spec import ModelSpec, WorkerError
from isomorph.parity.settings import Settings
from isomorph.parity.verdict import Verdict

__all__ = ["check", "examine"]


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
    strict: bool | None = None,
    *,
    budget: float | None = None,
    tolerances: Mapping[str, float] | None = None,
    device: str = "cpu",
    backend: str | None = None,
    python: str | None = None,
    database: str | None = None,
    explain: bool = True,
    steps: int | None = None,
    profile: bool = False,
    report: Report | None = None,
) -> Verdict:
    """Compare two models: outputs, gradients of every float input and every trainable parameter, buffers, training.

    Args:
        original, converted: a torch module, a Conversion, TorchConversion or OnnxExport, a Keras model, an
            onnx.ModelProto or a function from arrays to arrays; the path of a .pt2, .keras, .onnx or .tflite file or of
            a SavedModel directory; "module:callable" or any other source of `isomorph convert`; or a `ModelSpec`, which
            also says where and how to run it. Objects are bit-identical afterwards.
        inputs: example inputs that the original accepts: a tensor, a tuple of arguments, a dict of keyword arguments,
            or (args, kwargs); or a list of `--input` texts such as "x=float32[b,3,h=64..512,w]". None takes the
            conversion's own example, or makes one up from what the models declare.
        modes: "eval", "train" or both. examples: how many to draw in eval mode; a third of it in train mode.
        backward: also gradients, for random cotangents.
        seed: of every draw. The same seed gives the same verdict.
        dtype: "float64" (structure only), "own" (precision only) or "both". Precision needs a float64 reference of the
            original, never of the converted model.
        level: "quick" (3 examples, one forward and backward), "full" (24, and special values, randomised weights,
            optimizer steps, relations, determinism, dropout) or "thorough" (200).
        strict: whether kinks and float32 leaks are failures or warnings. None: failures for a conversion of isomorph's
            own, warnings for others.
        budget: seconds after which no further example is drawn and no further stage begun; the verdict says what was
            left out.
        tolerances: kind of quantised artifact -> relative root mean square error allowed (`settings.QUANTISED`).
        device: "cpu", "cuda" or "cuda:N", of both models. backend, python: Keras' backend and the interpreter of the
            converted model, which then runs in a worker process.
        database: folder of hypothesis' example database, in which a failure is kept and replayed first; None for none.
        explain: whether a failure is shrunk and located. steps: of each optimizer, 0 for none; None for the level's.
        profile: whether the error of every module is measured on one example (`Verdict.modules`), also where the models
            are the same. report: told of progress.

    Raises:
        UsageError: an argument is not one of the above, a model cannot be opened, or no example can be made.
    """
    settings = Settings(
        modes if isinstance(modes, str) else tuple(modes),  # type: ignore[arg-type]  # a text is refused there
        level, examples, backward, seed, dtype, strict, budget, tolerances or {}, database, explain, steps, profile,
    )  # fmt: skip
    texts, example = _given(inputs)
    original, converted = (os.fspath(m) if isinstance(m, os.PathLike) else m for m in (original, converted))
    first = original if isinstance(original, ModelSpec) else ModelSpec(original, seed=seed, device=device)
    if inputs is not None:
        first = replace(first, inputs=texts or first.inputs, example=example)
    if isinstance(converted, ModelSpec):
        second = converted
    else:
        second = ModelSpec(converted, texts, seed=seed, device=device, backend=backend, python=python)
    return examine(first, second, settings, report)


def _given(inputs: Any) -> tuple[tuple[str, ...], Any]:
    """(`--input` texts, example): what the caller gave is one or the other."""
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(item, str) for item in inputs):
        return tuple(inputs), None
    return (), inputs


def examine(original: ModelSpec, converted: ModelSpec, settings: Settings, report: Report | None = None) -> Verdict:
    """`check` for models and settings that are put together already. Worker processes are ended in any case."""
    ledger = Ledger(strict=settings.strict is not False)
    exam = Exam(settings, ledger, report)
    pair = None
    try:
        pair = prepare(original, converted, settings, ledger, exam.coverage, exam.begin)
        if pair is None:
            return exam.verdict("FAIL", "the inputs of the two models do not correspond")
        return exam.run(pair)
    except UnsupportedError as error:
        return exam.verdict("UNSUPPORTED", str(error))
    except WorkerError as error:
        return exam.verdict("ERROR", str(error))
    finally:
        if pair is not None:
            pair.close()
