"""The cases of onnx.backend.test: a model each, with inputs and the outputs it must give."""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

__all__ = ["KINDS", "Case", "cases"]

# "real" is left out: those nine models are downloaded.
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """`data`: pairs of inputs and wanted outputs, each a numpy array, a list (a sequence) or None (an empty optional).

    `op`: the op under test, also of a case that is the expansion of its function body."""

    kind: str
    name: str
    op: str
    model: Any
    data: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"


@functools.cache
def cases() -> tuple[Case, ...]:
    """All cases, in a fixed order. Some three seconds; names are unique only within a kind."""
    from onnx.backend.test.loader import load_model_tests

    found: list[Case] = []
    with warnings.catch_warnings():  # the suite divides by zero and rounds on purpose
        warnings.simplefilter("ignore")
        for kind in KINDS:
            tests = load_model_tests(kind=kind)
            ops = {test.name: _op(test.model) for test in tests if test.model is not None}
            for test in tests if kind == "node" else sorted(tests, key=lambda t: t.name):
                model, data = (test.model, test.data_sets) if test.model is not None else _on_disk(Path(test.model_dir))
                plain = tuple(([_array(v) for v in given], [_array(v) for v in wanted]) for given, wanted in data)
                # an expanded case follows the case it expands
                op = ops.get(re.sub(r"_expanded(_ver\d+)?$", "", test.name)) or _op(model)
                found.append(Case(kind, test.name, op, model, plain, test.rtol, test.atol))
    return tuple(found)


def _op(model: Any) -> str:
    """The op of a model of one node, "model" for all others."""
    nodes = model.graph.node
    return f"{nodes[0].domain}:{nodes[0].op_type}".removeprefix("ai.onnx:").lstrip(":") if len(nodes) == 1 else "model"


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _on_disk(folder: Path) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    model = onnx.load(folder / "model.onnx")
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        given = len(list(data.glob("input_*.pb")))
        types = inputs if given == len(inputs) else list(model.graph.input)
        sets.append(
            (
                [_read(data / f"input_{i}.pb", types[i].type) for i in range(given)],
                [_read(data / f"output_{i}.pb", value.type) for i, value in enumerate(model.graph.output)],
            )
        )
    return model, sets


def _read(path: Path, type_: Any) -> Any:
    if type_.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    if type_.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))
