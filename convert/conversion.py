"""`Conversion`: a Keras model together with the map back to torch. What `to_keras` returns and `load` reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import exact_constants
from .errors import UsageError, WeightError
from .inputspec import FLOATS
from .random_sites import RandomSite, sites_from_data, sites_to_data
from .weights import Transform, WeightEntry, numpy_of, variable_at
from .whole import whole

METADATA = "isomorph.json"
DATE = (1980, 1, 1, 0, 0, 0)
SCHEMA = 1


@dataclass(frozen=True)
class Port:
    """An input or output on both sides. `dims` are torch's (ints and expressions such as "b" or "2*s");
    `permutation` p: keras_array = torch_array.transpose(p), None where the order is the same."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    permutation: tuple[int, ...] | None = None

    def to_keras(self, array: Any) -> np.ndarray:
        array = np.asarray(array)
        return array if self.permutation is None else np.transpose(array, self.permutation)

    def to_torch(self, array: Any) -> np.ndarray:
        array = np.asarray(array)
        return array if self.permutation is None else np.transpose(array, np.argsort(self.permutation))

    def to_data(self) -> dict[str, Any]:
        """JSON-able, as it stands in the metadata of a file."""
        permutation = None if self.permutation is None else list(self.permutation)
        return {"name": self.name, "dtype": self.dtype, "dims": list(self.dims), "permutation": permutation}


