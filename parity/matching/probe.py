"""Axis orders that names and shapes leave open are asked of the models: both are run, forward only, and of several
orders that fit it is the one under which the outputs agree. numpy only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isomorph.convert.errors import UsageError
from isomorph.parity.matching.adapt import given_as
from isomorph.parity.matching.correspondence import Contradiction, Correspondence, InputMatch, OutputMatch
from isomorph.parity.matching.match_ports import Dims, channel_moves, match_leaves, permutations
from isomorph.parity.runners.base import Request, Response, Runner
from isomorph.parity.runners.spec import WorkerError
from isomorph.parity.tolerance import Array, rms

__all__ = ["AGREE", "between", "common_mode", "match_by_running"]

AGREE = 1e-2  # distance below which two answers are the same, whatever their rounding
CANDIDATES = 48
NOMINAL = frozenset({"torch", "function"})  # formats that declare the shapes of an example, which say nothing of layout

Shape = tuple[int, ...]


def match_by_running(
    original: Runner, converted: Runner, example: Sequence[Array] | None, found: Correspondence
) -> Correspondence:
    """The axis orders of inputs and outputs, and which output is which. See `correspond.find`."""
    about = converted.about()
    dims = [about.inputs[match.at].dims for match in found.inputs]
    if example is None:
        shapes = [
            tuple(dim if isinstance(dim, int) else -1 for dim in port.dims or ()) for port in original.about().inputs
        ]
        return _without_run(found, shapes, dims)
    declared = [None if about.format in NOMINAL else known for known in dims]
    options = []
    for match, array, known in zip(found.inputs, example, declared, strict=True):
        fits = permutations(array.shape, known)
        if not fits:
            return _misfit(original, example, found, dims, match)
        options.append(_tier(fits, known))
    doubt = any(known is not None and len(option) > 1 for known, option in zip(declared, options, strict=True))
    mode = common_mode(original, converted)
    answer = original.respond(Request(tuple(example), mode, False))
    tried, failures = [], []
    for chosen in itertools.islice(itertools.product(*options), CANDIDATES):
        inputs = tuple(replace(m, permutation=p) for m, p in zip(found.inputs, chosen, strict=True))
        try:
            got = converted.respond(Request(_given(example, inputs), mode, False))
        except WorkerError:
            raise
        except Exception as error:  # any exception of a foreign model: it does not run under this order
            failures.append(error)
            continue
        outputs, distance = _outputs(answer, got)
        tried.append((distance, inputs, outputs, got))
        if len(tried) == 1 and not failures and (distance <= AGREE or not doubt):
            break
    if not tried:
        return _none_runs(example, found, dims, options, failures[0])
    best = min(tried, key=lambda one: one[0] if one[0] <= AGREE else np.inf)  # the first of those that agree
    _, inputs, outputs, got = best
    notes = [*found.notes, *_said(tried, options, inputs, outputs, answer, got)]
    return replace(
        found, inputs=inputs, outputs=outputs, structures=(answer.structure, got.structure), notes=tuple(notes)
    )


def _without_run(found: Correspondence, shapes: Sequence[Shape], dims: Sequence[Dims]) -> Correspondence:
    """Axis orders by what is declared."""
    inputs, notes = [], list(found.notes)
    for match, shape, known in zip(found.inputs, shapes, dims, strict=True):
        fits = permutations(shape, None if known is None else tuple(d if isinstance(d, int) else None for d in known))
        fits = fits or [tuple(range(len(shape)))]
        if fits[0] != tuple(range(len(shape))):
            notes.append(f"input {match.original}: axes taken as {list(fits[0])}, without an example to try it on")
        inputs.append(replace(match, permutation=fits[0]))
    return replace(found, inputs=tuple(inputs), notes=tuple(notes))


def _tier(fits: list[Shape], dims: Dims) -> list[Shape]:
    """The orders worth trying: as it is; else channels moved; else all that fit.

    Where the axes fit as they are, channels are still moved if that also fits and only then the models agree (an image
    as wide and high as it has channels), or if a model that does not say what it takes does not run otherwise.
    """
    moves = [p for p in fits if p in channel_moves(len(p))]
    if fits[0] == tuple(range(len(fits[0]))):
        return [fits[0], *(moves if dims is None or len(fits[0]) > 3 else [])]
    return moves or fits


def _given(example: Sequence[Array], inputs: Sequence[InputMatch]) -> tuple[Array, ...]:
    given: list[Any] = [None] * len(inputs)
    for match, array in zip(inputs, example, strict=True):
        given[match.at] = given_as(array, match)
    return tuple(given)


def _outputs(answer: Response, got: Response) -> tuple[tuple[OutputMatch, ...], float]:
    """Which output is which, in what axis order, and the largest distance between two."""
    matched, _ = match_leaves(answer.structure, got.structure)
    outputs, largest = [], 0.0 if matched else np.inf
    for index, at in sorted(matched.items()):
        here, there = answer.outputs[index], got.outputs[at]
        fits = permutations(here.shape, tuple(there.shape))
        if not fits:
            outputs.append(OutputMatch(index, at, None))
            largest = np.inf
            continue
        distances = {p: between(here.transpose(p), there) for p in _tier(fits, tuple(there.shape))}
        first = next(iter(distances))
        best = next((p for p, distance in distances.items() if distance <= AGREE), first)
        outputs.append(OutputMatch(index, at, best))
        largest = max(largest, distances[best])
    return tuple(outputs), largest


def between(left: Array, right: Array) -> float:
    """Largest difference over the root mean square; the share of differing elements for what is no float."""
    if left.shape != right.shape:
        return np.inf
    if left.dtype.kind not in "fc" or right.dtype.kind not in "fc":
        return float(np.mean(left != right)) if left.size else 0.0
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(all="ignore"):
        difference = np.where(same, 0.0, np.abs(left - right))
    worst = float(np.max(difference, initial=0.0))
    return worst / max(rms(np.abs(left)), 1e-30) if np.isfinite(worst) else np.inf


def _said(
    tried: Sequence[Any], options: Sequence[list[Shape]], inputs: Sequence[InputMatch],
    outputs: Sequence[OutputMatch], answer: Response, got: Response,
) -> Iterator[str]:  # fmt: skip
    """What a user should know about how the ports were matched."""
    agreeing = [one for one in tried if one[0] <= AGREE]
    for place, match in enumerate(inputs):
        others = {one[1][place].permutation for one in agreeing}
        if match.permutation != tuple(range(len(match.permutation))):
            yield f"input {match.original} is given with its axes as {list(match.permutation)}"
        if len(others) > 1:
            yield f"input {match.original}: the models agree under several orders of its axes: {sorted(others)}"
        elif len(options[place]) > 1 and not agreeing:
            yield f"input {match.original}: the models agree under no order of its axes that fits"
    for output in outputs:
        here, there = answer.outputs[output.original], got.outputs[output.converted]
        if output.permutation and output.permutation != tuple(range(len(output.permutation))):
            yield f"output {output.original} is read with its axes as {np.argsort(output.permutation).tolist()}"
        if output.permutation is None or between(here.transpose(output.permutation), there) <= AGREE:
            continue
        for other, array in enumerate(answer.outputs):
            if other != output.original and array.size and between(array, there) <= AGREE:
                yield f"output {output.original} of the converted model equals output {other} of the original"


def common_mode(original: Runner, converted: Runner) -> str:
    """Eval mode, unless one of the two has none."""
    mine, other = original.about().modes, converted.about().modes
    return next((mode for mode in ("eval", "train") if mode in mine and mode in other), other[0] if other else "eval")


def _misfit(
    original: Runner, example: Sequence[Array], found: Correspondence, dims: Sequence[Dims], match: InputMatch
) -> Correspondence:
    """No order of the axes fits: is it the example that is wrong for both models, or do the models differ?

    Raises UsageError in the first case: the original runs on what the converted model takes.
    """
    shape, known = example[match.place].shape, dims[match.place]
    takes = [dim if isinstance(dim, int) else "any" for dim in known or ()]
    if len(takes) == len(shape):
        orders = [tuple(range(len(shape))), *channel_moves(len(shape))]
        for order in sorted(orders, key=lambda order: -_kept(shape, _wanted(shape, known, order))):
            resized = [np.resize(a, _wanted(a.shape, d, order)) for a, d in zip(example, dims, strict=True)]
            try:
                original.respond(Request(tuple(resized), original.about().modes[0], False))
            except WorkerError:
                raise
            except Exception:  # the original does not take these sizes
                continue
            raise UsageError(
                f"input {match.original}: the example has shape {list(shape)}, and the converted model takes {takes}: "
                f"give inputs of shape {list(resized[match.place].shape)}"
            )
    message = f"shape {list(shape)} is for the original; the converted model takes {takes}"
    return replace(found, contradictions=(Contradiction("shape", f"input {match.original}", message),))


def _kept(shape: Shape, wanted: Shape) -> int:
    return sum(size == other for size, other in zip(shape, wanted, strict=True))


def _wanted(shape: Shape, dims: Dims, order: Shape) -> Shape:
    if dims is None or len(dims) != len(shape):
        return shape
    axes = order if len(order) == len(shape) else tuple(range(len(shape)))
    wanted = list(shape)
    for dim, axis in zip(dims, axes, strict=True):
        wanted[axis] = dim if isinstance(dim, int) else shape[axis]
    return tuple(wanted)


def _none_runs(
    example: Sequence[Array], found: Correspondence, dims: Sequence[Dims], options: Sequence[list[Shape]],
    error: Exception,
) -> Correspondence:  # fmt: skip
    """The converted model raised under every order. Where its shapes are declared that is a finding of the exam."""
    if any(known is None for known in dims):
        shapes = ", ".join(f"{m.original} {list(a.shape)}" for m, a in zip(found.inputs, example, strict=True))
        text = str(error).strip().splitlines()
        raise UsageError(
            f"the converted model does not run on the example ({shapes}) under any order of its axes: "
            f"{type(error).__name__}: {text[0] if text else ''}"[:400]
        )
    inputs = tuple(replace(m, permutation=option[0]) for m, option in zip(found.inputs, options, strict=True))
    return replace(found, inputs=inputs, notes=(*found.notes, "the converted model raised on the example"))
