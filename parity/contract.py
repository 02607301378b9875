"""What both models are asked: their runners, side by side, and the contract of their inputs.

The contract says of each input its name, dtype, axes (fixed, or free within bounds) and values. It is put together from
the original (a signature that declares free axes, the tables that integer inputs index), the converted model (axes it
leaves free) and what the user declares with `--input`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from isomorph.convert.errors import IsomorphError, UnsupportedError, UsageError
from isomorph.parity.covered import not_checked
from isomorph.parity.drawing import strategies
from isomorph.parity.drawing.strategies import Contract, InputSpec
from isomorph.parity.ledger import Ledger
from isomorph.parity.matching import correspond, recorded
from isomorph.parity.matching.adapt import Adapted
from isomorph.parity.matching.correspondence import Correspondence
from isomorph.parity.matching.probe import common_mode
from isomorph.parity.matching.renamed import Renamed
from isomorph.parity.pair import Pair, line_of
from isomorph.parity.runners.base import About, PortInfo, Request, Runner
from isomorph.parity.runners.open import open_runner
from isomorph.parity.runners.rounding import rounds_inside
from isomorph.parity.runners.spec import ModelSpec, Opened, WorkerError
from isomorph.parity.settings import Settings
from isomorph.parity.tolerance import Array
from isomorph.parity.verdict import Case

__all__ = ["prepare"]

NOMINAL = frozenset({"torch", "function"})  # formats whose axes are known from an example alone, and are free in truth


def prepare(
    original: ModelSpec,
    converted: ModelSpec,
    settings: Settings,
    ledger: Ledger,
    coverage: dict[str, Any],
    begin: Callable[[str], None] = lambda stage: None,
) -> Pair | None:
    """Open both models and find how they correspond; None, with a mismatch in the ledger, if their inputs do not.

    The example comes from the specs, else from a conversion's own, else the original's own, else from the inputs that
    the second model declares.
    The original is the yardstick, unless only the second one has float64, or can be measured better
    (`_measures_better`): then the two change places, in the original's names. begin: told what is done now.

    Raises:
        UsageError: a model cannot be opened, or no example can be made. WorkerError: a worker process died.
    """
    with contextlib.ExitStack() as opened:
        begin("opening")
        other = _on_its_own(converted)
        if other is not None:
            opened.callback(other.runner.close)
        given = original.example if original.example is not None else converted.example
        if given is None and not original.inputs:
            foreign = converted.recorded or _is_keras(original.target)  # an example is in torch's axis order
            given = _held(original.target) or (None if foreign else _held(converted.target))
        first = _open_first(replace(original, example=given), other)
        opened.callback(first.runner.close)
        second = other or _told(replace(converted, inputs=converted.inputs or original.inputs), given, first.example)
        opened.callback(second.runner.close)
        second = replace(second, recorded=converted.recorded or second.recorded)
        begin("correspondence")
        pair = _pair(first, second, settings, ledger, coverage)
        if pair is not None:
            opened.pop_all()  # they stay open for as long as the pair is used
        return pair


def _is_keras(target: Any) -> bool:
    """Whether it is a Functional model of Keras: it declares its inputs, and takes no example in torch's order."""
    return bool(getattr(target, "inputs", None)) and hasattr(target, "stateless_call")


def _held(target: Any) -> Any:
    """The example that a conversion was made with."""
    example = getattr(target, "example", None)
    return None if callable(example) else example


def _open_first(original: ModelSpec, other: Opened | None) -> Opened:
    """The original, on its own example if it has one, else on one made up from what the second model declares."""
    try:
        return open_runner(original)
    except UsageError:
        given = _invented(other.runner.about().inputs) if other is not None else None
        if given is None or original.example is not None or original.inputs:
            raise
    return open_runner(replace(original, example=given))