@dataclass
class Conversion:
    """A trainable Keras model that is a torch module, and everything needed to go between the two."""

    model: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: tuple[WeightEntry, ...]
    output_structure: Any
    mode: str = "both"
    layout: str = "keras"
    batchnorm: str = "torch"
    report: dict[str, Any] = field(default_factory=dict)
    random_sites: tuple[RandomSite, ...] = ()
    bounds: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    output_constants: dict[int, Any] = field(default_factory=dict)
    example: Any = field(default=None, repr=False)  # (args, kwargs) the module was captured with
    _remake: Callable[[str], Conversion] | None = field(default=None, repr=False)

    # --------------------------------------------------------------------------------------------------- weights
    def push(self, state_dict: Mapping[str, Any]) -> None:
        """Write torch weights into the Keras model. Names may be tied ones.

        WeightError lists all that is missing, misshapen, unknown, or tied and yet different; nothing is written then.
        """
        problems, writes = [], []
        for entry in self.weights:
            if entry.kind == "constant" or entry.tied_to is not None:
                continue
            aliases = [entry.torch_name, *(e.torch_name for e in self.weights if e.tied_to == entry.torch_name)]
            name = next((a for a in aliases if a in state_dict), None)
            if name is None:
                if entry.kind == "parameter" or entry.torch_name in self.report.get("persistent", ()):
                    problems.append(f"{entry.torch_name} is missing")
                continue
            array = numpy_of(state_dict[name])
            wanted = self._torch_shape(entry)
            if array.shape != wanted:
                problems.append(f"{name} has shape {list(array.shape)}, the model wants {list(wanted)}")
            else:
                writes.append((entry, array))
            for other in aliases:
                if other in state_dict and other != name and numpy_of(state_dict[other]).tobytes() != array.tobytes():
                    problems.append(f"{other} differs from {name}, and the model has one tensor for both")
        known = {e.torch_name for e in self.weights} | set(self.report.get("left_out", ()))
        problems += [f"{n} is not a weight of the model" for n in state_dict if n not in known]
        if problems:
            raise WeightError(
                f"the state dict does not fit: {'; '.join(problems[:20])}"
                + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
            )
        for entry, array in writes:
            entry.variable.assign(entry.to_keras(array).astype(numpy_of(entry.variable).dtype))

    def _torch_shape(self, entry: WeightEntry) -> tuple[int, ...]:
        return entry.to_torch(np.broadcast_to(np.zeros((), np.int8), tuple(entry.variable.shape))).shape

    def pull(self) -> dict[str, Any]:
        """The Keras weights as a torch state dict (torch tensors where torch is installed), tied names included."""
        from importlib.util import find_spec

        owners = {e.torch_name: e for e in self.weights}
        found: dict[str, Any] = {}
        for e in self.weights:
            if e.kind == "constant" or (
                e.kind == "buffer" and "persistent" in self.report and e.torch_name not in self.report["persistent"]
            ):
                continue
            owner = owners[e.tied_to] if e.tied_to else e
            array = np.ascontiguousarray(owner.to_torch(numpy_of(owner.variable))).reshape(self._torch_shape(owner))
            found[e.torch_name] = _tensor(array) if find_spec("torch") else array
        return found

    # --------------------------------------------------------------------------------------------------- calling
    def flatten_outputs(self, result: Any) -> list[Any]:
        """What the model returned, as a flat list in the order of `outputs`."""
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def keras_inputs(self, arrays: list[Any]) -> Any:
        """torch-ordered arrays, one per input, as the model takes them."""
        moved = [p.to_keras(a) for p, a in zip(self.inputs, arrays, strict=True)]
        return moved if len(moved) > 1 else moved[0]

    @contextlib.contextmanager
    def replay(self, draws: Mapping[int, np.ndarray]) -> Iterator[None]:
        """While open, random site k hands out draws[k] (torch axis order; dropout: its keep mask) instead of
        drawing."""
        import keras

        queues: dict[int, tuple[Any, list[np.ndarray]]] = {}
        for site in sorted(self.random_sites, key=lambda s: s.index):
            array = np.asarray(draws[site.index])
            queue = queues.setdefault(id(site.layer), (site.layer, []))[1]
            queue.append(np.transpose(array, site.perm) if len(site.perm) == array.ndim else array)
        patched = []
        try:
            for layer, queue in queues.values():
                if isinstance(layer, keras.layers.Dropout):
                    rate = layer.rate

                    def call(
                        x: Any, training: bool | None = None, queue: list[np.ndarray] = queue, rate: float = rate
                    ) -> Any:
                        if not training:
                            return x
                        return x * keras.ops.cast(queue.pop(0), x.dtype) / (1 - rate) if rate < 1 else x * 0

                    layer.call = call
                else:
                    layer.replay = queue
                patched.append(layer)
            yield
        finally:
            for layer in patched:
                if isinstance(layer, keras.layers.Dropout):
                    del layer.call
                else:
                    layer.replay = None

    @contextlib.contextmanager
    def record(self) -> Iterator[Callable[[bool], dict[int, np.ndarray]]]:
        """While open, the random sites keep what they draw. The function that it gives turns what one call of the model
        in train mode (True) or eval mode drew into `replay`'s form; {} where not every site that draws was seen, as
        under a JAX transformation."""
        from .random_sites import collect, recording

        with recording(self.random_sites) as drawn:
            yield lambda training: collect(self.random_sites, drawn, training)

    def with_dtype(self, dtype: str) -> Conversion:
        """The same graph in another floating dtype ("float64"), emitted again with the current weights."""
        if self._remake is None:
            raise UsageError("a loaded conversion has no graph to retype; convert the module again")
        other = self._remake(dtype)
        current = {e.torch_name: e for e in self.weights}
        for e in other.weights:
            if e.torch_name in current and e.tied_to is None and e.kind != "constant":
                e.variable.assign(numpy_of(current[e.torch_name].variable).astype(numpy_of(e.variable).dtype))
        return other

    # ---------------------------------------------------------------------------------------------------- saving
    def metadata(self) -> dict[str, Any]:
        """JSON-able: the weight map, input and output layout, versions, hash of the weights, options."""
        import keras

        from .assemble import layer_paths

        digest = hashlib.sha256()
        for e in self.weights:
            if e.tied_to is None:
                digest.update(e.torch_name.encode() + np.ascontiguousarray(numpy_of(e.variable)).tobytes())
        return {
            "schema": SCHEMA,
            "inputs": [p.to_data() for p in self.inputs],
            "outputs": [p.to_data() for p in self.outputs],
            "output_structure": self.output_structure,
            "output_constants": {str(k): v for k, v in self.output_constants.items()},
            "weights": [e.to_data() for e in self.weights],
            "random_sites": sites_to_data(self.random_sites, layer_paths(self.model)),
            "options": {"mode": self.mode, "layout": self.layout, "batchnorm": self.batchnorm},
            "bounds": {k: list(v) for k, v in self.bounds.items()},
            "versions": {**self.report.get("versions", {}), "keras": keras.__version__},
            "weights_sha256": digest.hexdigest(),
            "report": {k: v for k, v in self.report.items() if k != "seconds"},  # times differ at every conversion
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.keras` file with the metadata inside (isomorph.json); whole or not at all."""
        path = Path(path)
        if path.suffix != ".keras":
            raise UsageError(f"{path}: the model is written as a .keras file; give a name that ends in .keras")
        with whole(path) as file:
            self.model.save(file)
            extra = {METADATA: json.dumps(self.metadata(), default=str, sort_keys=True).encode()}
            exact = exact_constants.exact_constants(self)
            if exact:
                extra[exact_constants.FILE] = exact_constants.to_bytes(exact)
            _finish(file, extra)


def load(path: str | os.PathLike[str]) -> Conversion:
    """A saved conversion: the model, its weight map and ports. UsageError where the file is none of ours."""
    import keras

    from . import layers  # noqa: F401  registers what the file may hold

    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read(METADATA))
            kept = archive.read(exact_constants.FILE) if exact_constants.FILE in archive.namelist() else b""
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(f"{path}: not a .keras file written by isomorph ({METADATA} is not in it)") from error
    return _around(keras.models.load_model(path), data, exact_constants.from_bytes(kept) if kept else {})


def _around(model: Any, data: dict[str, Any], exact: dict[str, np.ndarray]) -> Conversion:
    """The conversion that `data` (see `metadata`) describes around its model. exact: its constants before rounding."""
    weights = []
    for e in data["weights"]:
        location = tuple(e["location"])
        variable = variable_at(model, location)
        if e["tied_to"] is None and e["kind"] == "parameter":
            variable.trainable = e["trainable"]
        fields = {k: e[k] for k in ("torch_name", "kind", "trainable", "tied_to", "dtype")}
        weights.append(
            WeightEntry(variable=variable, transform=Transform.from_data(e["transform"]), location=location, **fields)
        )

    def remake(dtype: str) -> Conversion:
        from .keras_dtype import with_dtype

        other = _around(with_dtype(model, dtype), _retyped(data, dtype), exact)
        if dtype == "float64":
            exact_constants.assign(other.weights, exact)
        return other

    return Conversion(
        model,
        tuple(_port(p) for p in data["inputs"]),
        tuple(_port(p) for p in data["outputs"]),
        tuple(weights),
        data["output_structure"],
        **data["options"],
        report=data["report"],
        random_sites=sites_from_data(data.get("random_sites", []), model),
        bounds={k: (v[0], v[1]) for k, v in data["bounds"].items()},
        output_constants={int(k): v for k, v in data["output_constants"].items()},
        _remake=remake,
    )


def _retyped(data: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The metadata with every floating dtype of ports and weights exchanged."""

    def of(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "dtype": dtype if item["dtype"] in FLOATS else item["dtype"]} for item in items]

    return {**data, "inputs": of(data["inputs"]), "outputs": of(data["outputs"]), "weights": of(data["weights"])}


def _port(data: dict[str, Any]) -> Port:
    return Port(
        data["name"],
        data["dtype"],
        tuple(data["dims"]),
        None if data["permutation"] is None else tuple(data["permutation"]),
    )


def _finish(archive: Path, extra: dict[str, bytes]) -> None:
    """Add the `extra` files, and take out what Keras writes of the moment: dates and object ids. The same model gives
    the same bytes."""
    plain = archive.with_name(f"{archive.name}.tmp")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(plain, "w") as new:
        for name in sorted(old.namelist()):
            info = zipfile.ZipInfo(name, DATE)
            if name == "config.json":
                new.writestr(info, _renumbered(old.read(name).decode()))
            elif name == "metadata.json":
                new.writestr(info, json.dumps({**json.loads(old.read(name)), "date_saved": "1980-01-01@00:00:00"}))
            else:
                with old.open(name) as source, new.open(info, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        for name in sorted(extra):
            new.writestr(zipfile.ZipInfo(name, DATE), extra[name])
    os.replace(plain, archive)


def _renumbered(config: str) -> str:
    """Keras names shared objects by memory address: number them in order of appearance."""
    numbers: dict[str, int] = {}
    return re.sub(
        r'("shared_object_id": )(\d+)', lambda m: f"{m[1]}{numbers.setdefault(m[2], len(numbers) + 1)}", config
    )


def _tensor(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
