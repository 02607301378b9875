"""Mutations of a finished Conversion: its variables, its weight map, its ports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from isomorph.convert.conversion import Conversion
from isomorph.convert.weights import Transform, WeightEntry, numpy_of
from tests.quality.bugs.mutations import Mutation


def assigned(name: str, value: Callable[[Any], Any]) -> Mutation:
    """Another value in the variable of a weight, in torch's layout."""

    def edit(conversion: Conversion) -> None:
        entry = _entry(conversion, name)
        array = entry.to_torch(numpy_of(entry.variable))
        entry.variable.assign(entry.to_keras(np.asarray(value(array), array.dtype)))

    return Mutation(edit=edit)


def mislaid(name: str) -> Mutation:
    """A square weight is stored, and mapped back, without its transposition."""

    def edit(conversion: Conversion) -> None:
        entry = _entry(conversion, name)
        if not entry.transform.steps:
            raise LookupError(f"{name} is stored as torch has it")
        entry.variable.assign(entry.to_torch(numpy_of(entry.variable)))
        wrong = dataclasses.replace(entry, transform=Transform())
        conversion.weights = tuple(wrong if e is entry else e for e in conversion.weights)

    return Mutation(edit=edit)


def variable_trained(name: str, trainable: bool) -> Mutation:
    """The variable of a weight is frozen or thawed; the map says nothing of it."""

    def edit(conversion: Conversion) -> None:
        _entry(conversion, name).variable.trainable = trainable

    return Mutation(edit=edit)


def port(index: int, permutation: tuple[int, ...]) -> Mutation:
    """An input is fed in another axis order than it is converted for."""

    def edit(conversion: Conversion) -> None:
        ports = list(conversion.inputs)
        ports[index] = dataclasses.replace(ports[index], permutation=permutation)
        conversion.inputs = tuple(ports)

    return Mutation(edit=edit)


def _entry(conversion: Conversion, name: str) -> WeightEntry:
    for entry in conversion.weights:
        if entry.torch_name == name:
            return entry
    raise LookupError(f"the model has no {name}")