def _on_its_own(spec: ModelSpec) -> Opened | None:
    """A model that says itself what its inputs are, opened; None for one that must be told."""
    if not _describes_itself(spec):
        return None
    try:
        return open_runner(replace(spec, inputs=()))
    except UsageError:
        return None  # opened again with an example, it says for itself what it lacks


def _told(spec: ModelSpec, given: Any, example: tuple[Array, ...] | None) -> Opened:
    """A model opened with what is known of the inputs: as the caller gave them, as the `--input` texts name them, as
    the arrays that the original takes, or by itself. The first error is raised if it takes none of them."""
    attempts = [replace(spec, example=given)]
    if given is None and example is not None:
        attempts.append(replace(spec, inputs=(), example=example))
    if spec.example is None and isinstance(spec.target, str):
        attempts.append(replace(spec, inputs=()))
    problem: UsageError | None = None
    for attempt in attempts:
        try:
            return open_runner(attempt)
        except UsageError as error:
            problem = problem or error
    raise problem or UsageError("the second model cannot be opened")


def _describes_itself(spec: ModelSpec) -> bool:
    """Whether a model says itself what its inputs are: a conversion, or a file. Code is told by the example."""
    if isinstance(spec.target, str | PathLike):
        return spec.example is None and ":" not in Path(spec.target).name
    if hasattr(getattr(spec.target, "proto", spec.target), "opset_import"):
        return spec.example is None  # an ONNX model
    declares = bool(getattr(spec.target, "inputs", None))  # a conversion, or a Functional model of Keras
    return declares and hasattr(spec.target, "weights")


def _pair(first: Opened, second: Opened, settings: Settings, ledger: Ledger, coverage: dict[str, Any]) -> Pair | None:
    about, there = first.runner.about(), second.runner.about()
    example = first.example
    bounds = _bounds_of_indices(first.runner, example)
    by_record = False
    if there.mapped and about.format in ("torch", "exported"):
        if not _same_ports(about, there, ledger):
            return None
        runner: Runner = _renamed(second.runner, about, there)
        ports = there.inputs
    else:
        if example is None:
            raise UsageError("the two models can only be compared on example inputs: give --input or inputs=")
        found = _recorded(first, second) or correspond.find(first.runner, second.runner, example)
        coverage["correspondence"] = found.summary()
        for text in (*found.ambiguous, *found.notes):
            ledger.warn(text)
        for wrong in found.contradictions:
            ledger.reject(wrong.kind, "signature", wrong.name, wrong.message)
        if found.contradictions:
            return None
        runner = Adapted(second.runner, found)
        ports = runner.about().inputs
        by_record = found.by_record
        if by_record:
            recorded.compare_rates(first.runner, second.runner, ledger)
        if by_record and not (about.gradients and there.gradients):
            recorded.compare_held(first.runner, runner, found, ledger)
    if settings.strict is None:
        # what a runtime computes in float64 and what it answers at ties is its own, not the conversion's
        ledger.strict = (there.mapped or by_record) and about.gradients and there.gradients
        ledger.rounded = by_record
    contract = _contract(first, second, ports, bounds)
    swapped = by_record and _measures_better(there, about)
    sides = (runner, first.runner) if swapped else (first.runner, runner)
    wide = [_double(side) if settings.dtype != "own" or side is sides[0] else None for side in sides]
    if wide[0] is None and wide[1] is not None:
        swapped, sides, wide = not swapped, sides[::-1], [wide[1], None]
    if swapped and wide[1] is not None and example is not None and rounds_inside(wide[1], example):
        wide[1] = None
        not_checked(coverage, "structure in float64", f"the {about.format} model rounds to float32 inside all the same")
    coverage["yardstick"] = "converted" if swapped else "original"
    return Pair(
        *sides, wide[0], wide[1] if settings.dtype != "own" else None, contract, sides[0].about().precision, settings,
        backward=settings.backward and all(side.about().gradients for side in sides), swapped=swapped,
    )  # fmt: skip


