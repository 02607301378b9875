"""`TorchConversion`: a torch module together with the map back to the model it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isomorph.convert.conversion import Port
from isomorph.convert.errors import UsageError, WeightError, one_line
from isomorph.convert.weights import WeightEntry, numpy_of
from isomorph.convert.whole import whole

__all__ = ["TorchConversion", "TorchWeight"]

SCHEMA = 1
Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TorchWeight(WeightEntry):
    """One tensor of the state dict. `location[0]` is the initializer (the Keras path), `variable` the torch tensor,
    `transform` leads from torch's array to the initializer's, or to the `part` of it (start and stop on each axis).
    kind "constant": no initializer holds it (`location` is empty), it never changes."""

    part: Box | None = None

    @property
    def source(self) -> str:
        """The initializer's name; "" for a constant."""
        return self.location[0] if self.location else ""

    def to_data(self) -> dict[str, Any]:
        part = None if self.part is None else [list(p) for p in self.part]
        return {**super().to_data(), "source": self.source, "part": part}


@dataclass
class TorchConversion:
    """What `to_torch` returns.

    module: in eval mode. inputs, outputs: `Port.permutation` p says source array = torch array.transpose(p).
    output_structure: how the module's result nests, with numbers for leaves; None: flat. constant_outputs: the leaves
    that are no tensors; the others are `outputs`, in order. shapes: of the initializers, by name. report: "layers" (by
    class), "functional" (how many nodes are none), "transposes", "parameters" (numbers that train), "notes", "source",
    "versions", "seconds".
    """

    module: Any
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    weights: tuple[TorchWeight, ...] = ()
    output_structure: Any = None
    constant_outputs: tuple[int, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    # --------------------------------------------------------------------------------------------------- weights
    def pull(self, state_dict: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """The weights by initializer (Keras path), in the source's layout: as the module holds them now, or as in a
        state dict of it, such as the `pull` of the Conversion that `to_keras` made of this."""
        found: dict[str, np.ndarray] = {}
        for entry in self.weights:
            if entry.tied_to is not None or not entry.source:
                continue
            held = entry.variable if state_dict is None else state_dict[entry.torch_name]
            array = entry.to_keras(numpy_of(held))
            if entry.part is None:
                found[entry.source] = np.array(array, order="C")
            else:
                whole = found.setdefault(entry.source, np.empty(self.shapes[entry.source], array.dtype))
                whole[tuple(slice(a, b) for a, b in entry.part)] = array
        return found

    def push(self, arrays: Mapping[str, Any]) -> None:
        """Write weights by initializer, in the source's layout; the others stay.

        WeightError lists all that is misshapen or unknown; nothing is written then.
        """
        known = {e.source for e in self.weights if e.source}
        given = {name: numpy_of(array) for name, array in arrays.items()}
        problems = [f"{name} is not a weight of the model" for name in given if name not in known]
        problems += [
            f"{name} has shape {list(a.shape)}, the model wants {list(self.shapes[name])}"
            for name, a in given.items()
            if name in known and a.shape != self.shapes[name]
        ]
        if problems:
            more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise WeightError(f"the weights do not fit: {'; '.join(problems[:20])}{more}")
        for entry in self.weights:
            if entry.source in given and entry.tied_to is None:
                array = given[entry.source]
                box = array if entry.part is None else array[tuple(slice(a, b) for a, b in entry.part)]
                _write(entry.variable, entry.to_torch(box))

    def assign_to(self, model: Any) -> None:
        """Write the weights into the Keras model that this was made from, or one with the same variable paths.

        WeightError: it lacks some, or they have other shapes; nothing is written then.
        """
        from isomorph.convert.onnx_out.trace import variable_names

        arrays, variables = self.pull(), variable_names(model)
        missing = sorted(set(arrays) - set(variables))
        wrong = [n for n in arrays if n in variables and tuple(variables[n].shape) != arrays[n].shape]
        if missing or wrong:
            raise WeightError(f"{model.name} is another model: it lacks {missing[:5]}, other shapes: {wrong[:5]}")
        for name, array in arrays.items():
            variables[name].assign(array)

    # --------------------------------------------------------------------------------------------------- calling
    def flatten_outputs(self, result: Any) -> list[Any]:
        """What the module returned, as a flat list in the order of `outputs`."""
        found: dict[int, Any] = {}

        def walk(structure: Any, value: Any) -> None:
            if isinstance(structure, dict):
                for key in structure:
                    walk(structure[key], value[key])
            elif isinstance(structure, (list, tuple)):
                for inner, part in zip(structure, value, strict=True):
                    walk(inner, part)
            elif isinstance(structure, int) and structure not in self.constant_outputs:
                found[structure] = value

        structure = self.output_structure
        if structure is None:
            return list(result) if isinstance(result, (list, tuple)) else [result]
        walk(structure, result)
        return [found[leaf] for leaf in sorted(found)]

    def example(self, batch: int = 2, size: int = 8, seed: int = 0) -> tuple[Any, ...]:
        """Random inputs of the right dtypes and dims; `batch` for the first free dim, `size` for the others.
        Integers are 0 or 1."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        sizes: dict[str, int] = {}

        def dim(d: int | str, first: bool) -> int:
            return d if isinstance(d, int) else sizes.setdefault(d, batch if first else size)

        found = []
        for port in self.inputs:
            shape = [dim(d, i == 0) for i, d in enumerate(port.dims)]
            dtype = getattr(torch, port.dtype, None)
            if dtype is None:
                raise UsageError(f"the input {port.name} is of {port.dtype}: give an example of your own")
            if dtype.is_floating_point:
                found.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
            else:
                found.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
        return tuple(found)

    # ---------------------------------------------------------------------------------------------------- saving
    def metadata(self) -> dict[str, Any]:
        """JSON-able: the weight map, ports, versions."""
        return {
            "schema": SCHEMA,
            "inputs": [p.to_data() for p in self.inputs],
            "outputs": [p.to_data() for p in self.outputs],
            "output_structure": self.output_structure,
            "weights": [e.to_data() for e in self.weights],
            "report": {k: v for k, v in self.report.items() if k != "seconds"},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state dict (.safetensors) or the exported program (.pt2, in eval mode), whole or not at
        all. UsageError: another suffix, or the path cannot be written."""
        path = Path(path)
        writers = {".safetensors": self._write_state, ".pt2": self._write_program}
        if path.suffix not in writers:
            raise UsageError(f"{path}: the module is written as .safetensors or .pt2; give a name that ends so")
        with whole(path) as file:
            writers[path.suffix](file)

    def _write_state(self, file: Path) -> None:
        """Tied names are tensors of their own in the file: that is what every reader of it expects."""
        from safetensors.torch import save_file

        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.module.state_dict().items()}
        save_file(state, file, metadata={"isomorph": json.dumps(self.metadata(), sort_keys=True, default=str)})

    def _write_program(self, file: Path) -> None:
        import torch

        training = {module: module.training for module in self.module.modules()}
        try:
            self.module.eval()
            torch.export.save(self.exported(), file)
        finally:
            for module, was in training.items():
                module.training = was

    def exported(self) -> Any:
        """The torch.export.ExportedProgram in the mode that the module is in, with the free dims of the source."""
        import torch

        args = self.example()
        shapes = tuple(
            {i: torch.export.Dim.AUTO for i, d in enumerate(p.dims) if isinstance(d, str)} for p in self.inputs
        )
        names = list(getattr(self.module, "arguments", ()))
        try:
            return torch.export.export(
                self.module, args, dynamic_shapes=dict(zip(names, shapes, strict=True)) if names else shapes
            )
        except Exception as error:  # torch.export raises many types
            raise UsageError(f"torch.export does not take the module: {one_line(error)}") from error


def _write(tensor: Any, array: np.ndarray) -> None:
    import torch

    from .operands import tensor_of

    with torch.no_grad():
        tensor.copy_(tensor_of(array).to(tensor.dtype))
