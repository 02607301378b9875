"""A model that answers in the original's names and axis order, by a correspondence that was found. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from isomorph.parity.drawing.strategies import round_to
from isomorph.parity.matching.correspondence import Correspondence, InputMatch
from isomorph.parity.matching.match_ports import leaves_of, match_leaves
from isomorph.parity.matching.pieces import Piece, WeightMatch, image_of, pull_gradients
from isomorph.parity.runners.base import About, ModuleTrace, ParameterInfo, PortInfo, Request, Response, Runner
from isomorph.parity.tolerance import Array

__all__ = ["Adapted", "given_as"]

ULPS = 16.0  # a sum or multiple of float32 values, recomputed


class Adapted:
    """A runner behind a correspondence, itself a `Runner`.

    Gradients go through the transpose of the map of weights, so that a parameter held in two places gets the sum of
    both gradients, and one that is a summand the gradient of the sum. `state` gives the original's values back wherever
    the model holds their image, also where the image cannot be inverted (a sum, a narrower dtype).
    """

    def __init__(
        self, runner: Runner, correspondence: Correspondence, values: Mapping[str, Array] | None = None
    ) -> None:
        self.runner, self.correspondence = runner, correspondence
        self.dtype = runner.dtype
        self._about = runner.about()
        self._values = dict(correspondence.values if values is None else values)
        self._infos = {**runner.parameters(), **runner.buffers()}
        self._pieces: dict[str, list[Piece]] = {}  # by the converted model's name
        for match in correspondence.weights.values():
            for piece in match.pieces:
                self._pieces.setdefault(piece.converted, []).append(piece)
        self._shapes = {name: tuple(info.shape) for name, info in correspondence.infos.items()}
        self._structures: dict[str, Any] = {"eval": correspondence.structures[1]} if correspondence.outputs else {}
        self._permutations = {match.original: match.permutation for match in correspondence.outputs}

    def about(self) -> About:
        """See `Runner`; the original's names and axis order."""
        found = self._about
        inputs = tuple(_renamed(found.inputs[match.at], match) for match in self.correspondence.inputs)
        outputs = found.outputs
        order = [match.converted for match in self.correspondence.outputs]
        if sorted(order) == list(range(len(outputs))):
            outputs = tuple(outputs[at] for at in order)
        return replace(found, inputs=inputs, outputs=outputs, mapped=True)

    def index_bounds(self) -> dict[str, int]:
        """See `Runner`."""
        bounds = self.runner.index_bounds()
        return {m.original: bounds[m.converted] for m in self.correspondence.inputs if m.converted in bounds}

    def parameters(self) -> dict[str, ParameterInfo]:
        """See `Runner`. What has no counterpart in the original is there by its own name, if it is trainable."""
        infos = {
            name: self._info(name, info)
            for name, info in self.correspondence.infos.items()
            if name not in self.correspondence.buffers and self._held(name, info)
        }
        own = self.runner.parameters()
        for name in self.correspondence.unmatched_converted:
            if name in own and own[name].trainable and self._about.gradients:
                infos[name if name not in infos else f"{name} (converted)"] = own[name]
        return infos

    def buffers(self) -> dict[str, ParameterInfo]:
        """See `Runner`."""
        return {
            name: self._info(name, info)
            for name, info in self.correspondence.infos.items()
            if name in self.correspondence.buffers and self._held(name, info)
        }

    def state(self) -> dict[str, Array]:
        """See `Runner`."""
        current = self.runner.state()
        state: dict[str, Array] = {}
        for name, match in self.correspondence.weights.items():
            if self._inexact(match) and self._is_image(match, current):
                state[name] = np.array(self._values[name])
            else:
                state[name] = self._inverse(match, current)
        for name, info in self.correspondence.infos.items():
            if name not in state and info.tied_to in state:
                state[name] = state[info.tied_to]
        return state

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Runner`. Names that the model does not hold are passed over."""
        infos, weights = self.correspondence.infos, self.correspondence.weights
        given = {}
        for name, array in state.items():
            info = infos.get(name)
            first = name if name in weights or info is None or info.tied_to is None else info.tied_to
            if first in weights:
                given[first] = np.asarray(array)
        inexact = self.state() if any(self._inexact(weights[name]) for name in given) else {}
        self._values.update(inexact)
        self._values.update(given)
        written = {other: ps for other, ps in self._pieces.items() if any(piece.original in given for piece in ps)}
        partly = any(not piece.is_whole for pieces in written.values() for piece in pieces)
        current = self.runner.state() if partly else {}
        changed = {}
        for other, pieces in written.items():
            used = [piece for piece in pieces if piece.is_whole or piece.original in given]
            dtype = np.result_type(*(self._values[piece.original].dtype for piece in used))
            before = current[other] if other in current else np.empty(self._infos[other].shape, dtype)
            changed[other] = image_of(used, self._values, before)
        self.runner.load(changed)

    def to_float64(self) -> Adapted:
        """See `Runner`."""
        return Adapted(self.runner.to_float64(), self.correspondence, self._values)

    def respond(self, request: Request) -> Response:
        """See `Runner`. Raises whatever the model raises."""
        got = self.runner.respond(self.request(request))
        self._structures[request.mode] = got.structure
        found = self.correspondence
        structure, places, extra = self._outputs(request, got)
        matches = {m.converted: m for m in found.inputs}
        gradients = pull_gradients(found.weights, self._shapes, got.parameter_gradients)
        for name in [name for name in gradients if self._first(name) != name]:
            first = self._first(name)
            gradients[first] = gradients[first] + gradients.pop(name) if first in gradients else gradients.pop(name)
        return Response(
            tuple(self._back(got.outputs[at], index) for index, at in enumerate(places)),
            tuple(got.dtypes[at] for at in places),
            structure,
            {
                m.original: _unpermuted(got.input_gradients[name], m.permutation)
                for name, m in matches.items()
                if name in got.input_gradients
            },
            gradients,
            {
                name: self._inverse(match, got.buffers)
                for name, match in found.weights.items()
                if name in self.correspondence.buffers and all(piece.converted in got.buffers for piece in match.pieces)
            },
            self._told(request, got, places),
            got.draws if request.draws is None else request.draws,
            extra + got.extra,
        )

    def trace(self, request: Request) -> tuple[ModuleTrace, ...]:
        """See `Runner`; module paths and arrays are the model's own, whose axis order is not known."""
        return self.runner.trace(self.request(request))

    def close(self) -> None:
        """See `Runner`."""
        self.runner.close()

    def request(self, request: Request) -> Request:
        """The same question in the model's own words."""
        inputs: list[Any] = [None] * len(self.correspondence.inputs)
        for match in self.correspondence.inputs:
            inputs[match.at] = given_as(request.inputs[match.place], match)
        cotangents = request.cotangents
        if request.backward and cotangents is not None:
            if request.mode not in self._structures:
                probe = replace(request, inputs=tuple(inputs), backward=False, cotangents=None, structure=None)
                self._structures[request.mode] = self.runner.respond(self._drawn(probe)).structure
            cotangents = self._cotangents(request, cotangents)
        return self._drawn(replace(request, inputs=tuple(inputs), cotangents=cotangents, structure=None))

    def _drawn(self, request: Request) -> Request:
        return request if self._about.replays else replace(request, draws=None)

    def _cotangents(self, request: Request, given: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
        own = self._structures[request.mode]
        result: list[Array | None] = [None] * len(leaves_of(own))
        expected = request.structure if request.structure is not None else list(range(len(given)))
        for index, at in match_leaves(expected, own)[0].items():
            cotangent, permutation = given[index], self._permutations.get(index)
            if cotangent is not None and permutation is not None and len(permutation) == cotangent.ndim:
                cotangent = cotangent.transpose(permutation)
            result[at] = cotangent
        return tuple(result)

    def _outputs(self, request: Request, got: Response) -> tuple[Any, list[int], int]:
        """The nesting to be told, the model's output for each of the original's, and how many are left out.

        Another number of outputs, or other names, are told as they are.
        """
        expected = request.structure
        if expected is None:
            expected = self.correspondence.structures[0]
        everything = list(range(len(got.outputs)))
        if expected is None:
            return got.structure, everything, 0
        matched, _ = match_leaves(expected, got.structure)
        wanted = [index for _, index in leaves_of(expected)]
        left = len(everything) - len(matched)
        if set(matched) != set(wanted) or (left and left != _nothings(expected)):
            return got.structure, everything, 0
        return expected, [matched[index] for index in sorted(wanted)], left

    def _told(self, request: Request, got: Response, places: list[int]) -> tuple[Array | None, ...]:
        """The cotangents that were used: given, or the model's own in the original's order."""
        if request.cotangents is not None or not got.cotangents:
            return request.cotangents or ()
        own = [got.cotangents[at] for at in places]
        return tuple(None if one is None else self._back(one, index) for index, one in enumerate(own))

    def _back(self, array: Array, index: int) -> Array:
        return _unpermuted(array, self._permutations.get(index))

    def _first(self, name: str) -> str:
        info = self.correspondence.infos[name]
        return info.tied_to or name

    def _held(self, name: str, info: ParameterInfo) -> bool:
        weights = self.correspondence.weights
        return name in weights or (info.tied_to is not None and info.tied_to in weights)

    def _info(self, name: str, info: ParameterInfo) -> ParameterInfo:
        weights = self.correspondence.weights
        match = weights[name] if name in weights else weights[str(info.tied_to)]
        held = [self._infos[piece.converted] for piece in match.pieces]
        trainable = all(one.trainable for one in held) if self._about.gradients else info.trainable
        apart = name in weights and info.tied_to is not None and self._about.gradients
        return ParameterInfo(name, info.shape, held[0].dtype, trainable, None if apart else info.tied_to)

    def _inexact(self, match: WeightMatch) -> bool:
        """Whether the original's values cannot be told from what the model holds."""
        return any(
            piece.scale != 1.0
            or (piece.is_whole and sum(other.is_whole for other in self._pieces[piece.converted]) > 1)
            or self._infos[piece.converted].dtype in ("float16", "bfloat16")
            for piece in match.pieces
        )

    def _is_image(self, match: WeightMatch, current: Mapping[str, Array]) -> bool:
        for other in {piece.converted for piece in match.pieces}:
            there, dtype = current[other], self._infos[other].dtype
            image = image_of(self._pieces[other], self._values, there)
            if dtype in ("float16", "bfloat16"):
                image = round_to(image, dtype)
            room = ULPS * np.finfo(np.float32).eps * float(np.max(np.abs(image), initial=0.0))
            if not np.allclose(image, there, rtol=0, atol=room, equal_nan=True):
                return False
        return True

    def _inverse(self, match: WeightMatch, current: Mapping[str, Array]) -> Array:
        arrays = [current[piece.converted] for piece in match.pieces]
        whole = np.zeros(self._shapes[match.original], np.result_type(*(array.dtype for array in arrays)))
        for piece, array in zip(match.pieces, arrays, strict=True):
            values = piece.region(array)
            summands = [one for one in self._pieces[piece.converted] if one.is_whole and one is not piece]
            if piece.is_whole and summands:  # what the others do not hold of the sum
                values = values - sum(one.take(self._values[one.original]).reshape(values.shape) for one in summands)
            piece.write_back(whole, piece.back(values if piece.scale == 1.0 else values / piece.scale))
        return whole


def given_as(array: Array, match: InputMatch) -> Array:
    """An input of the original as the converted model takes it."""
    moved = array.transpose(match.permutation) if len(match.permutation) == array.ndim else array
    if array.dtype.kind in "iub" and not match.dtype.startswith(("float", "bfloat", "complex")):
        moved = moved.astype(match.dtype)
    return np.ascontiguousarray(moved).reshape(moved.shape)


def _renamed(port: PortInfo, match: InputMatch) -> PortInfo:
    dims = port.dims
    if dims is not None and len(dims) == len(match.permutation):
        dims = tuple(dims[match.permutation.index(axis)] for axis in range(len(dims)))
    return replace(port, name=match.original, dims=dims)


def _unpermuted(array: Array, permutation: Iterable[int] | None) -> Array:
    order = tuple(permutation or ())
    return array.transpose(np.argsort(order)) if order and len(order) == array.ndim else array


def _nothings(structure: Any) -> int:
    """How many leaves of a nesting are None."""
    if isinstance(structure, dict):
        return sum(_nothings(item) for item in structure.values())
    if isinstance(structure, list | tuple):
        return sum(map(_nothings, structure))
    return int(structure is None)