def _measures_better(there: About, about: About) -> bool:
    """Whether the second model is the better yardstick: torch can perturb what is computed inside, record its draws and
    tell ties apart, and a runtime can do nothing of it."""
    if about.format in ("torch", "exported"):
        return False
    return there.format == "torch" or (there.gradients and not about.gradients)


def _recorded(first: Opened, second: Opened) -> Correspondence | None:
    """The correspondence that the conversion of one of the models recorded; None where there is no record, or none of
    these two models."""
    for record in (second.recorded, first.recorded):
        found = None if record is None else recorded.matched(first.runner, second.runner, record)
        if found is not None:
            return found if found.contradictions else _seen(first, second, found)
    return None


def _seen(first: Opened, second: Opened, found: Correspondence) -> Correspondence:
    """A recorded correspondence with how the outputs nest, which a run shows."""
    if first.example is None:
        return found
    request = Request(first.example, common_mode(first.runner, second.runner), False)
    try:
        here = first.runner.respond(request).structure
        there = second.runner.respond(Adapted(second.runner, found).request(request)).structure
    except WorkerError:
        raise
    except Exception:  # the exam asks again, and tells what is raised
        return found
    return recorded.with_outputs(found, (here, there))


def _double(runner: Runner) -> Runner | None:
    """The runner in float64, or None where its format has none."""
    if not runner.about().float64:
        return None
    try:
        return runner.to_float64()
    except UnsupportedError:
        return None


def _same_ports(about: About, there: About, ledger: Ledger) -> bool:
    """Whether the recorded map fits the original; what does not is a mismatch."""
    if len(about.inputs) != len(there.inputs):
        message = f"the original takes {len(about.inputs)} arrays, the converted model {len(there.inputs)}"
        ledger.reject("structure", "signature", "inputs", message)
        return False
    fits = True
    for mine, other in zip(about.inputs, there.inputs, strict=True):
        if mine.dtype != other.dtype:
            message = f"expected dtype {mine.dtype}, got {other.dtype}"
            ledger.reject("dtype", "signature", f"input {other.name}", message)
        if mine.dims is not None and other.dims is not None and len(mine.dims) != len(other.dims):
            message = f"expected {len(mine.dims)} axes, got {len(other.dims)}"
            ledger.reject("shape", "signature", f"input {other.name}", message)
            fits = False
    return fits


def _renamed(runner: Runner, about: About, there: About) -> Runner:
    """A runner with a recorded map, answering for its inputs under the original's names for them."""
    names = {other.name: mine.name for mine, other in zip(about.inputs, there.inputs, strict=True)}
    if all(mine == other for other, mine in names.items()):
        return runner
    return Renamed(runner, names)


def _contract(first: Opened, second: Opened, ports: Sequence[PortInfo], bounds: Mapping[str, int]) -> Contract:
    """ports: the converted model's inputs, in the original's order and axis order. bounds: rows of what they index."""
    about, there, example = first.runner.about(), second.runner.about(), first.example
    values = {**second.values, **first.values}
    dims = _dims(about, there, ports, example)
    specs = []
    for index, (port, axes) in enumerate(zip(about.inputs, dims, strict=True)):
        array = None if example is None else example[index]
        declared = values.get(port.name) or _declared(port, ports[index])
        specs.append(strategies.spec_of(port.name, port.dtype, axes, array, bounds.get(port.name), declared))
    sizes = strategies.solve_sizes(specs)
    return Contract(tuple(specs), sizes, _bounds(about.sizes, there.sizes))


def _bounds_of_indices(runner: Runner, example: tuple[Array, ...] | None) -> Mapping[str, int]:
    """Rows of the tables that the inputs index, seen by running the model on its example, which it must accept."""
    about = runner.about()
    try:
        if example is not None and about.format not in ("torch", "exported"):
            runner.respond(Request(example, about.modes[0], backward=False))
        return runner.index_bounds()
    except IsomorphError:
        raise
    except Exception as error:  # any exception of a foreign model
        said = f"the first model does not accept the example inputs: {line_of(error)}; give inputs that it accepts"
        raise UsageError(said) from error


def _dims(
    about: About, there: About, ports: Sequence[PortInfo], example: tuple[Array, ...] | None
) -> list[tuple[int | str, ...]]:
    """An axis is free where both models leave it free. Unnamed free axes that are equal in the example are one. Of two
    models that are known from an example alone, the axis that all inputs begin with is free: what the original does not
    accept is not asked."""
    unnamed: dict[int, str] = {}
    if about.format in NOMINAL and there.format in NOMINAL and example is not None:
        lengths = {array.shape[0] if array.ndim else None for array in example}
        if (
            len(lengths) == 1
            and None not in lengths
            and not any(isinstance(d, str) for p in ports for d in p.dims or ())
        ):
            return [("batch", *array.shape[1:]) for array in example]

    def dim(mine: int | str | None, other: int | str | None, axis: int, size: int | None) -> int | str:
        if about.format in NOMINAL and isinstance(mine, int):
            mine = other if there.format not in NOMINAL else mine
        for fixed in (mine, other):
            if isinstance(fixed, int):
                return size if size is not None else fixed
        if isinstance(mine, str) or isinstance(other, str):
            return mine if isinstance(mine, str) else str(other)
        if size is None:
            raise UsageError("an axis has no size: give --input or inputs=")
        return unnamed.setdefault(size, "batch" if axis == 0 and not unnamed else f"d{len(unnamed)}")

    result = []
    for index, port in enumerate(about.inputs):
        shape = None if example is None else example[index].shape
        mine = port.dims if port.dims is not None else (None,) * len(shape or ())
        theirs = ports[index].dims
        other = theirs if theirs is not None and len(theirs) == len(mine) else mine
        result.append(
            tuple(
                dim(a, b, axis, None if shape is None else shape[axis])
                for axis, (a, b) in enumerate(zip(mine, other, strict=True))
            )
        )
    return result


def _declared(*ports: PortInfo) -> tuple[float, float] | None:
    """The bounds of the values that a port declares."""
    return next(((p.low, p.high) for p in ports if p.low is not None and p.high is not None), None)


def _bounds(*sides: Mapping[str, tuple[int, int | None]]) -> dict[str, tuple[int, int | None]]:
    """The sizes that all sides allow."""
    merged: dict[str, tuple[int, int | None]] = {}
    for side in sides:
        for name, (low, high) in side.items():
            low = (
                1 if low == 2 else low
            )  # torch.export's word for no lower bound; what the original refuses is not asked
            old_low, old_high = merged.get(name, (1, None))
            tops = [top for top in (high, old_high) if top is not None]
            merged[name] = max(low, old_low), min(tops) if tops else None
            if tops and merged[name][0] > min(tops):
                raise UsageError(f"the two models allow no common size of axis {name!r}")
    return merged


def _invented(ports: Sequence[PortInfo]) -> tuple[Any, ...] | None:
    """Inputs of the ports' shapes and dtypes: normal floats, zeros for integers, True for bools; None where a port has
    an unnamed axis or no known rank."""
    if not ports or any(port.dims is None or None in port.dims for port in ports):
        return None
    specs = [InputSpec(p.name, p.dtype, tuple(d for d in p.dims or () if d is not None)) for p in ports]
    contract = Contract(tuple(specs), strategies.solve_sizes(specs))
    case = Case("normal", 0, contract.sizes)
    arrays: list[Array] = []
    for spec in specs:
        shape = contract.shape(spec, case)
        if spec.dtype.startswith(("float", "bfloat", "complex")):
            arrays.append(np.asarray(np.random.default_rng(0).standard_normal(shape), _carrier(spec.dtype)))
        else:
            arrays.append(np.ones(shape, bool) if spec.dtype == "bool" else np.zeros(shape, spec.dtype))
    return tuple(arrays)


def _carrier(dtype: str) -> str:
    return "float32" if dtype in ("bfloat16", "float16") else dtype
